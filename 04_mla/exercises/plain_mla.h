/* What exercise 04.9 shares with its check: latent attention of one sequence, without rotation. */
#ifndef PLAIN_MLA_H
#define PLAIN_MLA_H

#include "04_mla/mla.h"

typedef struct PlainWeights { /* q_proj, kv_a_proj, kv_a_layernorm, kv_b_proj, o_proj of mla.h */
    const float *q, *kv_a, *norm, *kv_b, *o;
} PlainWeights;

/* y, x [T, hidden_size]; at most 64 tokens, 128 numbers in a latent, 64 in a head. Queries are not
 * compressed. */
void plain_mla(float *y, const float *x, PlainWeights w, const MlaConfig *cfg, int T);

#endif
