/*
 * Exercise 07.9: find theta.
 *
 * The lesson goes from theta to frequencies. Go the other way. A head has dim / 2 pairs, and pair i
 * turns by theta^(-2i / dim) per token.
 *
 *   theta_for()      the theta with which pair i makes `turns` turns in a text of `length` tokens
 *   theta_times()    by what theta must be multiplied so that pair i turns `factor` times as slowly
 *                    as before. (NTK asks it of the last pair.)
 *
 * i is at least 1. Why is there no such theta for pair 0?
 *
 * POINTS: 2
 */
#include <math.h>

double theta_for(int dim, int i, double length, double turns);
double theta_times(int dim, int i, double factor);

double theta_for(int dim, int i, double length, double turns) { return 10000; }

double theta_times(int dim, int i, double factor) { return factor; }
