/*
 * Buckets, the order in which they go, the tree of slots, and single weights put together again.
 *
 * A bucket lies in one span, so its values have one dtype, and it is a multiple of 64 numbers for
 * each rank, so each has an equal part. What is a rank's part of a span is then many pieces, one in
 * each bucket: params_keep_pieces() makes spans of them, and AdamW does not see the difference.
 */
#include "common/comm/ranks.h"

#include "common/core/ops_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BUCKET = 1 << 22, /* 16 MB: below that latency counts, above it the last ones are waited for */
    TREE_CHUNK = 1 << 20,
    TREE_LEVELS = 3 /* of RANKS_SLOTS */
};

typedef struct Bucket {
    Comm *comm; /* of those that add it up; NULL: this rank alone has these weights */
    DType dtype;
    void *values;
    int64_t first, size; /* in grads */
    bool spread;
    int node; /* of the tape, the last that writes to it; -1: none does */
} Bucket;

struct Ranks {
    Params *params;
    Comm *comm, *twins; /* all; those with the same rows of spread weights */
    RanksOptions options;
    bool zero, any_spread;
    Bucket *buckets;
    int count, *order; /* in which they go */
    float *norms;      /* [count], device: of the parts that this rank answers for */

    TapeWatch watch;
    int watched;                  /* the length of the tape that was; 0: none yet */
    bool watching, known, beside; /* this pass; the order is known; buckets go during this pass */
    int next;                     /* in order: which goes next */

    float *tree[TREE_LEVELS], *rows; /* branches that wait for the next; [size, TREE_CHUNK] */
    int slots_done;
};

/* ---- opening ---- */

static void add_bucket(Ranks *r, const ParamSpan *s, int64_t at, int64_t size) {
    r->buckets[r->count++] = (Bucket){.comm = s->spread ? r->twins : r->comm,
                                      .dtype = s->dtype,
                                      .values = (char *)s->values + dtype_bytes(s->dtype, at),
                                      .first = s->first + at,
                                      .size = size,
                                      .spread = s->spread,
                                      .node = -1};
}

static void cut_spans(Ranks *r) {
    const Params *p = r->params;
    int64_t unit = (int64_t)64 * comm_size(r->comm), bucket = r->options.bucket;
    bucket = ((bucket ? bucket : BUCKET) + unit - 1) / unit * unit;
    r->buckets = must_alloc((size_t)(p->size / bucket + p->span_count + 1), sizeof *r->buckets);
    for (int i = 0; i < p->span_count; i++) {
        const ParamSpan *s = &p->spans[i];
        r->any_spread = r->any_spread || s->spread;
        for (int64_t at = 0; at < s->size; at += bucket)
            add_bucket(r, s, at, s->size - at < bucket ? s->size - at : bucket);
    }
    r->order = must_alloc((size_t)r->count, sizeof *r->order);
    r->norms = device_alloc(p->ctx->gpu, (size_t)(r->count + 1) * sizeof *r->norms);
    CHECK(r->norms, "no memory for %d norms", r->count);
    for (int i = 0; i < r->count; i++) r->order[i] = i;
}

/* This rank's part of a bucket. */
static int64_t part_size(const Bucket *b) { return b->size / comm_size(b->comm); }
static int64_t part_first(const Bucket *b) { return b->first + comm_rank(b->comm) * part_size(b); }

static const ParamSpan *span_of(const Params *p, const Bucket *b) {
    const ParamSpan *s = p->spans;
    while (b->first >= s->first + s->size) s++;
    return s;
}

static void keep_pieces(Ranks *r) {
    Params *p = r->params;
    ParamSpan *pieces = must_alloc((size_t)r->count, sizeof *pieces);
    for (int64_t i = 0, moments = 0; i < r->count; i++) {
        const Bucket *b = &r->buckets[i];
        const ParamSpan *s = span_of(p, b);
        int64_t at = part_first(b) - s->first, decayed = s->decayed - at;
        ParamSpan *piece = &pieces[i];
        *piece = *s;
        piece->values = (char *)s->values + dtype_bytes(s->dtype, at);
        piece->master += at, piece->first += at, piece->size = part_size(b);
        piece->decayed = decayed < 0 ? 0 : decayed < piece->size ? decayed : piece->size;
        piece->moments = moments;
        moments += piece->size;
    }
    params_keep_pieces(p, pieces, r->count);
}

static void writes(void *self, const Tensor *t, int node);
static void ran(void *self, int node);

