/*
 * Solution 08.4. Let n be 0: the step is s = 2^-fraction, which leaves s / sqrt(12), and x,
 * equally likely from 1 to 2, has the mean square (8 - 1) / 3. So the error is s / sqrt(28): for
 * E4M3 2.4 %, a little less than the 2.6 % that normal numbers show, which crowd at the lower end
 * of their powers of two. INT8 and E4M3 cross at 127 / (8 sqrt(7/3)) = 10.4. Each bit of fraction
 * halves the float's error, and the crossing with it: two bits.
 *
 * Tempting: the largest relative error, half a step at x = 1, for all. Whole numbers lose the same
 * wherever x lies; a float loses much where x is large, and less where it is small.
 */
#include <math.h>

double error_whole(double outlier, int largest);
double error_float(int fraction);
double crossing(int largest, int fraction);
extern const int bits_more;

double error_whole(double outlier, int largest) { return outlier / largest / sqrt(12); }

double error_float(int fraction) { return pow(2, -fraction) / sqrt(12) / sqrt(7.0 / 3); }

double crossing(int largest, int fraction) { return error_float(fraction) * largest * sqrt(12); }

const int bits_more = 2;
