/*
 * Which tokens a query may see: the small door through which a selection enters latent attention.
 *
 * Dense attention reads every cached token for every new one. DeepSeek-V3.2 (section 2.1, "DeepSeek
 * Sparse Attention") lets something cheap choose k of them for each query, and attention sees
 * these alone:
 *
 *     u_t = attention(h_t, { c_s | s in selected_t }),   s <= t
 *
 * Chapter 04 does not know how they are chosen. What chooses, an indexer, needs x, the normed query
 * latent c_q, and perhaps keys of its own for all tokens before: the cache has a second pool for
 * them, under the same pages (LatentCache's `keys`). Its struct begins with the Selection, so that
 * select() finds the rest behind `self`:
 *
 *     struct Indexer { Selection selection; ...weights... };
 *
 * It is asked in every layer, after the step's latents went into the cache and before attention. It
 * returns a list of positions in the sequence, in any order. An entry that is negative, or behind
 * the query, or a repetition counts for nothing: so a list of fewer than k is filled up with -1,
 * and no list can break causality. A query without a valid entry gets zeros.
 *
 * An indexer may learn from the attention that it chose for: while ctx records, learn() is shown
 * its queries and keys, and the sums of its softmax, from which every probability comes back.
 *
 * The kernels put each list in order, read what it says and do no work for the rest; there is no
 * T x S of anything. Without a selection none of this runs.
 */
#ifndef SELECTION_H
#define SELECTION_H

#include "02_causal/causal.h"
#include "04_mla/mla_decode.h"

__BEGIN_DECLS

typedef struct Selection Selection;

/* Attention without a cache as it was computed, of [B, T, H] queries: on the tape, not to be
 * changed. Probability of key j for query t of head h: exp(scale q . k - lse[b, h, t]). */
typedef struct Attended {
    /* [B, T, H, qk_dim]: nope and rope parts, rotated. Or absorbed: q [B, T, H, kv_lora_rank +
     * rope], and k [B, T, 1, ...], the latents */
    const Tensor *q, *k;
    const float *lse;       /* [B, H, T], natural log */
    const Tensor *selected; /* what select() returned */
    float scale;
} Attended;

struct Selection {
    /*
     * x [B, T, hidden_size], c_q [B, T, q_lora_rank] (x itself where queries are not compressed) ->
     * I32 [B, T, k] on ctx's device, or NULL: all. cache NULL: the T tokens are the whole sequence;
     * otherwise they are those that the step began with, and cache->keys is the selection's to
     * fill.
     */
    Tensor *(*select)(Context *ctx, const Selection *self, Tensor *x, Tensor *c_q,
                      LatentCache *cache);
    /* NULL, or called behind attention while ctx records. */
    void (*learn)(Context *ctx, const Selection *self, const Attended *attended);
};

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/* Attention as causal.h has it, with a mask. qk_dim, v_dim: at most MLA_DECODE_MAX_WIDTH. */
typedef struct SelectedShape {
    AttentionShape attention; /* causal; kv_len: the keys of a sequence, at most when in pages */
    int count;                /* k: entries for each query */
    bool
        latent; /* absorbed: one head of keys, whose first v_dim numbers are the values; v is k, and
                  * all its gradients go to dk */
    /* Keys in pages, one head of them: strides k.token and v.token count between rows of the pool.
     * NULL: keys lie as the strides say, and every sequence has kv_len. */
    const int32_t *block_table, *lengths;
    int max_pages;
} SelectedShape;

/* Keys up to query t of sequence b, itself included. */
PAGES_INLINE int selected_keys_seen(const SelectedShape *s, int b, int t) {
    int length = s->lengths ? s->lengths[b] : s->attention.kv_len;
    return length - s->attention.q_len + t + 1;
}

/* Where key j of sequence b begins, or its value, for query head h. */
PAGES_INLINE int64_t selected_at(const SelectedShape *s, HeadStrides strides, int b, int j, int h) {
    int64_t head = h / (s->attention.heads / s->attention.kv_heads) * strides.head;
    return s->block_table
               ? page_row(s->block_table + (int64_t)b * s->max_pages, j) * strides.token + head
               : b * strides.batch + j * strides.token + head;
}

