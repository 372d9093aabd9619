/*
 * What the lightning indexer computes with (indexer.h), kernel by kernel.
 *
 *     I[t, s] = scale * sum over heads h of  w[t, h] * ReLU(q[t, h] . k[s])        s <= t
 *
 * and the k keys of each query with the largest I. Scores are made for as many queries at a time as
 * fit into INDEX_SCORES numbers, chosen from, and forgotten: a text of T tokens costs T^2 / 2
 * scores, but never the memory for them.
 *
 * Keys are numbers of ctx's dtype or, in a cache of eight bits, codes and scales of latent_row.h.
 * But a row of 132 bytes begins wherever it does, and the tensor cores' loads want multiples of 16:
 * so a page of such keys has the codes of its tokens first, one behind the other, and then their
 * scales. With 128 numbers that is 64 * 128 bytes and 64 * 4, DeepSeek's layout (DeepGEMM).
 */
#ifndef INDEX_KERNELS_H
#define INDEX_KERNELS_H

#include "04_mla/latent_cache.h"
#include "common/core/context.h"

__BEGIN_DECLS

/* On a GPU a pass has more: its scores lie in memory in any case, and it wants work for all of its
 * processors. */
enum { INDEX_SCORES = 1 << 21, INDEX_SCORES_CUDA = 1 << 26 };

/* Where the codes of row `row` of a pool in eight bits are, and its scales: bytes from the pool's
 * beginning, dim a multiple of 4. */
PAGES_INLINE int64_t index_page_at(int64_t row, int64_t dim) {
    return row / PAGE_TOKENS * PAGE_TOKENS * latent_row_bytes(dim, 0);
}
PAGES_INLINE int64_t index_codes_at(int64_t row, int64_t dim) {
    return index_page_at(row, dim) + row % PAGE_TOKENS * dim;
}
PAGES_INLINE int64_t index_scales_at(int64_t row, int64_t dim) {
    return index_page_at(row, dim) + PAGE_TOKENS * dim +
           row % PAGE_TOKENS * (latent_row_bytes(dim, 0) - dim);
}

typedef struct IndexShape {
    int batch, q_len; /* T queries of each sequence, the last of its tokens */
    int first, count; /* of these, the ones that this pass is about */
    int heads, dim;   /* of the indexer */
    float scale;
    int kv_len; /* keys of a sequence, at most: the length of a row of scores */
    /* Keys in pages, of a pool with rows of `dim` numbers, or in eight bits when e4m3. NULL: keys
     * are [B, kv_len, dim], and every sequence has them all. */
    const int32_t *block_table, *lengths;
    int max_pages;
    bool e4m3;
} IndexShape;

/* Keys up to query t of sequence b, itself included. */
PAGES_INLINE int index_keys_seen(const IndexShape *s, int b, int t) {
    return (s->lengths ? s->lengths[b] : s->kv_len) - s->q_len + t + 1;
}

/*
 * scores [B, count, kv_len] of queries first .. first + count - 1; q [B, T, H, D], weights F32
 * [B, T, H]. What a query does not see is not written. A score's bits do not depend on the number
 * of queries or of threads, nor on whether keys lie in pages. The reference is two loops in double
 * precision.
 */
KERNEL(index_scores, float *scores, const Real *q, const float *weights, const void *keys,
       IndexShape shape);
void index_scores_reference_cpu(float *scores, const float *q, const float *weights,
                                const void *keys, IndexShape shape);

/*
 * CUDA's ladder; index_scores_cuda picks the fastest that takes these sizes.
 *   plain      a thread for each key; every dtype, size and kind of key
 *   mma        mma.sync: BF16 and keys in eight bits, heads of 16, 32, ... 128 numbers
 *   hopper     wgmma: BF16, and keys in eight bits as such; 32 or 64 heads of 128 numbers
 */
__typeof__(index_scores_cuda) index_scores_plain_cuda, index_scores_mma_cuda,
    index_scores_hopper_cuda;
int index_scores_mma_supports(const Gpu *gpu, DType dtype, const void *q, const void *keys,
                              IndexShape shape);
int index_scores_hopper_supports(const Gpu *gpu, DType dtype, const void *q, const void *keys,
                                 IndexShape shape);

/*
 * selected I32 [B, T, k], its rows first .. first + count - 1: the positions of the k largest
 * scores that each query sees, ascending; -1 behind them where it sees fewer. Of equal scores the
 * lower position is chosen, 0 and -0 are equal, and NaN is below all numbers.
 */
KERNEL(top_k, int32_t *selected, const float *scores, int k, IndexShape shape);
/* CUDA's ladder: plain, a block for each row; hopper, a cluster of blocks, whose shared memory
 * holds the row. */
__typeof__(top_k_cuda) top_k_plain_cuda, top_k_hopper_cuda;
int top_k_hopper_supports(const Gpu *gpu, IndexShape shape);

/* The same of one row of n scores; and by its definition, k times the largest. */
void top_k_row_cpu(int32_t *selected, const float *scores, int n, int k);
void top_k_reference_cpu(int32_t *selected, const float *scores, int n, int k);

/* y = (x - mean) / sqrt(variance + eps) * w + b      x [rows, d], moments [rows, 2]: mean and
 * 1 / sqrt(...)      (Ba et al. 2016) */
KERNEL(layer_norm_forward, Real *y, float *moments, const Real *x, const Real *w, const Real *b,
       int64_t rows, int64_t d, float eps);
/* dw and db are F32. NULL gradients are not computed. */
KERNEL(layer_norm_backward, Real *dx, int add_x, float *dw, int add_w, float *db, int add_b,
       const Real *dy, const Real *x, const Real *w, const float *moments, int64_t rows, int64_t d);

/*
 * x <- x H / sqrt(d) for rows of d numbers, a power of two; H is Hadamard's matrix of +1 and -1. A
 * rotation: products of rows that were both turned stay the same, while what stood out in one
 * number is spread over all, so that eight bits hold a row better.
 */
KERNEL(hadamard, Real *x, int64_t rows, int64_t d);

/* x <- what its rows are when written in eight bits and read again (04_mla/latent_row.h). */
KERNEL(index_round, Real *x, int64_t rows, int64_t d);

/* The keys k [B, tokens, dim] of the step's tokens into a pool of eight bits. */
KERNEL(index_append_e4m3, void *keys, const int32_t *block_table, const int32_t *lengths,
       const Real *k, int64_t batch, int64_t tokens, int64_t dim, int64_t max_pages);

/* y F32 = x: weights_proj is F32 whatever the model is, and so is what it multiplies. */
KERNEL(index_widen, float *y, const Real *x, int64_t n);

__END_DECLS
#endif
