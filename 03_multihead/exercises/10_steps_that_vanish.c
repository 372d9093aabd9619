/*
 * Exercise 03.10: steps that vanish.
 *
 * A weight begins at 0, and each step of the optimizer adds 0.001 to it. Numbers in BF16 have 8
 * significant bits: between 1/4 and 1/2 they are 1/512 apart, between 1/2 and 1 twice as far, and
 * so on. Results are rounded to the nearest. Predict:
 *
 *   stuck_at           where the weight is after 1000 steps, if it is kept in BF16 alone
 *   true_value         what a BF16 copy shows then, if the weight itself is kept in F32
 *   step_at_a_third    how far a step takes the weight in BF16 when it is about 1/3
 *   bytes_per_weight   that training keeps for each weight: BF16 for the products; a master, a
 *                      gradient, and Adam's m and v in F32
 *
 * POINTS: 2
 */
extern const double stuck_at, true_value, step_at_a_third;
extern const int bytes_per_weight;

const double stuck_at = 0, true_value = 0, step_at_a_third = 0;
const int bytes_per_weight = 0;
