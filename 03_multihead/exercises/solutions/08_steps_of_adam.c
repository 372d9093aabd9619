/*
 * Solution 03.8. Second step: m = 0.9 * 0.3 + 0.1 = 0.37, divided by 0.19; v = 0.999 * 0.009 +
 * 0.001 = 0.009991, divided by 0.001999; 1.947 / 2.236 = 0.871. Third: m = 0.9 * 0.37 - 0.2 =
 * 0.133, divided by 0.271; v = 0.999 * 0.009991 + 0.004 = 0.013981, divided by 0.002997; 0.4908 /
 * 2.1599 = 0.227.
 *
 * Without the corrections m and v are both too small, but v far more than m, for its beta is nearer
 * to 1: the first step is 0.3 / sqrt(0.009) = 3.16 instead of 1. The tempting wrong answer is that
 * steps without corrections are too short. With these betas they are too long, and just while v is
 * a guess.
 *
 * The outlier: m has forgotten it after some ten steps, v after some thousand. So the weight makes
 * one long step and then crawls: 100^2 * 0.001 = 10 is in v, its root 3. This is why gradients are
 * clipped.
 */
extern const double second, third, first_plain, second_plain;
extern const int outlier;

const double second = 0.871, third = 0.2272, first_plain = 3.1623, second_plain = 0.37 / 0.099955;
const int outlier = 'b';