static float *floats(Params *p, int64_t count) {
    float *data = device_alloc(p->ctx->gpu, (size_t)count * sizeof *data);
    CHECK(data, "no memory for %lld numbers that are added up over ranks and slots",
          (long long)count);
    return data;
}

Ranks *ranks_open(Params *params, const RanksOptions *options) {
    Context *ctx = params->ctx;
    int size = comm_size(ctx->comm);
    if (!ctx->comm && !options->slots) return NULL;
    Ranks *r = must_alloc(1, sizeof *r);
    *r = (Ranks){.params = params, .comm = ctx->comm, .options = *options, .zero = ctx->zero};
    r->watch = (TapeWatch){writes, ran, r};
    if (ctx->experts) r->twins = comm_split(ctx->comm, comm_rank(ctx->experts));
    cut_spans(r);
    if (r->zero) keep_pieces(r);
    CHECK(!options->slots || (RANKS_SLOTS % size == 0 && !r->any_spread),
          "slots: %d ranks, or spread weights", size);
    for (int slots = RANKS_SLOTS / size, i = 0; options->slots && slots > 1; slots /= 2, i++)
        r->tree[i] = floats(params, params->size);
    if (options->slots && size > 1) r->rows = floats(params, (int64_t)size * TREE_CHUNK);
    return r;
}

void ranks_close(Ranks *r) {
    if (!r) return;
    Gpu *gpu = r->params->ctx->gpu;
    for (int i = 0; i < TREE_LEVELS; i++) device_free(gpu, r->tree[i]);
    device_free(gpu, r->rows);
    device_free(gpu, r->norms);
    if (r->twins) comm_close(r->twins);
    free(r->buckets), free(r->order);
    free(r);
}

/* ---- buckets ---- */

/* Adds a bucket up: everywhere, or each rank its part of it. */
static void reduce_bucket(Ranks *r, Bucket *b) {
    params_finish_some(r->params, b->first, b->size);
    if (!b->comm) return;
    float *grads = r->params->grads;
    comm_beside_begin(b->comm);
    if (r->zero)
        comm_reduce_scatter(b->comm, grads + part_first(b), grads + b->first, part_size(b), F32);
    else
        comm_all_reduce(b->comm, grads + b->first, b->size, F32, COMM_SUM);
    comm_beside_end(b->comm);
}

/* [ranks_watch] */
/* Node `node` writes to t's gradient: the buckets that it lies in are not final before. */
static void writes(void *self, const Tensor *t, int node) {
    Ranks *r = self;
    const float *grads = r->params->grads, *data = t->grad->data;
    if (data < grads || data >= grads + r->params->size) return; /* no weight */
    int64_t first = data - grads, end = first + tensor_count(t);
    for (int i = 0; i < r->count; i++) {
        Bucket *b = &r->buckets[i];
        if (first >= b->first + b->size || end <= b->first) continue;
        if (r->watching) b->node = node;
        CHECK(r->watching || node >= b->node, "%s gets a gradient when it is on its way already",
              t->name);
    }
}

/* The node has run: buckets that no later one writes to can go. */
static void ran(void *self, int node) {
    Ranks *r = self;
    for (; r->beside && r->next < r->count; r->next++) {
        Bucket *b = &r->buckets[r->order[r->next]];
        if (b->node < node) return;
        reduce_bucket(r, b);
    }
}
/* [/ranks_watch] */

/* As the watched pass of rank 0 saw them become final; those that nobody wrote to, last. */
static void set_order(Ranks *r) {
    for (int i = 0; i < r->count; i++) {
        int at = i;
        for (; at > 0 && r->buckets[r->order[at - 1]].node < r->buckets[i].node; at--)
            r->order[at] = r->order[at - 1];
        r->order[at] = i;
    }
    comm_broadcast_host(r->comm, r->order, (size_t)r->count * sizeof *r->order, 0);
    r->known = true;
}

/* ---- slots ---- */

static void add_to(Context *ctx, float *to, const float *from, int64_t count) {
    ON_AS(ctx, F32, accumulate, to, from, count, 1);
}

/* A slot's gradient is complete: it is added to the branch that waits for it, that to the one that
 * waits for both, and so on; what has nothing to be added to waits. */
