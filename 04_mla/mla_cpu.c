/*
 * Latent attention on the CPU: the keys of all heads, and the two products that absorb.
 *
 * Absorbing is a product for each head with that head's part of kv_b_proj, which is used where it
 * lies: the product takes the distance between rows, so no weight and no query is copied.
 *
 *     q_absorbed[:, h] = q_nope[:, h] W_uk[h]      [rows, nope] x [nope, kv_lora_rank]
 *     o[:, h] = o_latent[:, h] W_uv[h]^T           [rows, kv_lora_rank] x [kv_lora_rank, v]
 *
 * A task is one head and a block of rows; blocks depend on the sizes alone, so results do not
 * depend on the number of threads.
 */
#include "04_mla/mla.h"

#include "common/core/cpu_matmul.h"

#include <string.h>

enum { ROW_BLOCK = 128 };         /* rows of one product: enough for it to run at full speed */
enum { PARALLEL_COPY = 1 << 14 }; /* numbers below which waking threads does not pay */
enum { PARALLEL = 1 << 18 };      /* the same, multiply-adds */

/* ---- keys ---- */

void mla_keys_cpu(float *k, const float *kv, const float *k_rope, int64_t rows, MlaShape shape) {
    int64_t H = shape.heads, nope = shape.nope, rope = shape.rope, v = shape.v;
#pragma omp parallel for if (rows * H * (nope + rope) > PARALLEL_COPY)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t h = 0; h < H; h++) {
            float *to = k + (row * H + h) * (nope + rope);
            memcpy(to, kv + (row * H + h) * (nope + v), sizeof(float) * (size_t)nope);
            if (rope) memcpy(to + nope, k_rope + row * rope, sizeof(float) * (size_t)rope);
        }
}

/* All heads share k_rope, so its gradient is the sum of theirs. */
void mla_keys_backward_cpu(float *dkv, int add_kv, float *dk_rope, int add_rope, const float *dk,
                           int64_t rows, MlaShape shape) {
    int64_t H = shape.heads, nope = shape.nope, rope = shape.rope, v = shape.v;
#pragma omp parallel for if (rows * H * (nope + rope) > PARALLEL_COPY)
    for (int64_t row = 0; row < rows; row++) {
        float *of_rope = dk_rope ? dk_rope + row * rope : NULL;
        if (of_rope && !add_rope) memset(of_rope, 0, sizeof(float) * (size_t)rope);
        for (int64_t h = 0; h < H; h++) {
            const float *from = dk + (row * H + h) * (nope + rope);
            float *of_nope = dkv ? dkv + (row * H + h) * (nope + v) : NULL;
            if (of_nope)
                for (int64_t i = 0; i < nope; i++)
                    of_nope[i] = add_kv ? of_nope[i] + from[i] : from[i];
            if (of_rope)
                for (int64_t i = 0; i < rope; i++) of_rope[i] += from[nope + i];
        }
    }
}

/* ---- absorption ---- */

void mla_absorb_query_cpu(float *q_absorbed, const float *q, const float *kv_b, int64_t rows,
                          MlaShape shape) {
    int64_t H = shape.heads, nope = shape.nope, rope = shape.rope, rank = shape.kv_lora_rank;
    int64_t blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK;
    int64_t q_row = H * (nope + rope), out_row = H * (rank + rope); /* from one token to the next */
#pragma omp parallel for if (rows * H * nope * rank > PARALLEL)
    for (int64_t task = 0; task < H * blocks; task++) {
        int64_t h = task % H, first = task / H * ROW_BLOCK;
        int64_t count = rows - first < ROW_BLOCK ? rows - first : ROW_BLOCK;
        const float *from = q + first * q_row + h * (nope + rope);
        float *to = q_absorbed + first * out_row + h * (rank + rope);
        const float *w_uk = kv_b + h * (nope + shape.v) * rank; /* [nope, kv_lora_rank] */
        cpu_matmul(
            &(CpuMatmul){to, NULL, out_row, {from, q_row, 1}, {w_uk, rank, 1}, count, rank, nope});
        for (int64_t i = 0; i < count && rope; i++) /* q_rope comes along as it is */
            memcpy(to + i * out_row + rank, from + i * q_row + nope, sizeof(float) * (size_t)rope);
    }
}

void mla_absorb_output_cpu(float *o, const float *o_latent, const float *kv_b, int64_t rows,
                           MlaShape shape) {
    int64_t H = shape.heads, nope = shape.nope, v = shape.v, rank = shape.kv_lora_rank;
    int64_t blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK;
#pragma omp parallel for if (rows * H * v * rank > PARALLEL)
    for (int64_t task = 0; task < H * blocks; task++) {
        int64_t h = task % H, first = task / H * ROW_BLOCK;
        int64_t count = rows - first < ROW_BLOCK ? rows - first : ROW_BLOCK;
        const float *from = o_latent + (first * H + h) * rank;
        float *to = o + (first * H + h) * v;
        const float *w_uv = kv_b + (h * (nope + v) + nope) * rank; /* [v, kv_lora_rank] */
        cpu_matmul(
            &(CpuMatmul){to, NULL, H * v, {from, H * rank, 1}, {w_uv, 1, rank}, count, v, rank});
    }
}
