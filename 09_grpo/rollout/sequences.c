/*
 * The rectangle is made on the host: it is as small as the ids are.
 */
#include "09_grpo/rollout/sequences.h"

#include <stdlib.h>
#include <string.h>

static const Sequence *row_of(const SequenceRows *rows, int b) {
    return &rows->list[rows->order[b]];
}

int sequences_width(const SequenceRows *rows) {
    int longest = 2;
    for (int b = 0; b < rows->count; b++) {
        int length = row_of(rows, b)->prompt_tokens + row_of(rows, b)->tokens;
        if (length > longest) longest = length;
    }
    return longest - 1;
}

int sequences_actions(const SequenceRows *rows) {
    int actions = 0;
    for (int b = 0; b < rows->count; b++)
        actions += row_of(rows, b)->masked ? 0 : row_of(rows, b)->tokens;
    return actions;
}

void sequences_batch(Context *ctx, const SequenceRows *rows, Tensor **ids, Tensor **targets) {
    int T = sequences_width(rows), B = rows->count;
    int32_t *in = must_alloc((size_t)B * (size_t)T, sizeof *in); /* zeros: the padding */
    int32_t *out = must_alloc((size_t)B * (size_t)T, sizeof *out);
    for (int b = 0; b < B; b++) {
        const Sequence *s = row_of(rows, b);
        int all = s->prompt_tokens + s->tokens;
        CHECK(s->prompt_tokens > 0 && s->tokens >= 0, "sequence %d: %d and %d tokens", b,
              s->prompt_tokens, s->tokens);
        memcpy(in + b * T, s->ids, (size_t)(all - 1) * sizeof *in);
        for (int t = 0; t < T; t++) {
            bool action = t >= s->prompt_tokens - 1 && t < all - 1 && !s->masked;
            out[b * T + t] = action ? s->ids[t + 1] : IGNORE_TARGET;
        }
    }
    *ids = tensor_copy_in(ctx, "ids", I32, in, SHAPE(B, T));
    *targets = tensor_copy_in(ctx, "targets", I32, out, SHAPE(B, T));
    free(in);
    free(out);
}

Tensor *sequences_numbers(Context *ctx, const SequenceRows *rows, float *const *numbers) {
    int T = sequences_width(rows), B = rows->count;
    float *all = must_alloc((size_t)B * (size_t)T, sizeof *all);
    for (int b = 0; b < B; b++) {
        const Sequence *s = row_of(rows, b);
        memcpy(all + b * T + s->prompt_tokens - 1, numbers[rows->order[b]],
               (size_t)s->tokens * sizeof *all);
    }
    Tensor *t = tensor_copy_in(ctx, "numbers of actions", F32, all, SHAPE(B, T));
    free(all);
    return t;
}

void sequences_gather(Context *ctx, const SequenceRows *rows, const Tensor *from, float **numbers) {
    int T = sequences_width(rows), B = rows->count;
    check_shape("sequences_gather", from, F32, SHAPE(B, T));
    float *all = must_alloc((size_t)B * (size_t)T, sizeof *all);
    tensor_download(ctx, all, from);
    for (int b = 0; b < B; b++) {
        const Sequence *s = row_of(rows, b);
        memcpy(numbers[rows->order[b]], all + b * T + s->prompt_tokens - 1,
               (size_t)s->tokens * sizeof *all);
    }
    free(all);
}
