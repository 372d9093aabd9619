/* The predictions against the chapter's gptq(). */
#include "08_quant/methods/gptq.h"

#include <criterion/criterion.h>
#include <math.h>

extern const double nearest[3], gptq_says[3], lost_nearest, lost_gptq;

static const float tokens[3][3] = {{4, 0, 0}, {2, 4, 0}, {3, 2, 4}}, w[3] = {0.7f, -1.4f, 127};

static double lost(const float *to) {
    double sum = 0;
    for (int t = 0; t < 3; t++) {
        double y = 0;
        for (int j = 0; j < 3; j++) y += (double)tokens[t][j] * ((double)to[j] - w[j]);
        sum += y * y;
    }
    return sum;
}

Test(gptq_by_hand, as_the_chapter_has_it) {
    float gram[9] = {0}, scale, rounded[3], by_gptq[3] = {w[0], w[1], w[2]};
    Error err;
    QuantFormat f = {U8, 1, 0, false};
    for (int i = 0; i < 27; i++) gram[i / 3 % 9] += tokens[i % 3][i / 9] * tokens[i % 3][i / 3 % 3];
    cr_assert(quant_round_trip(rounded, NULL, w, 1, 3, &f, &err) == 0, "%s", err.text);
    cr_assert(gptq(by_gptq, &scale, gram, 1, 3, &f, (GptqSettings){0}, &err) == 0, "%s", err.text);
    for (int j = 0; j < 3; j++) {
        cr_assert(nearest[j] == (double)rounded[j], "nearest[%d] is not %g", j, nearest[j]);
        cr_assert(gptq_says[j] == (double)by_gptq[j], "gptq_says[%d] is not %g", j, gptq_says[j]);
    }
    cr_assert(fabs(lost_nearest - lost(rounded)) < 0.005, "lost_nearest is not %g", lost_nearest);
    cr_assert(fabs(lost_gptq - lost(by_gptq)) < 0.005, "lost_gptq is not %g", lost_gptq);
}
