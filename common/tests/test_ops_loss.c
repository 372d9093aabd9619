/*
 * Where a model begins and ends: the embedding and the cross entropy, against plain loops in double
 * precision and finite differences, on every device and dtype there is.
 */
#include "common/tests/test_ops.h"

/* ---- embedding ---- */

CONTEXT_TEST(embedding, rows_and_their_gradient) {
    enum {
        VOCAB = 37,
        D = 19,
        ROWS = 600
    }; /* more rows than one block ranks; ids repeat; 36 never occurs */
    Tensor *table = test_normal(&ctx, "table", 1, SHAPE(VOCAB, D));
    table->grad = tensor_new(&ctx, "table", F32, SHAPE(VOCAB, D));
    test_poison(&ctx, table->grad);
    int32_t ids[ROWS];
    for (int i = 0; i < ROWS; i++)
        ids[i] = i % 5 == 0 ? 3 : (int32_t)(philox(1, 2, (uint64_t)i).word[0] % 36);
    Tensor *t = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(2, ROWS / 2));
    ctx.recording = true;
    Tensor *y = embedding(&ctx, table, t);
    check_shape("test", y, dtype, SHAPE(2, ROWS / 2, D));
    float *th = test_values(&ctx, table), *want = test_floats(ROWS * D);
    for (int i = 0; i < ROWS; i++) memcpy(want + i * D, th + ids[i] * D, D * sizeof *want);
    check_tensor(&ctx, "embedding", y, want, 0); /* a copy is exact */

    Tensor *c = random_constant(&ctx, 4, y);
    tape_backward(&ctx, weighted_sum(&ctx, y, c));
    float *ch = test_floats(ROWS * D), grad[VOCAB * D] = {0};
    tensor_download(&ctx, ch, c);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < D; j++) grad[ids[i] * D + j] += ch[i * D + j];
    /* Up to 133 numbers are summed for id 3; in BF16 each was rounded. */
    check_tensor(&ctx, "embedding: dtable", table->grad, grad, 2 * tolerance_of(dtype, 133));
}

/* ---- cross entropy ---- */

DEVICE_TEST(cross_entropy, loss_and_gradient_by_plain_loops) {
    for (int k = 0; k < SIZES; k++) {
        Context ctx = test_context(device, dtype);
        int64_t rows = sizes[k][0], vocab = sizes[k][1] * 9 + 1;
        Tensor *logits = test_normal(&ctx, "logits", 1, SHAPE(rows, vocab));
        int32_t *targets = malloc((size_t)rows * sizeof *targets);
        double total = 0;
        int counted = 0;
        for (int64_t i = 0; i < rows; i++) {
            targets[i] = i % 4 == 3 ? IGNORE_TARGET : (int32_t)((i * 31) % vocab);
            counted += targets[i] >= 0;
        }
        Tensor *t = tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(rows));
        float *z = test_values(&ctx, logits), *grad = test_floats(rows * vocab);
        for (int64_t i = 0; i < rows; i++) {
            double s = 0;
            for (int64_t j = 0; j < vocab; j++) s += exp(z[i * vocab + j]);
            if (targets[i] >= 0) total += log(s) - z[i * vocab + targets[i]];
            for (int64_t j = 0; j < vocab; j++)
                grad[i * vocab + j] =
                    targets[i] < 0
                        ? 0
                        : (float)((exp(z[i * vocab + j]) / s - (j == targets[i])) / counted);
        }
        ctx.recording = true;
        Tensor *loss = cross_entropy(&ctx, logits, t);
        float want = (float)(total / counted);
        /* The loss is F32 on every device; the logits in BF16 are what they are. */
        check_tensor(&ctx, "cross_entropy", loss, &want, 4 * tolerance_of(F32, vocab));
        tape_backward(&ctx, loss);
        double tolerance = 4 * tolerance_of(F32, vocab) + elementwise_tolerance(dtype);
        check_tensor(&ctx, "cross_entropy: dlogits", logits->grad, grad, tolerance);
        context_free(&ctx);
    }
}

