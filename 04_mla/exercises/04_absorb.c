/*
 * Exercise 04.4: absorb.
 *
 * kv_b [H, nope + v, kv_lora_rank] holds for each head W_uk (nope rows), then W_uv (v rows). Write
 * the two products that move them away from the cache:
 *
 *     q_absorbed[row, h] = [ W_uk^T q_nope | q_rope ]      kv_lora_rank + rope numbers
 *     o[row, h]          = W_uv o_latent                   v numbers
 *
 * q [rows, H, nope + rope] = per head [q_nope | q_rope], o_latent [rows, H, kv_lora_rank]. Plain
 * loops will do. As it stands nothing is absorbed: the query is only copied to its new place.
 *
 * POINTS: 3
 * REPLACES: mla_absorb_query_cpu, mla_absorb_output_cpu in 04_mla/mla_cpu.c
 * TESTS: test_by_hand:by_hand/absorbed_cpu test_mla_kernels:mla_kernels/absorption*_cpu
 * TESTS: test_mla_cache:mla_cache/absorbed_is_naive_cpu
 */
#include "04_mla/mla.h"

void mla_absorb_query_cpu(float *q_absorbed, const float *q, const float *kv_b, int64_t rows,
                          MlaShape s) {
    int width = s.kv_lora_rank + s.rope;
    for (int64_t i = 0; i < rows * s.heads; i++)
        for (int c = 0; c < width; c++)
            q_absorbed[i * width + c] = c < s.nope + s.rope ? q[i * (s.nope + s.rope) + c] : 0;
}

void mla_absorb_output_cpu(float *o, const float *o_latent, const float *kv_b, int64_t rows,
                           MlaShape s) {
    for (int64_t i = 0; i < rows * s.heads; i++)
        for (int d = 0; d < s.v; d++)
            o[i * s.v + d] = d < s.kv_lora_rank ? o_latent[i * s.kv_lora_rank + d] : 0;
}
