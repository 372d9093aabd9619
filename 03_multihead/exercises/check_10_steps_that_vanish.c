/* Checks exercise 03.10 by taking the steps. */
#include "common/core/dtype.h"

#include <criterion/criterion.h>

extern const double stuck_at, true_value, step_at_a_third;
extern const int bytes_per_weight;

static float rounded(float x) { return bf16_to_float(bf16_from_float(x)); }

Test(vanish, a_thousand_steps) {
    float weight = 0, master = 0, at_a_third = 0;
    for (int i = 0; i < 1000; i++) {
        float next = rounded(weight + 0.001f);
        if (weight <= 1.0f / 3) at_a_third = next - weight;
        weight = next;
        master += 0.001f;
    }
    cr_assert(stuck_at == weight, "stuck_at is not %g", stuck_at);
    cr_assert(true_value == rounded(master), "true_value is not %g", true_value);
    cr_assert(step_at_a_third == at_a_third, "step_at_a_third is not %g", step_at_a_third);
}

Test(vanish, bytes) {
    int bytes = 2 + 4 * (int)sizeof(float);
    cr_assert(bytes_per_weight == bytes, "bytes_per_weight is not %d", bytes_per_weight);
}
