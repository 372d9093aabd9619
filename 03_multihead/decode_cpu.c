/*
 * Decoding attention on the CPU. See decode.h for why it is cut into groups and pieces.
 *
 * A piece of one key head is walked over in tiles of TILE keys. The tile (32 rows of 64 floats
 * are 8 KB of keys and 8 KB of values) comes from memory once and stays in the first-level cache
 * while every query head of the group uses it.
 */
#include "decode.h"

#include "../02_causal/causal.h"
#include "../common/fastmath.h"

#include <math.h>
#include <string.h>

enum { TILE = 32 };
enum {
    PARALLEL = 1 << 15
}; /* numbers of cache below which waking threads costs more than it brings */

/* scratch is [B, H, pieces] of m, l, o[D] */
static float *piece_of(float *scratch, const DecodeShape *s, int64_t b, int64_t h, int64_t piece) {
    return scratch + ((b * s->heads + h) * decode_pieces(*s) + piece) * (s->head_dim + 2);
}

static float dot(const float *a, const float *b, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* [decode_piece] */
/* One piece of key head g of sequence b, for all the query heads that share it. */
static void decode_piece(float *scratch, const float *q, const float *k, const float *v,
                         const DecodeShape *s, int b, int g, int piece) {
    int D = s->head_dim, group = s->heads / s->kv_heads;
    int64_t token = (int64_t)s->kv_heads * D; /* from one key to the next */
    int64_t first = (int64_t)b * s->capacity * token + (int64_t)g * D;
    int begin = piece * s->split;
    int end = begin + s->split < s->length ? begin + s->split : s->length;

    for (int i = 0; i < group; i++) {
        float *state = piece_of(scratch, s, b, g * group + i, piece);
        state[0] = -INFINITY;
        memset(state + 1, 0, (size_t)(D + 1) * sizeof *state);
    }
    for (int j = begin; j < end; j += TILE) {
        int keys = end - j < TILE ? end - j : TILE;
        for (int i = 0; i < group; i++) {
            const float *q_head = q + ((int64_t)b * s->heads + g * group + i) * D;
            float *state = piece_of(scratch, s, b, g * group + i, piece), scores[TILE];
            for (int t = 0; t < keys; t++)
                scores[t] = s->scale * dot(q_head, k + first + (j + t) * token, D);
            OnlineSoftmax online = {state[0], state[1]};
            online_softmax(&online, state + 2, scores, keys, v + first + j * token, token, D);
            state[0] = online.m;
            state[1] = online.l;
        }
    }
}
/* [/decode_piece] */

void decode_attention_cpu(float *o, float *scratch, const float *q, const float *k, const float *v,
                          DecodeShape s) {
    int64_t numbers = (int64_t)s.batch * s.length * s.kv_heads * s.head_dim;
    int pieces = decode_pieces(s);
#pragma omp parallel for collapse(3) schedule(static) if (numbers > PARALLEL)
    for (int b = 0; b < s.batch; b++)
        for (int g = 0; g < s.kv_heads; g++)
            for (int piece = 0; piece < pieces; piece++)
                decode_piece(scratch, q, k, v, &s, b, g, piece);
    decode_join_cpu(o, scratch, s);
}
