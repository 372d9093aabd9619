/*
 * Causal attention in tiles: the T x T matrix is never stored.
 *
 *     O = softmax(mask(Q K^T * scale)) V            for every (batch, head)
 *
 * Layout. q [B, q_len, H, qk_dim], k [B, kv_len, H_kv, qk_dim], v [B, kv_len, H_kv, v_dim],
 * o [B, q_len, H, v_dim]: the output of a linear layer, seen as heads, without a transpose. Strides
 * allow more: a cache longer than kv_len, or q, k and v side by side in one buffer. Query head h
 * reads key head h / (H / H_kv) (grouped-query attention; H_kv = H: plain multi-head attention).
 *
 * Mask. The queries are the last q_len of kv_len positions: query i sees keys
 * 0 .. i + kv_len - q_len. With q_len = kv_len that is training; with q_len = 1, decoding from a
 * cache; in between, a chunk of a prompt. causal = 0 lets every query see every key.
 *
 * lse [B, H, q_len] F32: log sum_j exp(s_ij), all that backward needs to bring the probabilities
 * back (natural log of the scaled scores).
 */
#ifndef CAUSAL_H
#define CAUSAL_H

#include "common/core/context.h"

__BEGIN_DECLS

typedef struct HeadStrides {
    int64_t batch, token, head; /* in elements; the last dimension is contiguous */
} HeadStrides;

typedef struct AttentionShape {
    int batch, heads, kv_heads; /* heads is a multiple of kv_heads */
    int q_len, kv_len;          /* q_len <= kv_len when causal */
    int qk_dim, v_dim;
    int causal;
    int tiles;   /* CPU: also for a few queries, so that one is the same alone and among many */
    float scale; /* usually 1 / sqrt(qk_dim) */
    HeadStrides q, k, v, o;
} AttentionShape;

/* The widest head the CPU's tiles hold: DeepSeek's absorbed latent, 512 + 64. */
enum { ATTENTION_MAX_DIM = 576 };

/* The shape of contiguous tensors, with scale 1 / sqrt(qk_dim). */
AttentionShape attention_shape(int batch, int heads, int kv_heads, int q_len, int kv_len,
                               int qk_dim, int v_dim, int causal);

/* [mask] */
/* How many keys query i sees: all up to its own position. This one line is the causal mask. */
static inline int attention_keys_seen(const AttentionShape *shape, int i) {
    return shape->causal ? shape->kv_len - shape->q_len + i + 1 : shape->kv_len;
}
/* [/mask] */

/* Aborts unless the sizes fit together; `where` begins the message. */
void attention_shape_check(const char *where, const AttentionShape *shape);

/*
 * q [B, T, H, D], k [B, S, H_kv, D], v [B, S, H_kv, D_v] -> [B, T, H, D_v]; S >= T.
 * scale 0 means 1 / sqrt(D).
 */
Tensor *causal_attention(Context *ctx, Tensor *q, Tensor *k, Tensor *v, float scale);

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/* The reference: plain loops, one row of scores at a time. */
void causal_reference_cpu(float *o, float *lse, const float *q, const float *k, const float *v,
                          AttentionShape shape);
void causal_reference_backward_cpu(float *dq, int add_q, float *dk, int add_k, float *dv, int add_v,
                                   const float *d_o, const float *q, const float *k, const float *v,
                                   const float *o, const float *lse, AttentionShape shape);

/* What one writes first: all scores of a head at once. p [B, H, q_len, kv_len] are the
 * probabilities, kept for backward; scratch is as large. */
void causal_materialised_cpu(float *o, float *p, const float *q, const float *k, const float *v,
                             AttentionShape shape);
void causal_materialised_backward_cpu(float *dq, int add_q, float *dk, int add_k, float *dv,
                                      int add_v, float *scratch, const float *d_o, const float *q,
                                      const float *k, const float *v, const float *p,
                                      AttentionShape shape);

/* The online softmax of one query, one tile at a time: m = max s_k, l = sum exp(s_k - m) over the
 * keys seen so far. */
