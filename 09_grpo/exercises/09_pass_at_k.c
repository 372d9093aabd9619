/*
 * Exercise 09.9: one of k answers.
 *
 * A question was answered n times, and c of the answers are right. pass@k is the probability that k
 * answers, drawn at random from the n without putting any back, hold a right one. Return it,
 * exactly, for 1 <= k <= n and 0 <= c <= n, with n up to a thousand (binomials of that size are no
 * doubles: multiply ratios).
 *
 * This takes c / n for each answer's chance, as if answers were put back: on average over many
 * questions that says too much, or too little?
 *
 * POINTS: 2
 */
#include <math.h>

double pass_at_k(int n, int c, int k);

double pass_at_k(int n, int c, int k) { return 1 - pow(1 - (double)c / n, k); }
