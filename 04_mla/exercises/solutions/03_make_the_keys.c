/*
 * Solution 04.3. In the backward pass the rows of dk_rope begin at zero unless they are added to;
 * then every head adds its part. What goes out to many comes back as a sum, as with any tensor that
 * has several readers. The tempting wrong answer writes: then only the last head has a say about
 * positions, and the loss still falls.
 */
#include "04_mla/mla.h"

void mla_keys_cpu(float *k, const float *kv, const float *k_rope, int64_t rows, MlaShape s) {
    for (int64_t row = 0; row < rows; row++)
        for (int h = 0; h < s.heads; h++) {
            float *to = k + (row * s.heads + h) * (s.nope + s.rope);
            const float *from = kv + (row * s.heads + h) * (s.nope + s.v);
            for (int c = 0; c < s.nope; c++) to[c] = from[c];
            for (int c = 0; c < s.rope; c++) to[s.nope + c] = k_rope[row * s.rope + c];
        }
}

void mla_keys_backward_cpu(float *dkv, int add_kv, float *dk_rope, int add_rope, const float *dk,
                           int64_t rows, MlaShape s) {
    for (int64_t row = 0; row < rows; row++) {
        float *rope = dk_rope ? dk_rope + row * s.rope : 0;
        for (int c = 0; rope && !add_rope && c < s.rope; c++) rope[c] = 0;
        for (int h = 0; h < s.heads; h++) {
            const float *from = dk + (row * s.heads + h) * (s.nope + s.rope);
            float *nope = dkv ? dkv + (row * s.heads + h) * (s.nope + s.v) : 0;
            for (int c = 0; nope && c < s.nope; c++) nope[c] = add_kv ? nope[c] + from[c] : from[c];
            for (int c = 0; rope && c < s.rope; c++) rope[c] += from[s.nope + c];
        }
    }
}