static void end_slot(Ranks *r) {
    Params *p = r->params;
    params_finish_gradients(p);
    int slots = RANKS_SLOTS / comm_size(r->comm), slot = r->slots_done++, level = 0;
    for (; slot >> level & 1; level++) add_to(p->ctx, p->grads, r->tree[level], p->size);
    if (slot + 1 == slots) return; /* grads has this rank's branch */
    device_copy(p->ctx->gpu, r->tree[level], p->grads, (size_t)p->size * sizeof(float));
    params_zero_grad(p);
}

/* The ranks' branches, in the same way. */
static void join_branches(Ranks *r) {
    Context *ctx = r->params->ctx;
    int n = comm_size(r->comm);
    for (int64_t at = 0; n > 1 && at < r->params->size; at += TREE_CHUNK) {
        int64_t left = r->params->size - at, count = left < TREE_CHUNK ? left : TREE_CHUNK;
        float *grads = r->params->grads + at;
        comm_all_gather(r->comm, r->rows, grads, count, F32);
        for (int width = 1; width < n; width *= 2)
            for (int i = 0; i < n; i += 2 * width)
                add_to(ctx, r->rows + i * count, r->rows + (i + width) * count, count);
        device_copy(ctx->gpu, grads, r->rows, (size_t)count * sizeof *grads);
    }
    r->slots_done = 0;
}

/* ---- a step ---- */

void ranks_before_backward(Ranks *r, int micro, int count, bool tapes_differ) {
    if (!r || r->options.slots) return;
    Context *ctx = r->params->ctx;
    r->watching = !r->known, r->beside = false, r->next = 0;
    if (r->watching)
        r->watched = ctx->tape_length;
    else if (micro + 1 == count)
        r->beside = !r->options.in_turn && !tapes_differ && ctx->tape_length == r->watched;
    if (r->watching || r->beside) ctx->watch = &r->watch;
}

void ranks_after_backward(Ranks *r, int micro, int count) {
    if (!r) return;
    r->params->ctx->watch = NULL;
    if (r->watching) set_order(r);
    r->watching = false;
    if (r->options.slots) {
        int slots = RANKS_SLOTS / comm_size(r->comm);
        CHECK(count % slots == 0, "%d micro-batches are not %d slots", count, slots);
        if ((micro + 1) % (count / slots) == 0) end_slot(r);
    }
    if (micro + 1 < count) return;
    if (r->options.slots) return join_branches(r);
    for (; r->next < r->count; r->next++) reduce_bucket(r, &r->buckets[r->order[r->next]]);
    comm_join(r->comm);
    if (r->twins) comm_join(r->twins);
}

/* The norm where no rank has all of the sum: squares of what each answers for, added up. */
static void norm_of_parts(Ranks *r, float grad_scale) {
    Params *p = r->params;
    Context *ctx = p->ctx;
    float *norms = must_alloc((size_t)r->count + 1, sizeof *norms);
    device_set(ctx->gpu, r->norms, 0, (size_t)r->count * sizeof *norms);
    for (int i = 0; i < r->count; i++) {
        const Bucket *b = &r->buckets[i];
        if (!r->zero && comm_rank(b->comm) != 0) continue; /* another has the same */
        int64_t first = r->zero ? part_first(b) : b->first;
        int64_t size = r->zero ? part_size(b) : b->size;
        ON(ctx, grad_norm, p->scratch, p->grads + first, size, 1.0f);
        device_copy(ctx->gpu, r->norms + i, p->scratch + NORM_CHUNKS, sizeof *norms);
    }
    device_get(ctx->gpu, norms, r->norms, (size_t)r->count * sizeof *norms);
    double squares = 0;
    for (int i = 0; i < r->count; i++) squares += (double)norms[i] * norms[i];
    float norm = (float)(grad_scale * sqrt(comm_sum_host(r->comm, squares)));
    device_put(ctx->gpu, p->scratch + NORM_CHUNKS, &norm, sizeof norm);
    free(norms);
}

/* Each rank's part of the new values, to all. */
static void gather_values(Ranks *r) {
    for (int i = 0; i < r->count; i++) {
        const Bucket *b = &r->buckets[i];
        if (!b->comm) continue;
        const char *mine = (char *)b->values + dtype_bytes(b->dtype, part_first(b) - b->first);
        comm_beside_begin(b->comm);
        comm_all_gather(b->comm, b->values, mine, part_size(b), b->dtype);
        comm_beside_end(b->comm);
    }
    comm_join(r->comm);
    if (r->twins) comm_join(r->twins);
}

