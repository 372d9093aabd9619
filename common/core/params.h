/*
 * The weights of a model: a list first, then memory.
 *
 * A model registers its weights one by one under their Hugging Face names. That costs a list and
 * nothing else and needs no device, so weights can be counted, and compared with a checkpoint,
 * before there is room for one of them. params_allocate() then lays all of them out in a few flat
 * buffers, which makes the gradient norm and the AdamW step one kernel each for the whole model:
 *
 *     values                        | weights that train                | frozen weights |
 *     gradients                     | F32, at the same places           |
 *     AdamW's moments               | F32 or BF16 (ctx->moments), too   |
 *     master                        | F32, where the value is narrower  |
 *
 * Only what trains has more than its value: a BF16 model that infers takes two bytes a weight.
 *
 * Invariant: weights that train lie in spans of one dtype and one rate, in each of them those that
 * are decayed first; every weight begins at a multiple of 64 elements, and the padding is zero in
 * every buffer.
 *
 * Several processes that train one model may share the optimizer (ZeRO-1): each has the moments and
 * masters of a part of every span, and takes its steps there alone. For that, spans end in zeros up
 * to a multiple of what there are processes (ctx->ways). And weights may be spread: each process
 * then has other rows of them (05_moe/experts.h).
 *
 * A quantised weight (quantised.h) is frozen; its codes lie among the values, its scales behind
 * them.
 *
 * State that belongs to the model but is not learned by gradients (a router's bias, say) is
 * registered by params_buffer(): it keeps its dtype, has no gradient, and the optimizer does not
 * know it.
 */
#ifndef COMMON_PARAMS_H
#define COMMON_PARAMS_H

#include "common/core/quantised.h"

__BEGIN_DECLS

/* How a weight is trained. At first: { false, has it two or more dimensions?, 1, false }. */
typedef struct ParamGroup {
    bool frozen;  /* no gradient, no moments, no part in the norm; it does not move by a bit */
    bool decayed; /* weight decay pulls at it */
    float rate;   /* what the learning rate is multiplied by */
    bool spread;  /* other processes of ctx->experts have other rows of it */
} ParamGroup;

/* Weights side by side that one launch of AdamW's kernel takes a step on. */
typedef struct ParamSpan {
    DType dtype; /* of the values */
    float rate;
    void *values;
    float *master;                /* values itself when that is F32 */
    int64_t first, size, decayed; /* in grads: elements; the first `decayed` of them are */
    int64_t moments;              /* where its moments begin, in m and v */
    bool spread;
} ParamSpan;

enum { NORM_CHUNKS = 1024 }; /* parts that a gradient's norm is summed in (optimizer.h) */

typedef struct Params {
    Context *ctx;     /* NULL: only to count and to compare */
    Tensor **list;    /* weights, in order of registration */
    Tensor **buffers; /* state that is not learned, in order of registration */
    int count, buffer_count;
    size_t capacity, buffer_capacity;
    void *values, *buffer_values;
    float *master, *grads; /* on ctx's device; NULL for a model that only infers */
    DType moments;
    /* Of dtype `moments`, else the same. Where the optimizer is shared, of a part: of 1 / share of
     * each span, of a spread one 1 / spread_share. */
    void *m, *v;
    int share, spread_share; /* 1: not shared */
    int64_t size;            /* elements of grads */
    float *scratch; /* [NORM_CHUNKS + 64]: partial sums of the gradient norm, and the norm */
    ParamSpan *spans;
    int span_count;
} Params;

void params_init(Params *params, Context *ctx);
void params_free(Params *params);

/* "prefix.name", or "name" if prefix is NULL, by value: its text lives as long as the expression
 * that calls. */
typedef struct ParamName {
    char text[256];
} ParamName;
ParamName params_name(const char *prefix, const char *name);

/* Registers the weight "prefix.name" (prefix NULL: "name"), of ctx's dtype. The Tensor lives as
 * long as params; its data is there after params_allocate(). The names are copied. */
Tensor *params_new(Params *params, const char *prefix, const char *name, const int64_t *shape,
                   int ndim);

/* Registers state that the optimizer does not touch: F32 or I32, zero after params_allocate(). */
Tensor *params_buffer(Params *params, const char *prefix, const char *name, DType dtype,
                      const int64_t *shape, int ndim);

/* Before params_allocate(): another dtype for one weight, and its group, to be changed. */
void params_set_dtype(Params *params, Tensor *t, DType dtype);
ParamGroup *params_group(Params *params, Tensor *t);

/* Before params_allocate(): the weight will be codes, multiplied by `products`. Its shape must
 * allow it (quantised_format_check). */
void params_set_quantised(Params *params, Tensor *t, DType dtype, int block_out, int block_in,
                          const QuantisedProducts *products);

/* Lays out and clears the buffers. training: gradients and moments too; else all weights are
 * frozen. -1 and a message when memory runs out. */
int params_allocate(Params *params, bool training, Error *err);

/*
 * Where the optimizer is shared: behind params_allocate(), and behind what sets the first weights,
 * the pieces of spans that are this process's take the spans' place (malloc's, taken over; masters
 * as in the spans). The other masters go, and with them params_master() of narrow weights.
 */
void params_keep_pieces(Params *params, ParamSpan *pieces, int count);

/* A weight or a buffer; NULL if there is none. */
Tensor *params_find(const Params *params, const char *name);
int64_t params_count(const Params *params); /* weights: numbers in the model, padding not counted */

/* Where the gradient and the moments of a weight that trains begin in grads, m and v; and its F32
 * numbers on the device: the master or the value itself, NULL for narrower ones that are frozen. */
int64_t params_offset(const Params *params, const Tensor *t);
float *params_master(const Params *params, const Tensor *t);

/* Fills one weight (master and value), or an F32 buffer. Normal(0, std): a stream of ctx's rng, so
 * the same on every device. */
void params_normal(Params *params, Tensor *t, float std);
void params_fill(Params *params, Tensor *t, float value);
void params_set(Params *params, Tensor *t, const float *host); /* F32 from host memory */
/* A quantised weight's codes and scales from host memory, laid out as quantised.h says. */
void params_set_codes(Params *params, Tensor *t, const void *codes, const float *scales);
/* To host memory as F32: the master, or the value if there is none; of codes, their numbers in
 * ctx's dtype. */
void params_get(Params *params, const Tensor *t, float *host);
/* Zeros where nothing was written. */
void params_get_grad(Params *params, const Tensor *t, float *host);

/* Start of a step: the next contribution to each gradient overwrites. (Not between accumulated
 * micro-batches.) */
void params_zero_grad(Params *params);

/* End of the backward passes of a step: the gradients of weights that nothing was written to become
 * zero, so that grads as a whole is this step's. Processes that share a step add up grads behind
 * this; once it was called, calling it again changes nothing. */
void params_finish_gradients(Params *params);
/* Of those weights alone that lie, with a part of theirs, in these elements of grads. */
void params_finish_some(Params *params, int64_t first, int64_t size);

/* What a weight that trains takes in grads: its elements, and the padding behind them. */
int64_t params_extent(const Tensor *t);
bool params_is_spread(const Tensor *t);

__END_DECLS
#endif