typedef struct OnlineSoftmax {
    float m, l; /* before the first tile: -INFINITY, 0 */
} OnlineSoftmax;

/*
 * `keys` more scores s (scaled) and their values v [keys, v_dim], v_token elements apart, join the
 * state and the unnormalised output o [v_dim] (before the first tile: zeros). s becomes exp(s - m).
 * After the last tile the attention output is o / l, and lse = m + log l.
 */
void online_softmax(OnlineSoftmax *state, float *o, float *s, int keys, const float *v,
                    int64_t v_token, int v_dim);

/* In use: tiles with the online softmax. scratch: causal_backward_scratch_*() bytes. NULL gradients
 * are not computed. The gradients have the strides of their tensors. */
KERNEL(causal_forward, Real *o, float *lse, const Real *q, const Real *k, const Real *v,
       AttentionShape shape);
KERNEL(causal_backward, Real *dq, int add_q, Real *dk, int add_k, Real *dv, int add_v,
       float *scratch, const Real *d_o, const Real *q, const Real *k, const Real *v, const Real *o,
       const float *lse, AttentionShape shape);

/*
 * CUDA's ladder, from the plain one up; causal_forward_cuda picks the fastest rung that takes this
 * dtype, these dimensions and this GPU. The first two take every dtype, dimension (online: up to
 * 256) and GPU; for the others *_supports() says whether they do.
 *   materialised  S = Q K^T, softmax and P V, each a kernel; S in global memory
 *   online        tiles and the online softmax, CUDA cores: the F32 kernel in use
 *   mma           tensor cores of sm_80 and later, BF16
 *   hopper        TMA and wgmma, warp-specialised, BF16
 */
__typeof__(causal_forward_cuda) causal_forward_materialised_cuda, causal_forward_online_cuda,
    causal_forward_mma_cuda, causal_forward_hopper_cuda;
int causal_mma_supports(Gpu *gpu, DType dtype, const void *o, const void *q, const void *k,
                        const void *v, AttentionShape shape);
int causal_hopper_supports(Gpu *gpu, DType dtype, const void *o, const void *q, const void *k,
                           const void *v, AttentionShape shape);

/*
 * The backward's ladder, from which causal_backward_cuda picks likewise. Every rung gives the same
 * bits in every run. A NULL gradient is not computed; the scratch is of
 * causal_backward_scratch_cuda() bytes.
 *   tiled    CUDA cores, every dtype and GPU, dimensions up to 256: the F32 kernel in use
 *   mma      tensor cores of sm_80 and later, BF16, dimensions up to 192 (q, k) and 128 (v)
 *   hopper   TMA and wgmma, BF16, dimensions of 33 to 128;
 *            made for 64 and 64, 96 and 64, 128 and 128
 */
__typeof__(causal_backward_cuda) causal_backward_tiled_cuda, causal_backward_mma_cuda,
    causal_backward_hopper_cuda;
int causal_backward_mma_supports(const Gpu *gpu, DType dtype, const void *dq, const void *dk,
                                 const void *dv, const void *d_o, const void *q, const void *k,
                                 const void *v, AttentionShape shape);
int causal_backward_hopper_supports(const Gpu *gpu, DType dtype, const void *dq, const void *dk,
                                    const void *dv, const void *d_o, const void *q, const void *k,
                                    const void *v, const void *o, AttentionShape shape);

/* delta [B, H, q_len] F32 = rowsum(dO * O): the gradient that a row's scores have in common. */
void causal_delta_cuda(Gpu *gpu, DType dtype, float *delta, const void *d_o, const void *o,
                       AttentionShape shape);

/* Bytes of the scratch that backward needs, on either device. */
size_t causal_backward_scratch_cpu(AttentionShape shape);
size_t causal_backward_scratch_cuda(Gpu *gpu, DType dtype, AttentionShape shape);
size_t causal_backward_scratch_hopper_cuda(AttentionShape shape); /* what that rung alone needs */

__END_DECLS
#endif
