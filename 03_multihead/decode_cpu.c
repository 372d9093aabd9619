/*
 * Decoding attention on the CPU. See decode.h for why it is cut into groups and pieces.
 *
 * A piece of one key head is walked over in tiles of LANES keys, with chapter 02's small matrix
 * product: once for scores = Q K^T, query heads times keys, once for O += P V. The keys of a tile
 * are turned first, so that they lie side by side in a vector and no sum runs across one. A tile
 * (32 keys of 64 numbers are 8 KB, and as much again of values) comes from memory once and then
 * serves every query head of the group.
 */
#include "03_multihead/decode.h"

#include "02_causal/causal_tile.h"
#include "common/core/fastmath.h"

#include <math.h>
#include <string.h>

enum { HEADS = 16 };         /* query heads whose scores are kept at once */
enum { PARALLEL = 1 << 15 }; /* numbers of cache below which waking threads costs more */

/* scratch is [B, H, pieces] of a state: m, l, o[D] */
/*
 * One head's online softmax over a tile: scores become e^(score - m), and l and o follow a new m.
 */
static void tile_softmax(float *state, float *scores, int keys, float scale, int D) {
    float m = state[0], sum = 0;
    for (int t = 0; t < keys; t++) {
        scores[t] *= scale;
        m = scores[t] > m ? scores[t] : m;
    }
    for (int t = 0; t < keys; t++) scores[t] = fast_exp(scores[t] - m);
#pragma omp simd reduction(+ : sum)
    for (int t = 0; t < keys; t++) sum += scores[t];
    float rescale = fast_exp(state[0] - m); /* 0 for the first tile: e^-inf */
    state[0] = m;
    for (int c = 1; c < D + 2; c++) state[c] *= rescale;
    state[1] += sum;
}

/*
 * O += P V for `heads` states, `states` floats apart: 2 vectors of columns at a time, then the
 * rest.
 */
static void add_values(float *state, int64_t states, const float *p, const float *v, int64_t token,
                       int heads, int keys, int D) {
    float *o = state + 2;
    int c = 0;
    for (; c + LANES <= D; c += LANES)
        tile_product(o + c, states, p, LANES, 1, v + c, token, keys, heads);
    for (int i = 0; i < heads && c < D; i++)
        for (int t = 0; t < keys; t++)
            for (int d = c; d < D; d++) o[i * states + d] += p[i * LANES + t] * v[t * token + d];
}

/* [decode_tile] */
/* One tile of key head g's keys joins the states of all query heads that share it. */
static void decode_tile(float *state, int64_t states, const float *q, const float *k,
                        const float *v, const DecodeShape *s, int keys) {
    int D = s->head_dim, group = s->heads / s->kv_heads;
    int64_t token = (int64_t)s->kv_heads * D; /* from one key to the next */
    float keys_turned[MAX_DIM * LANES], scores[HEADS * LANES];
    lanes_from_rows(keys_turned, k, token, keys, D);
    for (int i = 0; i < group; i += HEADS) {
        int heads = group - i < HEADS ? group - i : HEADS;
        memset(scores, 0, sizeof scores);
        tile_product(scores, LANES, q + i * D, D, 1, keys_turned, LANES, D, heads);
        for (int h = 0; h < heads; h++)
            tile_softmax(state + (i + h) * states, scores + h * LANES, keys, s->scale, D);
        add_values(state + i * states, states, scores, v, token, heads, keys, D);
    }
}
/* [/decode_tile] */

/* One piece of sequence b: the cache is read from front to back, all heads of a token together. */
static void decode_piece(float *scratch, const float *q, const float *k, const float *v,
                         const DecodeShape *s, int b, int piece) {
    int D = s->head_dim, group = s->heads / s->kv_heads;
    int64_t token = (int64_t)s->kv_heads * D;
    int64_t states = (int64_t)decode_pieces(*s) * (D + 2); /* from one head's state to the next */
    float *state = scratch + (int64_t)b * s->heads * states + (int64_t)piece * (D + 2);
    for (int h = 0; h < s->heads; h++) {
        state[h * states] = -INFINITY;
        memset(state + h * states + 1, 0, (size_t)(D + 1) * sizeof *state);
    }
    int begin = piece * s->split;
    int end = begin + s->split < s->length ? begin + s->split : s->length;
    for (int j = begin; j < end; j += LANES) {
        int keys = end - j < LANES ? end - j : LANES;
        int64_t row = ((int64_t)b * s->capacity + j) * token;
        for (int g = 0; g < s->kv_heads; g++)
            decode_tile(state + g * group * states, states,
                        q + ((int64_t)b * s->heads + (int64_t)g * group) * D, k + row + g * D,
                        v + row + g * D, s, keys);
    }
}

void decode_attention_cpu(float *o, float *scratch, const float *q, const float *k, const float *v,
                          DecodeShape s) {
    int64_t numbers = (int64_t)s.batch * s.length * s.kv_heads * s.head_dim;
    int pieces = decode_pieces(s);
#pragma omp parallel for collapse(2) schedule(static) if (numbers > PARALLEL)
    for (int b = 0; b < s.batch; b++)
        for (int piece = 0; piece < pieces; piece++) decode_piece(scratch, q, k, v, &s, b, piece);
    decode_join_cpu(o, scratch, s);
}
