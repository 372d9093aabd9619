/*
 * Exercise 08.4: where whole numbers and floats cross.
 *
 * The lesson's chart of outliers has lines of two kinds. Many normal numbers (root mean square 1)
 * share a scale with one that is `outlier`, which is larger than all of them. What the others lose
 * in whole numbers from -largest to largest is the lesson's formula, error_whole() (127: INT8, 7:
 * INT4). Derive the other kind of line, and where the two meet.
 *
 *   error_float()   ||w' - w|| / ||w|| in a float with so many bits of fraction (E4M3 has 3, E5M2
 *                   2), as long as nothing falls beneath its smallest numbers. x lies somewhere in
 *                   [2^n, 2^(n + 1)); let it be equally likely anywhere in there, and the step is
 *                   2^n / 2^fraction. As a share of x's own root mean square
 *   crossing()      the outlier for which both are the same. Below it whole numbers are better
 *   bits_more       how many bits of fraction more a float must have for the crossing to lie at a
 *                   quarter of where it was
 *
 * POINTS: 3
 */
#include <math.h>

double error_whole(double outlier, int largest);
double error_float(int fraction);
double crossing(int largest, int fraction);
extern const int bits_more;

double error_whole(double outlier, int largest) { return outlier / largest / sqrt(12); }

double error_float(int fraction) { return pow(2, -fraction - 1); }

double crossing(int largest, int fraction) { return largest * pow(2, -fraction - 1); }

const int bits_more = 0;
