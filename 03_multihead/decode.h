/*
 * Decoding attention: one new token of each sequence against the cache.
 *
 *     o[b, h] = softmax(q[b, h] . K[b, :, g]^T * scale) V[b, :, g]          g = h / (H / H_kv)
 *
 * Each key and each value is used for two operations per query head and must come from memory
 * first: 4 (H / H_kv) operations for 2 numbers. While few heads share a key no machine is short of
 * arithmetic; the time is the bytes of the cache divided by the bandwidth. Two things follow, and
 * they are the whole design.
 *
 * Groups: the H / H_kv query heads that share a key are worked on together; the key is read once.
 *
 * Splits: one sequence's keys are cut into pieces that run side by side, for a batch of one must
 * keep a whole GPU reading (Dao et al. 2023, "Flash-Decoding"). Each piece leaves its running
 * maximum m, sum l and output o of chapter 02's online softmax; joining two pieces is the same
 * step as adding a tile.
 *
 * Chapter 02's kernel with one query computes the same and is what the tests compare with.
 */
#ifndef DECODE_H
#define DECODE_H

#include "common/core/context.h"

__BEGIN_DECLS

typedef struct DecodeShape {
    int batch, heads, kv_heads, head_dim; /* heads is a multiple of kv_heads */
    int length;                           /* keys that are there, at least 1 */
    int capacity;                         /* tokens from one sequence of the cache to the next */
    int split;                            /* keys in a piece */
    float scale;                          /* usually 1 / sqrt(head_dim) */
} DecodeShape;

/* With scale 1 / sqrt(head_dim), and pieces such that there are enough of them but none is tiny.
 * A function of the sizes alone: the result does not depend on how many threads or processors
 * there are. */
DecodeShape decode_shape(int batch, int heads, int kv_heads, int head_dim, int length,
                         int capacity);

/* Pieces of one sequence's keys: length / split, rounded up. */
int decode_pieces(DecodeShape shape);

/* Floats of scratch: m, l and o of every piece of every query head. */
int64_t decode_scratch_floats(DecodeShape shape);

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/* q, o [B, H, D]; k, v [B, capacity, H_kv, D]; scratch: decode_scratch_floats() */
KERNEL(decode_attention, Real *o, float *scratch, const Real *q, const Real *k, const Real *v,
       DecodeShape shape);

/* The second half of it: joins the pieces that the first half left in scratch. */
void decode_join_cpu(float *o, const float *scratch, DecodeShape shape);

/*
 * CUDA's ladder, of which grouped is in use for D 64 and 128, plain for every other size. plain: a
 * block for each query head and piece, any D. grouped: a block for each key head and piece.
 */
__typeof__(decode_attention_cuda) decode_plain_cuda, decode_grouped_cuda;
int decode_grouped_supports(const void *q, const void *k, const void *v, DecodeShape shape);

__END_DECLS
#endif
