/*
 * Solution 03.10. Between 1/4 and 1/2 half of the distance is 1/1024, a little less than 0.001: the
 * step is rounded UP to 1/512, so the weight runs twice as fast as it should. From 1/2 on half of
 * the distance is 1/512, more than 0.001: every step is rounded away, and the weight stays at 1/2
 * for ever. The tempting wrong answer is that errors average out. They would, if the rounding of
 * one step knew nothing of the next; here it is the same rounding each time.
 */
extern const double stuck_at, true_value, step_at_a_third;
extern const int bytes_per_weight;

const double stuck_at = 0.5, true_value = 1, step_at_a_third = 1.0 / 512;
const int bytes_per_weight = 2 + 4 + 4 + 4 + 4;
