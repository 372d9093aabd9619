/* Against the dequantised weight, and the number of operations. */
#include "08_quant/exercises/counted.h"
#include "08_quant/formats.h"

#include "common/program/testing.h"

static int operations;

int counted_multiply(int a, int b) { return operations++, a * b; }

int counted_add(int a, int b) { return operations++, a + b; }

static void compare(int out, int in, int group) {
    Context ctx = test_context(CPU, F32);
    const float *w = test_normal(&ctx, "w", 1, SHAPE(out, in))->data;
    QuantFormat f = {I4, 1, group, false};
    uint8_t *codes = must_alloc(quant_code_bytes(&f, out, in), 1);
    float *scales = test_floats(quant_scale_count(&f, out, in)), *back = test_floats(out * in);
    float *y = test_floats(out), *want = test_floats(out), *scale_a = test_floats(in / group);
    int8_t *a = must_alloc((size_t)in, 1);
    check_ok(quantise(codes, scales, w, out, in, &f, &err), &err);
    dequantise(back, codes, scales, out, in, &f);
    for (int i = 0; i < in; i++) a[i] = (int8_t)(philox(1, 2, (uint64_t)i).word[0] % 255 - 127);
    for (int g = 0; g < in / group; g++) scale_a[g] = 0.01f * (float)(g + 1);
    for (int o = 0; o < out; o++) {
        double sum = 0;
        for (int i = 0; i < in; i++)
            sum += (double)back[o * in + i] * (double)(scale_a[i / group] * a[i]);
        want[o] = (float)sum;
    }
    operations = 0;
    int4_product(y, (CountedWeight){codes, scales, out, in, group}, a, scale_a);
    check_close("y", y, want, out, 1e-5);
    int most = 2 * out * in + 2 * in + 2 * (in / group);
    cr_assert(operations <= most, "[%d, %d] in groups of %d: %d operations; %d would do", out, in,
              group, operations, most);
}

Test(one_sum_for_all, one_group) { compare(16, 64, 64); }
Test(one_sum_for_all, groups) { compare(33, 256, 32); }
