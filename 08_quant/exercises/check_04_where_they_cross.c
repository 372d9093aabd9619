/* The formulas against rounding many numbers. */
#include "08_quant/formats.h"
#include "common/core/rng.h"

#include <criterion/criterion.h>
#include <math.h>

double error_int8(double outlier);
double error_e4m3(void);
double crossing(void);

enum { IN = 1 << 16 };
static float w[IN], back[IN];

static double measured(DType dtype, double outlier) {
    for (int i = 0; i < IN; i++) w[i] = i ? rng_normal(1, 1, (uint64_t)i) : (float)outlier;
    quant_round_trip(back, NULL, w, 1, IN, &(QuantFormat){dtype, 1, 0, false}, NULL);
    return quant_error(back + 1, w + 1, IN - 1);
}

Test(where_they_cross, int8) {
    for (double outlier = 6; outlier < 200; outlier *= 2)
        cr_assert(fabs(error_int8(outlier) / measured(U8, outlier) - 1) < 0.03,
                  "an outlier of %g: not %g", outlier, error_int8(outlier));
}

/* Normal numbers are not quite equally likely within their powers of two. */
Test(where_they_cross, e4m3) {
    cr_assert(fabs(error_e4m3() / measured(F8_E4M3, 100) - 1) < 0.12, "not %g", error_e4m3());
    double share = sqrt(1.0 / 12) / 8 / sqrt(7.0 / 3);
    cr_assert(fabs(error_e4m3() / share - 1) < 0.01, "not %g", error_e4m3());
}

Test(where_they_cross, both) {
    double x = crossing();
    cr_assert(fabs(error_int8(x) / error_e4m3() - 1) < 0.01, "at %g they are %g and %g", x,
              error_int8(x), error_e4m3());
}
