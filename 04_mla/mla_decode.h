/*
 * Absorbed decoding: all heads against one latent per token.
 *
 *     s[h, j] = q[h] . z[j] * scale              q = [q_nope W_uk | q_rope]    z = [c_kv | k_rope]
 *     o[h]    = sum_j softmax(s[h])[j] c_kv[j]                                 (V2, section 2.1.2)
 *
 * Keys and values are the same memory: the first kv_lora_rank numbers of a row z are its value, all
 * of them are its key. So a row is loaded once, takes part in
 * 2 H (kv_lora_rank + qk_rope_head_dim) + 2 H kv_lora_rank operations, and nothing of it is needed
 * twice. At V3's sizes in BF16 that is 2176 H operations for 1152 bytes: with H = 16 heads on a GPU
 * (eight-way tensor parallelism) memory is the limit, with H = 128 the tensor cores are.
 *
 * With q_len > 1 (a chunk of a prompt, or the guesses of chapter 06) the queries are the last q_len
 * of lengths[b] tokens: query i sees the first lengths[b] - q_len + i + 1.
 *
 * The rows lie in pages (pages.h). Lengths and block table are read on the device alone: a
 * captured CUDA graph works for every length up to max_length.
 */
#ifndef MLA_DECODE_H
#define MLA_DECODE_H

#include "04_mla/latent_cache.h"

__BEGIN_DECLS

/* The widest row: kv_lora_rank + rope_dim. DeepSeek's are 576; registers and stack hold this. */
enum { MLA_DECODE_MAX_WIDTH = 1024 };

typedef struct MlaDecodeShape {
    int batch, q_len, heads;
    int kv_lora_rank; /* 512 in V2 and V3: the width of a value */
    int rope_dim;     /* 64, may be 0: a key is kv_lora_rank + rope_dim wide */
    int pages;        /* in the pool, of all sequences together */
    int max_pages;    /* entries in one sequence's line of the block table */
    int max_length;   /* no sequence is longer; sizes grids and scratch */
    float scale;      /* usually 1 / sqrt(qk_nope_head_dim + qk_rope_head_dim) */
    bool e4m3;        /* rows of latent_row.h */
    bool as_single; /* the tiles of q_len 1: a query's sums do not see how many others there are */
} MlaDecodeShape;

/* Aborts unless the sizes fit together; `where` begins the message. */
void mla_decode_check(const char *where, const MlaDecodeShape *shape);

/* How many tokens row r of a sequence's q_len * heads sees: the causal mask of its last q_len. */
PAGES_INLINE int mla_keys_seen(const MlaDecodeShape *s, int length, int row) {
    return length - s->q_len + row / s->heads + 1;
}

/* Operations and bytes by FlashMLA's count, for one sequence length in all: 2 B q_len H length
 * (2 kv_lora_rank + rope_dim), and q + latent + o. */
double mla_decode_flop(MlaDecodeShape shape, int length);
double mla_decode_bytes(MlaDecodeShape shape, int length, DType dtype);

/*
 * ---- kernels (KERNEL and Real: gpu.h) ----
 *
 * q [B, q_len, H, kv_lora_rank + rope_dim], o [B, q_len, H, kv_lora_rank],
 * latent [pages, PAGE_TOKENS, kv_lora_rank + rope_dim], or rows of latent_row.h with shape.e4m3;
 * block_table I32 [B, max_pages],
 * lengths I32 [B], each from q_len to max_length. scratch: mla_decode_scratch_*() bytes.
 */

/* The reference: plain loops, one row of scores at a time; needs no scratch (NULL will do). */
void mla_decode_reference_cpu(float *o, float *scratch, const float *q, const float *latent,
                              const int32_t *block_table, const int32_t *lengths,
                              MlaDecodeShape shape);

/* In use: pieces of a sequence side by side, a page a time as two matrix products, joined by the
 * online softmax of chapter 02. The result does not depend on the number of threads. */
KERNEL(mla_decode, Real *o, float *scratch, const Real *q, const Real *latent,
       const int32_t *block_table, const int32_t *lengths, MlaDecodeShape shape);

/*
 * CUDA's ladder, from the plain one up; mla_decode_cuda picks the fastest rung that takes this
 * dtype, these sizes and this GPU. The first three take every dtype, size and GPU (naive: up to
 * 65,535 rows, q_len x heads); for the others *_supports() says whether they do.
 *   naive    scores, softmax and weighted sum, each a kernel; the latent is read twice per head.
 *            Its scratch holds all scores: mla_decode_naive_scratch()
 *   online   one pass over the latent for keys and values, a warp for each query head
 *   split    a sequence's pages cut into pieces that run side by side, then a combine step: the
 *            F32 kernel in use
 *   mma      tensor cores of sm_80 and later: a block holds many heads, a page is loaded once for
 *            all of them. BF16
 *   hopper   TMA and wgmma, BF16, kv_lora_rank 512 and rope_dim 64
 * Rows of latent_row.h (shape.e4m3) are taken by split, everywhere, and in BF16 by
 *   e4m3     mma for such rows: codes become numbers between shared memory and registers
 *   e4m3_hopper     the same with wgmma, kv_lora_rank 512 and rope_dim 64
 */
__typeof__(mla_decode_cuda) mla_decode_naive_cuda, mla_decode_online_cuda, mla_decode_split_cuda,
    mla_decode_mma_cuda, mla_decode_e4m3_cuda, mla_decode_hopper_cuda, mla_decode_e4m3_hopper_cuda;
int mla_decode_e4m3_hopper_supports(const Gpu *gpu, DType dtype, MlaDecodeShape shape);
int mla_decode_e4m3_supports(const Gpu *gpu, DType dtype, MlaDecodeShape shape);
int mla_decode_mma_supports(const Gpu *gpu, DType dtype, MlaDecodeShape shape);
int mla_decode_hopper_supports(const Gpu *gpu, DType dtype, MlaDecodeShape shape);

/* Bytes of scratch: enough for the kernel in use, on either device, and on CUDA for every rung but
 * the naive one. */
size_t mla_decode_scratch_cpu(MlaDecodeShape shape);
size_t mla_decode_scratch_cuda(Gpu *gpu, DType dtype, MlaDecodeShape shape);
/* What single rungs need. */
size_t mla_decode_naive_scratch(MlaDecodeShape shape);
size_t mla_decode_hopper_scratch(Gpu *gpu, MlaDecodeShape shape);
size_t mla_decode_e4m3_hopper_scratch(Gpu *gpu, MlaDecodeShape shape);

__END_DECLS
#endif
