/* What the lesson says of sqrt(D): the numbers of its table, and the claim, for other seeds too. */
#include "01_self_attention/sharpness.h"
#include "common/program/testing.h"

#include <math.h>

/* The demo's table (seed 1), rounded as there. */
Test(sharpness, the_table_of_the_lesson) {
    static const struct {
        int dim;
        double largest[2], slope[2];
    } rows[] = {
        {4, {0.48, 0.30}, {0.34, 0.34}},
        {64, {0.87, 0.32}, {0.15, 0.35}},
        {1024, {0.97, 0.32}, {0.05, 0.35}},
    };
    for (int i = 0; i < 3; i++) {
        Sharpness s = sharpness(rows[i].dim, 1);
        for (int side = 0; side < 2; side++) {
            /* 0.005 is the table's rounding; logf and sinf may differ in their last bits. */
            cr_expect_float_eq(s.largest[side], rows[i].largest[side], 0.0052, "D %d, %d: %g",
                               rows[i].dim, side, s.largest[side]);
            cr_expect_float_eq(s.slope[side], rows[i].slope[side], 0.0052, "D %d, %d: %g",
                               rows[i].dim, side, s.slope[side]);
        }
    }
}

/* Divided, D makes no difference; as they are, the weights go to 1 and the derivative to 0. */
Test(sharpness, only_divided_scores_forget_the_width) {
    for (uint64_t seed = 2; seed < 5; seed++) {
        Sharpness few = sharpness(4, seed), many = sharpness(512, seed);
        /* Means of 1000 rows whose largest weight has a deviation of about 0.15. */
        cr_assert(fabs(many.largest[1] - few.largest[1]) < 0.05);
        cr_assert(fabs(many.slope[1] - few.slope[1]) < 0.05);
        cr_assert(many.largest[0] > 0.9 && many.slope[0] < few.slope[0] / 4);
    }
}
