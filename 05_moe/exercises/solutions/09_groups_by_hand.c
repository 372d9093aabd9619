/*
 * Solution 05.9. With the bias: 0.6, 0.1, 0.6, 0.5, 0.4, 0.8. The groups' sums are 0.7, 1.1 and
 * 1.2, so group 0 is out, and with it the expert of the highest score. The three best of the others
 * are 5, 2 and 3, with scores 0.8, 0.5, 0.4, in all 1.7. With all groups open expert 0 ties with
 * expert 2 at 0.6; both are in, and 3 is out.
 *
 * Two tempting wrong answers: to judge a group by its best expert alone, as V2 does (0.6, 0.6, 0.8:
 * a tie, and group 0 stays), and to put the bias into the weights (0.8, 0.6, 0.5, in all 1.9).
 */
extern const int group_out, chosen[3], without_groups;
extern const double weights[3];

const int group_out = 0, chosen[3] = {5, 2, 3}, without_groups = 0;
const double weights[3] = {0.8 / 1.7, 0.5 / 1.7, 0.4 / 1.7};