/* [ranks_adamw_step] */
float ranks_adamw_step(Ranks *r, AdamW *adamw, Params *p, float lr, float grad_scale) {
    if (!r) return adamw_step(adamw, p, lr, grad_scale);
    if (r->any_spread || (r->zero && !r->options.slots))
        norm_of_parts(r, grad_scale);
    else
        ON(p->ctx, grad_norm, p->scratch, p->grads, p->size, grad_scale);
    float norm = adamw_update(adamw, p, lr, grad_scale);
    if (r->zero) gather_values(r);
    return norm;
}
/* [/ranks_adamw_step] */

/* ---- single weights ---- */

bool ranks_are_apart(const Params *p) { return p->ctx->zero || p->ctx->experts; }

static DType dtype_of(const Params *p, const Tensor *t, int part) {
    return !t->grad ? t->dtype : part ? p->moments : F32;
}

typedef enum Direction { TO_SPANS, FROM_SPANS } Direction;

/* Between `all`, a weight's numbers with the padding behind them, and those spans' (or pieces') in
 * which they lie here. */
static void copy_spans(Params *p, const Tensor *t, int part, char *all, Direction direction) {
    int64_t offset = params_offset(p, t), end = offset + params_extent(t);
    DType dtype = dtype_of(p, t, part);
    for (int i = 0; i < p->span_count; i++) {
        const ParamSpan *s = &p->spans[i];
        int64_t low = s->first > offset ? s->first : offset;
        int64_t high = s->first + s->size < end ? s->first + s->size : end;
        if (low >= high) continue;
        char *there = part ? (char *)(part == 1 ? p->m : p->v) +
                                 dtype_bytes(dtype, s->moments + low - s->first)
                           : (char *)(s->master + low - s->first);
        char *here = all + dtype_bytes(dtype, low - offset);
        size_t bytes = dtype_bytes(dtype, high - low);
        device_copy(p->ctx->gpu, direction == TO_SPANS ? there : here,
                    direction == TO_SPANS ? here : there, bytes);
    }
}

/* Bits of one rank and zeros of the others, added as integers, are those bits. */
void ranks_get(Ranks *r, Params *p, const Tensor *t, int part, void *host) {
    Context *ctx = p->ctx;
    DType dtype = dtype_of(p, t, part);
    bool spread = params_is_spread(t);
    Comm *owners = !r ? NULL : spread ? r->twins : r->comm;
    int64_t words = (int64_t)dtype_bytes(dtype, params_extent(t)) / 4;
    int experts = spread ? comm_size(ctx->experts) : 1;
    size_t bytes = 4 * (size_t)words, row = tensor_bytes(t);
    row = row / dtype_bytes(t->dtype, 1) * dtype_bytes(dtype, 1);
    char *all = device_alloc(ctx->gpu, bytes * (size_t)(experts + 1)), *mine = all;
    CHECK(all, "%s: no memory for a second one", t->name);
    device_set(ctx->gpu, all, 0, bytes);
    if (t->grad)
        copy_spans(p, t, part, all, FROM_SPANS);
    else
        device_copy(ctx->gpu, all, t->data, tensor_bytes(t));
    if (t->grad && ctx->zero && owners) comm_all_reduce(owners, all, words, I32, COMM_SUM);
    if (experts > 1) comm_all_gather(ctx->experts, all + bytes, mine, words, I32);
    for (int e = 0; e < experts; e++)
        device_get(ctx->gpu, (char *)host + (size_t)e * row,
                   experts > 1 ? all + (size_t)(e + 1) * bytes : all, row);
    device_free(ctx->gpu, all);
}

void ranks_set(Ranks *r, Params *p, Tensor *t, int part, const void *host) {
    (void)r;
    Context *ctx = p->ctx;
    DType dtype = dtype_of(p, t, part);
    if (!t->grad) dtype = F32;
    size_t row = (size_t)tensor_count(t) * dtype_bytes(dtype, 1);
    const char *mine = host;
    if (params_is_spread(t)) mine += (size_t)comm_rank(ctx->experts) * row;
    if (!t->grad) return tensor_upload(ctx, t, (const float *)mine);
    size_t bytes = dtype_bytes(dtype, params_extent(t));
    char *all = device_alloc(ctx->gpu, bytes);
    CHECK(all, "%s: no memory for a second one", t->name);
    device_set(ctx->gpu, all, 0, bytes);
    device_put(ctx->gpu, all, mine, row);
    copy_spans(p, t, part, all, TO_SPANS);
    if (part == 0) tensor_upload(ctx, t, (const float *)mine);
    device_free(ctx->gpu, all);
}
