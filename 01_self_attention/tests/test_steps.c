/*
 * The six steps to Hopper against plain loops, at lengths of k that fill the ring not at all, once,
 * and several times.
 */
#include "01_self_attention/steps.h"
#include "common/program/testing.h"

#include <math.h>

#ifdef WITH_CUDA

static Context steps_context(void) {
    test_needs_gpu();
    Context ctx = test_context(CUDA, BF16);
    if (!steps_available(ctx.gpu)) cr_skip_test("the steps need sm_90");
    return ctx;
}

Test(steps, copies_are_the_matrix) {
    Context ctx = steps_context();
    Tensor *from = test_normal(&ctx, "from", 1, SHAPE(STEP_SIDE, STEP_SIDE));
    Tensor *to = tensor_new(&ctx, "to", BF16, SHAPE(STEP_SIDE, STEP_SIDE));
    for (int swizzled = 0; swizzled < 2; swizzled++) {
        test_poison(&ctx, to);
        step_copy_cuda(ctx.gpu, to->data, from->data, swizzled);
        check_tensor(&ctx, "copy", to, test_values(&ctx, from), 0);
    }
}

Test(steps, products_are_products) {
    Context ctx = steps_context();
    static const int lengths[] = {64, 128, 256, 320, 1024};
    for (StepWay way = STEP_WGMMA; way < STEP_WAYS; way++)
        for (int i = 0; i < 5; i++) {
            int k = lengths[i], rows = step_rows(way);
            if (way == STEP_WGMMA && k != 64) continue;
            Tensor *a = test_normal(&ctx, "a", 2, SHAPE(rows, k));
            Tensor *b = test_normal(&ctx, "b", 3, SHAPE(k, STEP_SIDE));
            Tensor *c = tensor_new(&ctx, "c", F32, SHAPE(rows, STEP_SIDE));
            float *x = test_values(&ctx, a), *y = test_values(&ctx, b);
            float *want = test_floats(rows * STEP_SIDE);
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < STEP_SIDE; j++) {
                    double sum = 0;
                    for (int p = 0; p < k; p++) sum += (double)x[r * k + p] * y[p * STEP_SIDE + j];
                    want[r * STEP_SIDE + j] = (float)sum;
                }
            test_poison(&ctx, c);
            step_product_cuda(ctx.gpu, way, c->data, a->data, b->data, k);
            check_tensor(&ctx, "product", c, want, 1e-5); /* sums of up to 1024 in F32 */
        }
}

#else

Test(steps, need_cuda) { cr_skip_test("built without nvcc"); }

#endif
