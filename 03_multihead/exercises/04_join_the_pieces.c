/*
 * Exercise 03.4: join the pieces.
 *
 * decode_attention_cpu() cuts the keys of a sequence into pieces. For each query head and piece it
 * leaves D + 2 numbers in scratch [B, H, pieces]: the piece's largest score m, the sum l of
 * e^(score - m), and o[D], the sum of e^(score - m) v. Make of them the output o [B, H, D].
 * As it stands the pieces are added as if they had the same m.
 *
 * POINTS: 3
 * REPLACES: decode_join_cpu in 03_multihead/decode.c
 * TESTS: test_decode:decode test_kv_cache:kv_cache
 */
#include "03_multihead/decode.h"

#include <math.h>

void decode_join_cpu(float *o, const float *scratch, DecodeShape s) {
    int pieces = decode_pieces(s), D = s.head_dim;
    for (int64_t head = 0; head < (int64_t)s.batch * s.heads; head++) {
        const float *piece = scratch + head * pieces * (D + 2);
        for (int c = 0; c < D; c++) {
            float sum = 0, total = 0;
            for (int p = 0; p < pieces; p++) {
                sum += piece[p * (D + 2) + 1];
                total += piece[p * (D + 2) + 2 + c];
            }
            o[head * D + c] = total / sum;
        }
    }
}