/*
 * The lists put in order: each ascending, without what counts for nothing, then -1; and behind them
 * how many entries each has, [B, q_len]. That is selected_work_*() bytes.
 */
KERNEL(selected_tidy, int32_t *tidy, const int32_t *selected, SelectedShape shape);
size_t selected_work_cpu(SelectedShape shape);
size_t selected_work_cuda(Gpu *gpu, DType dtype, SelectedShape shape);

/*
 * o and lse ([B, H, q_len], natural log; may be NULL) of what the lists selected, I32 [B, q_len,
 * count], allow. work becomes what selected_tidy makes of them; backward gets it as the forward
 * left it. That is not for pages. NULL gradients are not computed; they have the strides of their
 * tensors. scratch: selected_backward_scratch_*() bytes.
 */
KERNEL(selected_forward, Real *o, float *lse, const Real *q, const Real *k, const Real *v,
       const int32_t *selected, void *work, SelectedShape shape);
KERNEL(selected_backward, Real *dq, int add_q, Real *dk, int add_k, Real *dv, int add_v,
       void *scratch, const Real *d_o, const Real *q, const Real *k, const Real *v, const Real *o,
       const float *lse, const void *work, SelectedShape shape);
size_t selected_backward_scratch_cpu(SelectedShape shape);
size_t selected_backward_scratch_cuda(Gpu *gpu, DType dtype, SelectedShape shape);

/* Aborts where backward cannot be: keys in pages, or latents whose v is not k. */
void selected_backward_check(const SelectedShape *shape, const void *k, const void *v,
                             const void *dv);

/*
 * CUDA's rungs, between which selected_forward_cuda and selected_backward_cuda choose; each gives
 * the same bits in every run.
 *   plain    a warp for each query of a head, every dtype, size and GPU
 *   hopper   wgmma, BF16 latents of 512 + 64 numbers: a block for a query's 64 heads
 */
__typeof__(selected_forward_cuda) selected_forward_plain_cuda, selected_forward_hopper_cuda;
__typeof__(selected_backward_cuda) selected_backward_plain_cuda, selected_backward_hopper_cuda;
int selected_hopper_supports(const Gpu *gpu, DType dtype, const void *o, const void *q,
                             const void *k, const void *v, SelectedShape shape);

/* The queries of a step behind a cache of numbers, as selected_forward sees them. And are they so
 * many, a prompt's, that Hopper's rung of it is what they should take, and not selected_decode? */
SelectedShape selected_pages_shape(const int32_t *block_table, const int32_t *lengths, int count,
                                   MlaDecodeShape shape);
int selected_prompt_fits(const Gpu *gpu, DType dtype, int count, MlaDecodeShape shape);

/*
 * mla_decode of what is selected, I32 [B, q_len, count]; shapes as there. On the CPU a query's
 * numbers do not depend on how many others come with it. work: selected_decode_work_*() bytes.
 */
KERNEL(selected_decode, Real *o, void *work, const Real *q, const void *latent,
       const int32_t *block_table, const int32_t *lengths, const int32_t *selected, int count,
       MlaDecodeShape shape);
size_t selected_decode_work_cpu(int count, MlaDecodeShape shape);
size_t selected_decode_work_cuda(Gpu *gpu, DType dtype, int count, MlaDecodeShape shape);

/*
 * CUDA's ladder; selected_decode_cuda picks the fastest that takes these sizes.
 *   plain      a warp for each query head walks along its list; every dtype, size and kind of row
 *   gathered   the rows are copied into a cache of their own and mla_decode reads that, as on the
 *              CPU; the same
 *   hopper     mla_decode's kernels for Hopper, which fetch the rows of a list one by one. BF16,
 *              kv_lora_rank 512 and rope_dim 64
 */
__typeof__(selected_decode_cuda) selected_decode_plain_cuda, selected_decode_gathered_cuda,
    selected_decode_hopper_cuda;
int selected_decode_hopper_supports(const Gpu *gpu, DType dtype, MlaDecodeShape shape);
/* The work of gathered, which is enough for plain, too. */
size_t selected_decode_gathered_work_cuda(Gpu *gpu, DType dtype, int count, MlaDecodeShape shape);

__END_DECLS
#endif
