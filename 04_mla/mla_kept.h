/*
 * Keys and values as training makes them, kept from step to step, on the CPU.
 *
 * A cache of latents makes all keys and values again at each step, or absorbs their matrices; both
 * are dear for who decodes token by token and has to have training's numbers, bit for bit
 * (MLA_AS_TRAINED). But a token's keys and values depend on its row of the cache and on kv_b_proj
 * alone. So they are kept beside a copy of what they were made of, and made again where that has
 * changed: nobody has to say that tokens were forgotten, pages changed hands, or weights learned.
 *
 * Invariant: for t < known[b], k and kv of token t are what row b capacity + t of `latent` and
 * `weight` give. Memory: what the naive attention needs for all tokens of a layer at once, here for
 * each layer; where that is more than 256 MB, nothing is kept.
 */
#ifndef MLA_KEPT_H
#define MLA_KEPT_H

#include "04_mla/mla.h"

__BEGIN_DECLS

typedef struct MlaKept {
    int batch, capacity;
    float *weight; /* kv_b_proj [H (nope + v), rank] */
    float *latent; /* [batch, capacity, rank + rope] */
    float *k;      /* [batch, H, nope + rope, capacity] */
    float *kv;     /* [batch, capacity, H, nope + v] */
    int *known;    /* [batch]: rows that have been made */
    int *length;   /* [batch]: of the sequences, the last time */
    int steps;     /* begun by then (pages.h) */
    int64_t made;  /* rows so far, for tests */
} MlaKept;

/*
 * Attention of one new token of each sequence, q [B, 1, H, nope + rope], over all of the cache:
 * [B, 1, H, v]. NULL where nothing is kept: on a GPU, for more tokens or a selection, of quantised
 * weights or rows, or where it would be too much.
 */
Tensor *mla_kept_attention(Context *ctx, Tensor *q, const Tensor *selected, const Mla *w,
                           const MlaConfig *cfg, LatentCache *cache, float scale);
void mla_kept_free(MlaKept *kept); /* NULL: fine */

__END_DECLS
#endif
