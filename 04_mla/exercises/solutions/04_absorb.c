/*
 * Solution 04.4. Row d of W_uk times q[d], summed, is W_uk^T q; W_uv is used as it lies. Both are
 * in one matrix, a head's nope rows and then its v rows; the tempting wrong answer takes all heads'
 * W_uk first and all W_uv after them, which is right with one head.
 */
#include "04_mla/mla.h"

void mla_absorb_query_cpu(float *q_absorbed, const float *q, const float *kv_b, int64_t rows,
                          MlaShape s) {
    int rank = s.kv_lora_rank;
    for (int64_t i = 0; i < rows * s.heads; i++) {
        const float *from = q + i * (s.nope + s.rope);
        const float *w_uk = kv_b + i % s.heads * (s.nope + s.v) * rank;
        float *to = q_absorbed + i * (rank + s.rope);
        for (int c = 0; c < rank; c++) to[c] = 0;
        for (int d = 0; d < s.nope; d++)
            for (int c = 0; c < rank; c++) to[c] += from[d] * w_uk[d * rank + c];
        for (int c = 0; c < s.rope; c++) to[rank + c] = from[s.nope + c];
    }
}

void mla_absorb_output_cpu(float *o, const float *o_latent, const float *kv_b, int64_t rows,
                           MlaShape s) {
    int rank = s.kv_lora_rank;
    for (int64_t i = 0; i < rows * s.heads; i++) {
        const float *w_uv = kv_b + (i % s.heads * (s.nope + s.v) + s.nope) * rank;
        for (int d = 0; d < s.v; d++) {
            float sum = 0;
            for (int c = 0; c < rank; c++) sum += w_uv[d * rank + c] * o_latent[i * rank + c];
            o[i * s.v + d] = sum;
        }
    }
}
