/*
 * The op: shapes, kernel, tape. The largest tensor of a step, the logits, exists once.
 */
#include "09_grpo/loss/token_logprobs.h"

typedef struct LogprobsSaved {
    Tensor *logprobs, *logits;
    const int32_t *targets, *starts, *ids;
    const float *lse;
    float temperature;
} LogprobsSaved;

static void token_logprobs_backward(Context *ctx, void *saved) {
    LogprobsSaved *s = saved;
    Tensor *logits = s->logits;
    if (!logits->requires_grad) return;
    CHECK(!logits->has_grad,
          "token_logprobs: the logits have another reader whose gradient would be lost");
    ON(ctx, token_logprobs_backward, logits->data, s->logprobs->grad->data, s->lse, s->targets,
       s->starts, s->ids, tensor_rows(logits), tensor_dim(logits, -1), s->temperature);
    logits->grad = arena_alloc(&ctx->host, sizeof *logits->grad);
    *logits->grad = tensor_view(logits->data, logits->name, logits->dtype, logits->device,
                                logits->shape, logits->ndim);
    logits->has_grad = true;
}

TokenLogprobs token_logprobs(Context *ctx, Tensor *logits, Tensor *targets, float temperature,
                             const TokenSupport *support) {
    int64_t rows = tensor_rows(logits), vocab = tensor_dim(logits, -1);
    CHECK(logits->dtype == ctx->dtype && targets->dtype == I32 && tensor_count(targets) == rows,
          "token_logprobs: logits are %s %s, targets %s %s: one I32 for each row",
          dtype_name(logits->dtype), shape_text(logits).text, dtype_name(targets->dtype),
          shape_text(targets).text);
    CHECK(temperature > 0, "token_logprobs: a temperature of %g draws nothing", temperature);
    if (support) check_shape("token_logprobs", support->starts, I32, SHAPE(rows + 1));
    const int32_t *starts = support ? support->starts->data : NULL;
    const int32_t *ids = support ? support->ids->data : NULL;
    TokenLogprobs y = {tensor_new(ctx, "logprobs", F32, targets->shape, targets->ndim),
                       tensor_new(ctx, "entropy", F32, targets->shape, targets->ndim)};
    float *lse = arena_alloc(&ctx->data, (size_t)rows * sizeof *lse);
    ON(ctx, token_logprobs_forward, y.logprobs->data, y.entropy->data, lse, logits->data,
       targets->data, starts, ids, rows, vocab, temperature);
    RECORD(ctx, y.logprobs, token_logprobs_backward, LogprobsSaved, .logprobs = y.logprobs,
           .logits = logits, .targets = targets->data, .starts = starts, .ids = ids, .lse = lse,
           .temperature = temperature);
    return y;
}
