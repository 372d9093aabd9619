/*
 * The latent cache: 576 numbers a token instead of 32,768, in one pool for all sequences.
 *
 * A row is what MLA keeps of a token in one layer: [c_kv after its norm | k_rope after its
 * rotation]. Where it lies, the pages say (pages.h), for all layers the same; a layer's cache is
 * its pool of rows. Another kind of row, of another width, is another pool under the same pages.
 *
 * A row is numbers of ctx's dtype, or latent_row.h's bytes: then the pool's dtype is F8_E4M3, and
 * its rows are of bytes.
 */
#ifndef LATENT_CACHE_H
#define LATENT_CACHE_H

#include "04_mla/latent_row.h"

__BEGIN_DECLS

typedef struct LatentCache {
    Pages *pages;  /* of all layers */
    Tensor latent; /* [pages, PAGE_TOKENS, width], ctx's dtype; or E4M3, then bytes of a row */
    int width;     /* numbers of a row */
    int c_width;   /* of E4M3: how many of them are c_kv's */
    int written;   /* the step whose rows it has, as pages->steps counts */
    Gpu *gpu;      /* who gives the memory back; NULL on the CPU */
    struct LatentCache *keys; /* of a selection (selection.h), under the same pages; or NULL */
    struct MlaKept *kept;     /* what was made of the rows (mla_kept.h), or NULL */
} LatentCache;

/*
 * One layer's pool under `pages`, which must outlive it; width = kv_lora_rank + qk_rope_head_dim.
 * -1 and a message when memory runs out.
 */
int latent_cache_init(LatentCache *cache, Context *ctx, Pages *pages, int width, Error *err);
/* The same with rows of latent_row.h; also -1 if kv_lora_rank is not a multiple of 4, or rope_dim
 * odd. And with either kind of rows. */
int latent_cache_init_e4m3(LatentCache *cache, Context *ctx, Pages *pages, int kv_lora_rank,
                           int rope_dim, Error *err);
int latent_cache_init_as(LatentCache *cache, Context *ctx, Pages *pages, int kv_lora_rank,
                         int rope_dim, bool e4m3, Error *err);
/* A second pool, for a selection's keys of `width` numbers: freed with the first. */
int latent_cache_add_keys(LatentCache *cache, Context *ctx, int width, bool e4m3, Error *err);
void latent_cache_free(LatentCache *cache); /* zeros, or freed before: fine */

/*
 * c_kv [B, T, kv_lora_rank], k_rope [B, T, qk_rope_head_dim] (NULL when that is 0): the rows of the
 * T tokens that the step began with, in every sequence.
 */
void latent_cache_append(Context *ctx, LatentCache *cache, const Tensor *c_kv,
                         const Tensor *k_rope);

/* Has it rows of latent_row.h? */
bool latent_cache_is_e4m3(const LatentCache *cache);

/* Aborts unless a step of `tokens` began whose rows are not here yet; from now on they are. For
 * those who write them by kernels of their own. */
void latent_cache_writes(LatentCache *cache, const char *where, int64_t tokens);

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/* Row lengths[b] - tokens + t of sequence b = [c_kv[b, t] | k_rope[b, t]]. */
KERNEL(latent_append, Real *latent, const int32_t *block_table, const int32_t *lengths,
       const Real *c_kv, const Real *k_rope, int64_t batch, int64_t tokens, int64_t c_width,
       int64_t rope_width, int64_t max_pages);
/* The same into rows of latent_row.h: c_kv is rounded, k_rope becomes BF16 if it is not. */
KERNEL(latent_append_e4m3, void *latent, const int32_t *block_table, const int32_t *lengths,
       const Real *c_kv, const Real *k_rope, int64_t batch, int64_t tokens, int64_t c_width,
       int64_t rope_width, int64_t max_pages);
/* c_kv [batch, length, c_width], k_rope [batch, length, rope_width]: the first `length` rows of
 * every sequence, read back; rows past lengths[b] become zero. */
KERNEL(latent_gather, Real *c_kv, Real *k_rope, const Real *latent, const int32_t *block_table,
       const int32_t *lengths, int64_t batch, int64_t length, int64_t c_width, int64_t rope_width,
       int64_t max_pages);
KERNEL(latent_gather_e4m3, Real *c_kv, Real *k_rope, const void *latent, const int32_t *block_table,
       const int32_t *lengths, int64_t batch, int64_t length, int64_t c_width, int64_t rope_width,
       int64_t max_pages);
/* A row in eight bits, and back: c [c_width], k [rope_width]. */
void latent_row_write_cpu(void *row, const float *c, const float *k, int64_t c_width,
                          int64_t rope_width);
void latent_row_read_cpu(float *c, float *k, const void *row, int64_t c_width, int64_t rope_width);

/* latent_gather of whatever rows the cache has, for `batch` sequences from b on. */
void latent_cache_gather(Context *ctx, const LatentCache *cache, void *c_kv, void *k_rope,
                         int64_t b, int64_t batch, int64_t length, int64_t c_width);

__END_DECLS
#endif
