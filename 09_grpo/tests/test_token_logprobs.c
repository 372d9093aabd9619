/*
 * Log-probabilities of chosen tokens: PyTorch's (tools/goldens/09_grpo.py), a definition in double
 * precision for ragged sizes, finite differences, cross entropy.
 */
#include "09_grpo/loss/token_logprobs.h"

#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "09_grpo/goldens/policy.safetensors"

/* [rows, vocab] of 0 and 1 as lists; rows that keep all become empty lists, which say the same. */
static TokenSupport support_of(Context *ctx, const float *kept, int rows, int vocab) {
    int32_t *starts = must_alloc((size_t)rows + 1, sizeof *starts);
    int32_t *ids = must_alloc((size_t)(rows * vocab), sizeof *ids);
    int count = 0;
    for (int i = 0; i < rows; i++) {
        int before = count;
        for (int j = 0; j < vocab; j++)
            if (kept[i * vocab + j] != 0) ids[count++] = j;
        if (count - before == vocab) count = before;
        starts[i + 1] = count;
    }
    return (TokenSupport){tensor_copy_in(ctx, "starts", I32, starts, SHAPE(rows + 1)),
                          tensor_copy_in(ctx, "ids", I32, ids, SHAPE(rows * vocab))};
}

/*
 * The golden logits are numbers that BF16 holds, and log-probabilities are F32: so forward BF16 is
 * as exact as F32. Gradients are rounded to BF16, once.
 */
CONTEXT_TEST(token_logprobs, agrees_with_goldens) {
    SafeTensors *file = golden_open(GOLDEN);
    for (int kept = 0; kept < 2; kept++) {
        Tensor *logits = golden_tensor(&ctx, file, "logits");
        Tensor *targets = golden_tensor(&ctx, file, "targets");
        int rows = (int)tensor_rows(logits), vocab = (int)tensor_dim(logits, -1);
        TokenSupport support = support_of(&ctx, golden_values(file, "support"), rows, vocab);
        const Tensor *c =
            tensor_copy_in(&ctx, "c", F32, golden_values(file, "c"), targets->shape, targets->ndim);
        ctx.recording = true;
        TokenLogprobs y = token_logprobs(&ctx, logits, targets, 0.7f, kept ? &support : NULL);
        check_tensor(&ctx, "logp", y.logprobs, golden_values(file, kept ? "logp.kept" : "logp.all"),
                     1e-6);
        check_tensor(&ctx, "entropy", y.entropy,
                     golden_values(file, kept ? "entropy.kept" : "entropy.all"), 1e-6);
        tape_backward(&ctx, weighted_sum(&ctx, y.logprobs, c));
        check_close("gradient", test_gradient(&ctx, logits),
                    golden_values(file, kept ? "grad.kept" : "grad.all"), tensor_count(logits),
                    dtype == BF16 ? 2 * tolerance_of(BF16, 1) : 1e-6);
        context_reset(&ctx);
    }
}

/* logp, entropy [rows] and dlogits [rows, vocab] of sum(logp c), by their definition. */
static void by_definition(float *logp, float *entropy, float *dlogits, const float *logits,
                          const int32_t *targets, const float *c, int rows, int vocab, double T) {
    for (int i = 0; i < rows; i++) {
        const float *z = logits + i * vocab;
        double largest = -INFINITY, sum = 0, h = 0;
        bool action = targets[i] != IGNORE_TARGET;
        for (int j = 0; j < vocab; j++) largest = fmax(largest, z[j] / T);
        for (int j = 0; j < vocab; j++) sum += exp(z[j] / T - largest);
        for (int j = 0; j < vocab; j++) {
            double p = exp(z[j] / T - largest) / sum;
            h -= p > 0 ? p * log(p) : 0;
            dlogits[i * vocab + j] = action ? (float)(c[i] * ((j == targets[i]) - p) / T) : 0;
        }
        logp[i] = action ? (float)(z[targets[i]] / T - largest - log(sum)) : 0;
        entropy[i] = action ? (float)h : 0;
    }
}

/* Fewer tokens than a warp has threads, and many; rows that are no actions; a token that cannot
 * be. */
