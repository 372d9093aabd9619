/*
 * Decoding attention: how it is cut into pieces, and how the pieces become one again.
 *
 * A piece is `split` keys of one head. Each leaves its maximum m, its sum l and an unnormalised
 * output o, as chapter 02's tiles do; decode_join_cpu rescales them to the largest m and adds.
 */
#include "03_multihead/decode.h"

#include "common/core/fastmath.h"

#include <math.h>
#include <string.h>

DecodeShape decode_shape(int batch, int heads, int kv_heads, int head_dim, int length,
                         int capacity) {
    /*
     * 256 keys are long enough to hide a piece's start and end; with plenty of pieces, longer
     * ones
     */
    int split = 256;
    while ((int64_t)batch * kv_heads * ((length + split - 1) / split) > 4096) split *= 2;
    int pieces = (length + split - 1) / split;
    split = (length + pieces - 1) / pieces; /* of equal length: the last one is no crumb */
    return (DecodeShape){.batch = batch,
                         .heads = heads,
                         .kv_heads = kv_heads,
                         .head_dim = head_dim,
                         .length = length,
                         .capacity = capacity,
                         .split = split,
                         .scale = 1.0f / sqrtf((float)head_dim)};
}

int decode_pieces(DecodeShape s) { return (s.length + s.split - 1) / s.split; }

int64_t decode_scratch_floats(DecodeShape s) {
    return (int64_t)s.batch * s.heads * decode_pieces(s) * (s.head_dim + 2);
}

/* o = sum_p e^(m_p - m) o_p / sum_p e^(m_p - m) l_p,   m = max_p m_p */
void decode_join_cpu(float *o, const float *scratch, DecodeShape s) {
    int pieces = decode_pieces(s), D = s.head_dim;
    for (int64_t head = 0; head < (int64_t)s.batch * s.heads; head++) {
        const float *state = scratch + head * pieces * (D + 2);
        float m = -INFINITY, l = 0;
        for (int p = 0; p < pieces; p++) m = fmaxf(m, state[p * (D + 2)]);
        memset(o + head * D, 0, (size_t)D * sizeof *o);
        for (int p = 0; p < pieces; p++) {
            const float *piece = state + p * (D + 2);
            float weight = fast_exp(piece[0] - m);
            l += weight * piece[1];
            for (int c = 0; c < D; c++) o[head * D + c] += weight * piece[2 + c];
        }
        for (int c = 0; c < D; c++) o[head * D + c] /= l;
    }
}
