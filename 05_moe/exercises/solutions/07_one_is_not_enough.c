/*
 * Solution 05.7: divided weights always sum to 1, so only their differences can be learned.
 *
 * With S the sum of the chosen scores, ds_j = (dw_j - sum_i dw_i w_i) / S: how much better the
 * expert is than the weighted mean of the chosen. rivals: the mean is 3/4 - 1/4 = 1/2, so
 * (1 - 1/2) / 0.8 and (-1 - 1/2) / 0.8. If all have the same gradient, each is the mean, and
 * nothing is learned; a single expert is always its own mean. The tempting answer for `one` is
 * 1 / 0.6: the derivative of s / S with S held fast. But S is s.
 */
extern const float rivals[2], agreed[2], agreed_alone[2], one, one_alone;
extern const int learns_that_both_were_bad, learns_that_the_one_was_bad;

const float rivals[2] = {0.625f, -1.875f};
const float agreed[2] = {0, 0};
const float agreed_alone[2] = {1, 1};
const float one = 0;
const float one_alone = 1;
const int learns_that_both_were_bad = 0;
const int learns_that_the_one_was_bad = 0;