DEVICE_TEST(token_logprobs, ragged_sizes) {
    enum { ROWS = 5 };
    static const int sizes[] = {2, 31, 33, 127, 1000, 5003};
    for (int k = 0; k < 6; k++) {
        Context ctx = test_context(device, dtype);
        int vocab = sizes[k], n = ROWS * vocab;
        Tensor *logits = test_normal(&ctx, "logits", 40, SHAPE(ROWS, vocab));
        float *z = test_values(&ctx, logits), *grad = test_floats(n), logp[ROWS], entropy[ROWS];
        for (int i = 0; i < n; i++) z[i] *= 4;
        z[vocab + 1] = -INFINITY;
        tensor_upload(&ctx, logits, z);
        int32_t targets[ROWS] = {0, 0, IGNORE_TARGET, vocab / 2, vocab - 1};
        float c[ROWS] = {1, -2, 3, 0.5f, -0.25f};
        by_definition(logp, entropy, grad, z, targets, c, ROWS, vocab, 1.3);
        Tensor *t = tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(ROWS));
        ctx.recording = true;
        TokenLogprobs y = token_logprobs(&ctx, logits, t, 1.3f, NULL);
        /* sums of up to 5003 exponentials, each good to 1e-7 */
        check_tensor(&ctx, "logp", y.logprobs, logp, 2e-6);
        check_tensor(&ctx, "entropy", y.entropy, entropy, 2e-6);
        tape_backward(
            &ctx, weighted_sum(&ctx, y.logprobs, tensor_copy_in(&ctx, "c", F32, c, SHAPE(ROWS))));
        check_close("gradient", test_gradient(&ctx, logits), grad, n,
                    dtype == BF16 ? 2 * tolerance_of(BF16, 1) : 2e-6);
        context_free(&ctx);
    }
}

/* At temperature 1 their mean is minus the cross entropy, and so is the gradient. */
CPU_TEST(token_logprobs, are_minus_cross_entropy) {
    enum { N = 7, V = 19 };
    int32_t ids[N] = {3, 0, 18, IGNORE_TARGET, 5, 5, 11};
    float c[N];
    for (int i = 0; i < N; i++) c[i] = -1.0f / 6;
    Tensor *a = test_normal(&ctx, "a", 50, SHAPE(N, V)),
           *b = test_normal(&ctx, "b", 50, SHAPE(N, V));
    Tensor *targets = tensor_copy_in(&ctx, "targets", I32, ids, SHAPE(N));
    ctx.recording = true;
    Tensor *loss = weighted_sum(&ctx, token_logprobs(&ctx, a, targets, 1, NULL).logprobs,
                                tensor_copy_in(&ctx, "c", F32, c, SHAPE(N)));
    tape_backward(&ctx, loss);
    ctx.recording = true;
    Tensor *same = cross_entropy(&ctx, b, targets);
    tape_backward(&ctx, same);
    check_close("loss", test_values(&ctx, loss), test_values(&ctx, same), 1, 1e-6);
    check_close("gradient", test_gradient(&ctx, a), test_gradient(&ctx, b), N * V, 1e-6);
}

typedef struct Head {
    Tensor *x, *w, *targets;
    const Tensor *c;
    TokenSupport support;
} Head;

static Tensor *head_loss(Context *ctx, void *user) {
    Head *h = user;
    Tensor *logits = linear(ctx, h->x, h->w, NULL);
    return weighted_sum(ctx, token_logprobs(ctx, logits, h->targets, 0.8f, &h->support).logprobs,
                        h->c);
}

CPU_TEST(token_logprobs, finite_differences) {
    enum { N = 4, V = 6, D = 5 };
    int32_t ids[N] = {2, IGNORE_TARGET, 0, 5};
    float kept[N][V] = {
        {1, 0, 1, 1, 0, 0}, {1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1}, {0, 0, 0, 1, 0, 1}};
    Head h = {test_normal(&ctx, "x", 60, SHAPE(N, D)), test_normal(&ctx, "w", 61, SHAPE(V, D)),
              tensor_copy_in(&ctx, "targets", I32, ids, SHAPE(N)),
              test_normal(&ctx, "c", 62, SHAPE(N)), support_of(&ctx, kept[0], N, V)};
    check_gradients(&ctx, "head", head_loss, &h, (Tensor *[]){h.x, h.w}, 2, 30, 1e-2, 1e-2);
}
