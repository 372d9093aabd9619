/*
 * Solution 06.3: h = x w / rms(x), so rms(h) = rms(x w) / rms(x), and hnorm(h) = h v / rms(h)
 * = x w v / rms(x w); hnorm(x) = x v / rms(x). So the factor is rms(x) / rms(x w): a number for the
 * whole row. What is lost is w itself, the direction in which the decoder's norm stretches; if all
 * its numbers are equal it stretches in none, and the factor is 1 / w. (Tempting: "w = 1". A norm
 * does not see how long its input is; any other number does as well. It must be positive, or signs
 * turn.)
 */
#include <math.h>

extern const int no_difference;
float factor(const float *x, const float *w, int d);

const int no_difference = 2;

float factor(const float *x, const float *w, int d) {
    double xx = 0, xw = 0;
    for (int j = 0; j < d; j++) {
        xx += (double)x[j] * x[j];
        xw += (double)x[j] * w[j] * x[j] * w[j];
    }
    return (float)sqrt(xx / xw);
}
