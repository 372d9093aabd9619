/*
 * Exercise 08.4: where INT8 and E4M3 cross.
 *
 * Derive two lines of the lesson's chart of outliers. Many normal numbers (root mean square 1)
 * share a scale with one that is `outlier`, which is larger than all of them.
 *
 *   error_int8()    the error of the others in INT8, ||w' - w|| / ||w||, where it is not larger
 *                   than about a half: steps are outlier / 127, and what is rounded off is equally
 *                   likely anywhere within a step
 *   error_e4m3()    the same in E4M3, as long as nothing falls beneath its smallest numbers. x lies
 *                   somewhere in [2^n, 2^(n + 1)); let it be equally likely anywhere in there, and
 *                   the step is 2^n / 8. As a share of x's own root mean square
 *   crossing()      the outlier for which both are the same. Below it whole numbers are better
 *
 * POINTS: 3
 */
#include <math.h>

double error_int8(double outlier);
double error_e4m3(void);
double crossing(void);

double error_int8(double outlier) { return outlier / 127; }

double error_e4m3(void) { return 1.0 / 16; }

double crossing(void) { return 127.0 / 16; }
