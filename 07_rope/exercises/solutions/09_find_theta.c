/*
 * Solution 07.9: length theta^(-2i / dim) = 2 pi turns, so theta is the dim / 2i-th power of
 * length / (2 pi turns). The second question has the same exponent: theta's (2i / dim)-th power
 * must grow by the factor. For the last pair, i = dim/2 - 1, that is factor^(dim / (dim - 2)),
 * NTK's formula. (Tempting: NTK's formula for every pair, or theta times the factor itself, which
 * slows the last pair down a little too little.) Pair 0 turns by theta^0 = 1 whatever theta is.
 */
#include <math.h>

double theta_for(int dim, int i, double length, double turns);
double theta_times(int dim, int i, double factor);

double theta_for(int dim, int i, double length, double turns) {
    return pow(length / (2 * M_PI * turns), dim / (2.0 * i));
}

double theta_times(int dim, int i, double factor) { return pow(factor, dim / (2.0 * i)); }
