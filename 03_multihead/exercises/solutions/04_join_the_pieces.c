/*
 * Solution 03.4: every piece is brought to the largest m of all. The tempting wrong answer makes o
 * / l of each piece and takes their mean, weighted by the number of keys: a piece with one loud key
 * counts more than a piece with many quiet ones.
 */
#include "03_multihead/decode.h"

#include <math.h>

void decode_join_cpu(float *o, const float *scratch, DecodeShape s) {
    int pieces = decode_pieces(s), D = s.head_dim;
    for (int64_t head = 0; head < (int64_t)s.batch * s.heads; head++) {
        const float *piece = scratch + head * pieces * (D + 2);
        float top = -INFINITY;
        for (int p = 0; p < pieces; p++) top = fmaxf(top, piece[p * (D + 2)]);
        for (int c = 0; c < D; c++) {
            float sum = 0, total = 0;
            for (int p = 0; p < pieces; p++) {
                float weight = expf(piece[p * (D + 2)] - top);
                sum += weight * piece[p * (D + 2) + 1];
                total += weight * piece[p * (D + 2) + 2 + c];
            }
            o[head * D + c] = total / sum;
        }
    }
}
