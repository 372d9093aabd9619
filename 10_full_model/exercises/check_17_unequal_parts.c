/* Exercise 10.17's check. */
#include "10_full_model/exercises/17_unequal_parts.h"

#include <criterion/criterion.h>
#include <math.h>

Test(parts, unequal) {
    static const int64_t targets[][4] = {{900, 100}, {1, 2, 3, 4}, {0, 7, 0, 1}, {5, 5, 5, 5}, {0}};
    static const int ranks[] = {2, 4, 4, 4, 3};
    for (int c = 0; c < 5; c++) {
        double all = 0, count = 0, mean = 0;
        for (int r = 0; r < ranks[c]; r++) {
            double sum = 0; /* targets with losses 1, 4, 9, ... of rank r */
            for (int64_t i = 1; i <= targets[c][r]; i++) sum += (double)(i * i) + 3 * r;
            all += sum, count += (double)targets[c][r];
            double loss = targets[c][r] ? sum / (double)targets[c][r] : 0;
            double weight = weight_of(r, targets[c], ranks[c]);
            cr_assert(isfinite(weight), "case %d: the weight of rank %d is %g", c, r, weight);
            mean += weight * loss / ranks[c];
        }
        double truth = count > 0 ? all / count : 0;
        cr_assert(fabs(mean - truth) <= 1e-9 * (1 + truth), "case %d: %g is not the mean", c, mean);
    }
}
