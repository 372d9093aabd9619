/*
 * The latent cache: 576 numbers a token instead of 32,768, in pages that many sequences share.
 *
 * A row is what MLA keeps of a token in one layer: [c_kv after its norm | k_rope after its
 * rotation]. Rows live in pages of PAGE_TOKENS tokens; a sequence is a list of page numbers, its
 * line of the block table, so sequences of different lengths share one pool without gaps (Kwon et
 * al. 2023, "PagedAttention"):
 *
 *     row of token t of sequence b  =  latent[ block_table[b][t / PAGE_TOKENS] ][ t % PAGE_TOKENS ]
 *
 * Invariants: tokens 0 .. lengths[b] - 1 of sequence b are valid, and what lies behind is not read;
 * a page belongs to one sequence or to the free list, never to two. Block table and lengths are on
 * the device, where the kernels read them; the host keeps a copy of both to decide with. Pages are
 * handed out before anything is written, so a step that began cannot fail.
 */
#ifndef LATENT_CACHE_H
#define LATENT_CACHE_H

#include "common/core/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PAGE_TOKENS = 64 }; /* tokens; one TMA box on Hopper */

/* For the CPU's kernels and the GPU's: where a token lies is said once. */
#ifdef __CUDACC__
#define PAGES_INLINE __host__ __device__ __forceinline__ static
#else
#define PAGES_INLINE static inline
#endif

/* Where token t of the sequence with this line of the block table lies, in rows of the pool. */
PAGES_INLINE int64_t page_row(const int32_t *pages, int64_t t) {
    return (int64_t)pages[t / PAGE_TOKENS] * PAGE_TOKENS + t % PAGE_TOKENS;
}

typedef struct LatentCache {
    Tensor latent;      /* [pages, PAGE_TOKENS, width], ctx's dtype */
    Tensor block_table; /* I32 [batch, max_pages], on ctx's device */
    Tensor lengths;     /* I32 [batch], on ctx's device */
    int batch, pages, max_pages, width;
    int capacity;    /* tokens that one sequence may hold */
    int horizon;     /* 0; or, for a step captured as a CUDA graph, the longest length it will see:
                   * sizes of grids and scratch are those of capture time */
    int *length;     /* [batch]: the host's copies */
    int32_t *table;  /* [batch, max_pages] */
    int *used_pages; /* [batch]: pages that each sequence owns */
    int *free_pages; /* a stack of free_count page numbers */
    int free_count;
    Gpu *gpu; /* who gives the memory back; NULL on the CPU */
} LatentCache;

/*
 * One layer's cache, empty: `batch` sequences of up to `capacity` tokens each, `pages` pages in all
 * (0: enough for every sequence at its capacity); width = kv_lora_rank + qk_rope_head_dim. -1 and a
 * message when a number makes no sense or memory runs out.
 */
int latent_cache_init(LatentCache *cache, Context *ctx, int batch, int capacity, int pages,
                      int width, Error *err);
void latent_cache_free(LatentCache *cache); /* zeros, or freed before: fine */

/*
 * Makes room for `tokens` more in every sequence. -1 and a message that names the sequence, what
 * it holds and what is missing; then no page has changed hands.
 */
int latent_cache_reserve(LatentCache *cache, int tokens, Error *err);

/*
 * c_kv [B, T, kv_lora_rank], k_rope [B, T, qk_rope_head_dim] (NULL when that is 0): the next T
 * tokens of every sequence.
 * Reserves, writes, and lengthens. -1 and a message when they do not fit; then nothing was written.
 */
int latent_cache_append(Context *ctx, LatentCache *cache, const Tensor *c_kv, const Tensor *k_rope,
                        Error *err);

/*
 * A captured CUDA graph that appends `tokens` was launched again: the device's lengths have moved,
 * the host's follow. Reserve before the launch. (latent_cache_append counts by itself.)
 */
void latent_cache_count(LatentCache *cache, int tokens);

/*
 * Forgets all tokens of sequence b but the first `length`, and frees its pages behind them. This is
 * how prompts of different lengths enter: append them padded on the right, then cut each to size
 * (the mask is causal, so the padding was never seen).
 */
void latent_cache_truncate(LatentCache *cache, int b, int length);

/* I32 [B, T]: the positions of the next T tokens, lengths[b] + t. From the device's lengths, so
 * that a captured CUDA graph counts on. */
Tensor *latent_cache_positions(Context *ctx, const LatentCache *cache, int64_t T);

/* The longest sequence, by the host's count. */
int latent_cache_longest(const LatentCache *cache);

/* ---- kernels: on the CPU every T * is a float *; on CUDA float * or bf16 * by dtype ---- */

/* Row lengths[b] + t of sequence b = [c_kv[b, t] | k_rope[b, t]]. Does not change lengths. */
void latent_append_cpu(float *latent, const int32_t *block_table, const int32_t *lengths,
                       const float *c_kv, const float *k_rope, int64_t batch, int64_t tokens,
                       int64_t c_width, int64_t rope_width, int64_t max_pages);
/* lengths[b] += tokens */
void latent_advance_cpu(int32_t *lengths, int64_t batch, int32_t tokens);
/* c_kv [batch, length, c_width], k_rope [batch, length, rope_width]: the first `length` rows of
 * every sequence, read back; rows past lengths[b] become zero. */
void latent_gather_cpu(float *c_kv, float *k_rope, const float *latent, const int32_t *block_table,
                       const int32_t *lengths, int64_t batch, int64_t length, int64_t c_width,
                       int64_t rope_width, int64_t max_pages);

#ifdef WITH_CUDA
void latent_append_cuda(Gpu *gpu, DType dtype, void *latent, const int32_t *block_table,
                        const int32_t *lengths, const void *c_kv, const void *k_rope, int64_t batch,
                        int64_t tokens, int64_t c_width, int64_t rope_width, int64_t max_pages);
void latent_advance_cuda(Gpu *gpu, DType dtype, int32_t *lengths, int64_t batch, int32_t tokens);
void latent_gather_cuda(Gpu *gpu, DType dtype, void *c_kv, void *k_rope, const void *latent,
                        const int32_t *block_table, const int32_t *lengths, int64_t batch,
                        int64_t length, int64_t c_width, int64_t rope_width, int64_t max_pages);
#endif

#ifdef __cplusplus
}
#endif
#endif
