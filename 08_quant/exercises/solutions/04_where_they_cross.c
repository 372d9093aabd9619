/*
 * Solution 08.4: a step of s leaves s / sqrt(12). For E4M3 let n be 0: s is 1/8, and x, equally
 * likely from 1 to 2, has the mean square (8 - 1) / 3. So the error is 1 / (8 sqrt(28)) = 2.4 %, a
 * little less than the 2.6 % that normal numbers show, which crowd at the lower end of their powers
 * of two. The crossing is at 127 / (8 sqrt(7/3)) = 10.4. (Tempting: the largest relative error,
 * 1/16, for all.)
 */
#include <math.h>

double error_int8(double outlier);
double error_e4m3(void);
double crossing(void);

double error_int8(double outlier) { return outlier / 127 / sqrt(12); }

double error_e4m3(void) { return 1.0 / 8 / sqrt(12) / sqrt(7.0 / 3); }

double crossing(void) { return 127 / (8 * sqrt(7.0 / 3)); }
