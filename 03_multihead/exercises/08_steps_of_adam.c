/*
 * Exercise 03.8: steps of Adam.
 *
 * One weight, beta1 = 0.9, beta2 = 0.999, no weight decay, no clipping, eps so small that it does
 * not matter. Its gradients in the first three steps are 3, 1 and -2. How far does it move, in
 * units of the learning rate? (Positive: against the gradient's sign, as usual.)
 *
 *   second, third   in the second step, and in the third
 *   first_plain     in the first step, if nobody had divided m and v by their corrections
 *   second_plain    the same in the second step
 *   outlier         'a', 'b' or 'c'. Another weight has gradients of 1 in every step, but for one
 *                   of 100, by accident. Fifty steps later each step takes it
 *                       a) farther than before   b) less far than before   c) as far as before
 *
 * POINTS: 2
 */
extern const double second, third, first_plain, second_plain;
extern const int outlier;

const double second = 0, third = 0, first_plain = 0, second_plain = 0;
const int outlier = '?';