/* The head in one operation is the two of which it is made, padding or not, whatever the loss is
 * multiplied by. */
DEVICE_TEST(cross_entropy, with_its_linear_layer) {
    const int64_t vocabs[] = {1, 63, 64, 130, 1001};
    for (size_t k = 0; k < sizeof vocabs / sizeof *vocabs; k++) {
        Context ctx = test_context(device, dtype);
        int64_t rows = 37, in = 24, vocab = vocabs[k];
        int32_t targets[37];
        for (int i = 0; i < rows; i++)
            targets[i] = i % 4 == 3 ? IGNORE_TARGET : (int32_t)((i * 31) % vocab);
        float *grads[2][2];
        float losses[2];
        for (int one = 0; one < 2; one++) {
            ctx.recording = false;
            Tensor *x = test_normal(&ctx, "x", 1, SHAPE(rows, in));
            Tensor *w = test_normal(&ctx, "w", 2, SHAPE(vocab, in));
            Tensor *t = tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(rows));
            w->grad = arena_alloc(&ctx.host, sizeof *w->grad); /* as Params has it: F32 */
            *w->grad = *tensor_new(&ctx, "dw", F32, SHAPE(vocab, in));
            test_poison(&ctx, w->grad);
            ctx.recording = true;
            Tensor *loss = one ? linear_cross_entropy(&ctx, x, w, t)
                               : cross_entropy(&ctx, linear(&ctx, x, w, NULL), t);
            tensor_download(&ctx, &losses[one], loss);
            float factor = k % 2 ? 0.25f : 1;
            Tensor *c = tensor_copy_in(&ctx, "factor", F32, &factor, SHAPE(1));
            tape_backward(&ctx, weighted_sum(&ctx, loss, c));
            grads[one][0] = test_gradient(&ctx, x);
            grads[one][1] = test_gradient(&ctx, w);
            context_reset(&ctx);
        }
        /* Products of other shapes sum in another order, and BF16 logits are rounded: a few units
         * of either. With one column the loss is 0 and all gradients are. */
        double tolerance = 8 * (tolerance_of(F32, vocab) + elementwise_tolerance(dtype));
        check_close("loss", &losses[1], &losses[0], 1, vocab == 1 ? 1e-6 : tolerance);
        for (int g = 0; g < 2 && vocab > 1; g++)
            check_close(g ? "dw" : "dx", grads[1][g], grads[0][g], g ? vocab * in : rows * in,
                        tolerance);
        context_free(&ctx);
    }
}

CONTEXT_TEST(cross_entropy, extremes) {
    float z[3][4] = {{1e4f, -1e4f, 0, 0}, {-1e4f, -1e4f, -1e4f, -1e4f}, {0, NAN, 0, 0}};
    int32_t targets[2] = {0, 2};
    Tensor *t = tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(2));
    Tensor *loss = cross_entropy(&ctx, tensor_copy_in(&ctx, "logits", dtype, z, SHAPE(2, 4)), t);
    float want = logf(4) / 2; /* a certain row costs nothing, four equal logits cost log 4 */
    check_tensor(&ctx, "huge logits", loss, &want, 8 * 0x1p-24);

    loss = cross_entropy(&ctx, tensor_copy_in(&ctx, "logits", dtype, z[1], SHAPE(2, 4)), t);
    float *value = test_values(&ctx, loss);
    cr_assert(isnan(value[0]), "a NaN logit must make the loss NaN, not %g", value[0]);

    int32_t none[2] = {IGNORE_TARGET, IGNORE_TARGET};
    t = tensor_copy_in(&ctx, "targets", I32, none, SHAPE(2));
    Tensor *logits = test_normal(&ctx, "logits", 1, SHAPE(2, 4));
    ctx.recording = true;
    loss = cross_entropy(&ctx, logits, t);
    tape_backward(&ctx, loss);
    float zeros[8] = {0};
    check_tensor(&ctx, "no target at all: loss", loss, zeros, 0);
    check_tensor(&ctx, "no target at all: gradient", logits->grad, zeros, 0);
}
