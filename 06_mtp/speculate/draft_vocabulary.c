/*
 * The draft vocabulary: which tokens, and the copy of their rows.
 */
#include "06_mtp/speculate/draft_vocabulary.h"

#include "common/core/ops.h"
#include "common/core/quantised.h"

#include <stdlib.h>
#include <string.h>

static int rising(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static int check_ids(const int32_t *ids, int count, int vocab, int32_t end, Error *err) {
    bool has_end = end < 0;
    if (count < 1 || count > vocab)
        return error_set(err, "a draft vocabulary of %d tokens; the model has %d, take 1 to %d",
                         count, vocab, vocab);
    for (int i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= vocab)
            return error_set(err, "a draft vocabulary with id %d; the model's are 0 to %d", ids[i],
                             vocab - 1);
        if (i && ids[i] == ids[i - 1])
            return error_set(err, "a draft vocabulary with id %d twice", ids[i]);
        has_end |= ids[i] == end;
    }
    if (!has_end)
        return error_set(err,
                         "a draft vocabulary without the end token (%d): no end would ever be "
                         "guessed; add it",
                         end);
    return 0;
}

int draft_vocabulary_init(DraftVocabulary *v, Context *ctx, const Decoder *decoder,
                          const int32_t *ids, int count, int32_t end, Error *err) {
    int64_t hidden = decoder->cfg.block.hidden_size;
    *v = (DraftVocabulary){.count = count, .gpu = ctx->gpu};
    v->ids = must_alloc(count > 0 ? (size_t)count : 1, sizeof *v->ids);
    if (count > 0) memcpy(v->ids, ids, (size_t)count * sizeof *ids);
    if (count > 0) qsort(v->ids, (size_t)count, sizeof *v->ids, rising);
    if (check_ids(v->ids, count, decoder->cfg.vocab_size, end, err)) {
        draft_vocabulary_free(v);
        return -1;
    }
    v->map = tensor_view(NULL, "draft ids", I32, ctx->device, SHAPE(count));
    v->head = tensor_view(NULL, "draft head", ctx->dtype, ctx->device, SHAPE(count, hidden));
    v->map.data = device_alloc(ctx->gpu, tensor_bytes(&v->map));
    v->head.data = device_alloc(ctx->gpu, tensor_bytes(&v->head));
    if (!v->map.data || !v->head.data) {
        draft_vocabulary_free(v);
        return error_set(err, "no memory for the head's rows of %d tokens", count);
    }
    device_put(ctx->gpu, v->map.data, v->ids, tensor_bytes(&v->map));
    const Tensor *head = decoder->lm_head;
    for (int i = 0; i < count && head->quantised; i++) /* the guesses' rows become numbers */
        head->quantised->products->dequantise(
            ctx, (char *)v->head.data + dtype_bytes(ctx->dtype, i * hidden), head, v->ids[i], 1);
    if (!head->quantised)
        device_copy(ctx->gpu, v->head.data, embedding(ctx, decoder->lm_head, &v->map)->data,
                    tensor_bytes(&v->head));
    context_reset(ctx);
    return 0;
}

void draft_vocabulary_free(DraftVocabulary *v) {
    free(v->ids);
    device_free(v->gpu, v->map.data);
    device_free(v->gpu, v->head.data);
    *v = (DraftVocabulary){0};
}

typedef struct Frequency {
    int64_t times;
    int32_t id;
} Frequency;

static int most_frequent_first(const void *a, const void *b) {
    const Frequency *x = a, *y = b;
    if (x->times != y->times) return x->times > y->times ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

int draft_vocabulary_frequent(int32_t *ids, int count, const int32_t *text, int64_t length,
                              int vocab, int32_t end, Error *err) {
    if (count < 1 || count > vocab)
        return error_set(err, "a draft vocabulary of %d tokens; the model has %d, take 1 to %d",
                         count, vocab, vocab);
    Frequency *all = must_alloc((size_t)vocab, sizeof *all);
    for (int32_t i = 0; i < vocab; i++) all[i].id = i;
    for (int64_t i = 0; i < length; i++)
        if (text[i] >= 0 && text[i] < vocab) all[text[i]].times++;
    if (end >= 0 && end < vocab) all[end].times = INT64_MAX;
    qsort(all, (size_t)vocab, sizeof *all, most_frequent_first);
    for (int i = 0; i < count; i++) ids[i] = all[i].id;
    free(all);
    return 0;
}
