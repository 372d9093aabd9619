/* Values and gradients against plain sums over [e | h]. */
#include "common/core/ops.h"

#include "common/program/testing.h"

Tensor *meet(Context *ctx, Tensor *e, Tensor *h, Tensor *eh_proj);

enum { ROWS = 15, H = 12 };

static Tensor *loss(Context *ctx, void *user) {
    Tensor **in = user;
    return weighted_sum(ctx, meet(ctx, in[0], in[1], in[2]), in[3]);
}

Test(sum_instead, of_concat) {
    Context ctx = test_context(CPU, F32);
    Tensor *in[4] = {test_normal(&ctx, "e", 1, SHAPE(3, 5, H)),
                     test_normal(&ctx, "h", 2, SHAPE(3, 5, H)),
                     test_normal(&ctx, "eh_proj", 3, SHAPE(H, 2 * H)),
                     test_normal(&ctx, "c", 4, SHAPE(3, 5, H))};
    float want[ROWS * H];
    const float *e = in[0]->data, *h = in[1]->data, *w = in[2]->data;
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < H; o++) {
            double sum = 0;
            for (int i = 0; i < H; i++)
                sum += e[r * H + i] * w[o * 2 * H + i] + h[r * H + i] * w[o * 2 * H + H + i];
            want[r * H + o] = (float)sum;
        }
    check_tensor(&ctx, "meet", meet(&ctx, in[0], in[1], in[2]), want, 1e-5);
    in[3]->requires_grad = false;
    check_gradients(&ctx, "meet", loss, in, in, 3, 20, 1e-2, 1e-2);
}
