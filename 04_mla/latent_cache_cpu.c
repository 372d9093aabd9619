/*
 * The latent cache on the CPU, and the lengths of its pages: rows of c_width + rope_width numbers,
 * found through the block table.
 *
 * Both are copies of whole rows. A row of V3 is 2304 bytes in F32, so memcpy is at its best.
 */
#include "04_mla/latent_cache.h"

#include <string.h>

enum { PARALLEL = 1 << 16 }; /* numbers below which waking threads does not pay */

void latent_append_cpu(float *latent, const int32_t *block_table, const int32_t *lengths,
                       const float *c_kv, const float *k_rope, int64_t batch, int64_t tokens,
                       int64_t c_width, int64_t rope_width, int64_t max_pages) {
    int64_t width = c_width + rope_width;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t t = 0; t < tokens; t++) {
            float *row =
                latent + page_row(block_table + b * max_pages, lengths[b] - tokens + t) * width;
            const int64_t from = b * tokens + t;
            memcpy(row, c_kv + from * c_width, sizeof(float) * (size_t)c_width);
            if (rope_width)
                memcpy(row + c_width, k_rope + from * rope_width,
                       sizeof(float) * (size_t)rope_width);
        }
}

void pages_move_cpu(int32_t *lengths, int32_t tokens, const int32_t *back, int64_t batch) {
    for (int64_t b = 0; b < batch; b++) lengths[b] += tokens - (back ? back[b] : 0);
}

void latent_gather_cpu(float *c_kv, float *k_rope, const float *latent, const int32_t *block_table,
                       const int32_t *lengths, int64_t batch, int64_t length, int64_t c_width,
                       int64_t rope_width, int64_t max_pages) {
    int64_t width = c_width + rope_width;
#pragma omp parallel for if (batch * length * width > PARALLEL)
    for (int64_t i = 0; i < batch * length; i++) {
        int64_t b = i / length, t = i % length;
        float *c = c_kv + i * c_width, *k = k_rope + i * rope_width;
        if (t < lengths[b]) {
            const float *row = latent + page_row(block_table + b * max_pages, t) * width;
            memcpy(c, row, sizeof(float) * (size_t)c_width);
            if (rope_width) memcpy(k, row + c_width, sizeof(float) * (size_t)rope_width);
        } else {
            memset(c, 0, sizeof(float) * (size_t)c_width);
            if (rope_width) memset(k, 0, sizeof(float) * (size_t)rope_width);
        }
    }
}

/* ---- eight bits ---- */

/* [latent_row_write] */
void latent_row_write_cpu(void *row, const float *c, const float *k, int64_t c_width,
                          int64_t rope_width) {
    uint8_t *codes = row;
    for (int64_t first = 0; first < c_width; first += LATENT_GROUP) {
        int64_t end = first + LATENT_GROUP < c_width ? first + LATENT_GROUP : c_width;
        float amax = 0;
        for (int64_t i = first; i < end; i++)
            if (!(fabsf(c[i]) <= FLT_MAX))
                amax = NAN; /* and stays it: nothing is larger */
            else if (fabsf(c[i]) > amax)
                amax = fabsf(c[i]);
        float scale = latent_row_scale(amax);
        for (int64_t i = first; i < end; i++) codes[i] = e4m3_from_float(c[i] / scale);
        memcpy(codes + latent_row_scales(c_width) + first / LATENT_GROUP * 4, &scale, sizeof scale);
    }
    for (int64_t i = 0; i < rope_width; i++) {
        uint16_t key = bf16_from_float(k[i]);
        memcpy(codes + latent_row_key(c_width) + 2 * i, &key, sizeof key);
    }
}
/* [/latent_row_write] */

void latent_row_read_cpu(float *c, float *k, const void *row, int64_t c_width, int64_t rope_width) {
    const uint8_t *codes = row;
    for (int64_t i = 0; i < c_width; i++) {
        float scale;
        memcpy(&scale, codes + latent_row_scales(c_width) + i / LATENT_GROUP * 4, sizeof scale);
        c[i] = scale * e4m3_to_float(codes[i]);
    }
    for (int64_t i = 0; i < rope_width; i++) {
        uint16_t key;
        memcpy(&key, codes + latent_row_key(c_width) + 2 * i, sizeof key);
        k[i] = bf16_to_float(key);
    }
}

void latent_append_e4m3_cpu(void *latent, const int32_t *block_table, const int32_t *lengths,
                            const float *c_kv, const float *k_rope, int64_t batch, int64_t tokens,
                            int64_t c_width, int64_t rope_width, int64_t max_pages) {
    int64_t bytes = latent_row_bytes(c_width, rope_width);
#pragma omp parallel for if (batch * tokens * c_width > PARALLEL)
    for (int64_t i = 0; i < batch * tokens; i++) {
        int64_t b = i / tokens, t = lengths[b] - tokens + i % tokens;
        latent_row_write_cpu((char *)latent + page_row(block_table + b * max_pages, t) * bytes,
                             c_kv + i * c_width, k_rope + i * rope_width, c_width, rope_width);
    }
}

void latent_gather_e4m3_cpu(float *c_kv, float *k_rope, const void *latent,
                            const int32_t *block_table, const int32_t *lengths, int64_t batch,
                            int64_t length, int64_t c_width, int64_t rope_width,
                            int64_t max_pages) {
    int64_t bytes = latent_row_bytes(c_width, rope_width);
#pragma omp parallel for if (batch * length * c_width > PARALLEL)
    for (int64_t i = 0; i < batch * length; i++) {
        int64_t b = i / length, t = i % length;
        float *c = c_kv + i * c_width, *k = k_rope + i * rope_width;
        if (t < lengths[b]) {
            const char *row =
                (const char *)latent + page_row(block_table + b * max_pages, t) * bytes;
            latent_row_read_cpu(c, k, row, c_width, rope_width);
        } else {
            memset(c, 0, sizeof(float) * (size_t)c_width);
            if (rope_width) memset(k, 0, sizeof(float) * (size_t)rope_width);
        }
    }
}
