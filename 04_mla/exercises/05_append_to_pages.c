/*
 * Exercise 04.5: append to pages.
 *
 * The latents of all sequences lie in one pool of pages, latent [pages, PAGE_TOKENS, width], width
 * = c_width + rope_width. Which pages are sequence b's, and in which order, says its line of the
 * block table [batch, max_pages]; lengths[b] tells how many tokens it holds, the new ones
 * counted in. Write these last `tokens` rows [c_kv[b, t] | k_rope[b, t]] where they belong. (There
 * is room: pages_begin has seen to it. rope_width may be 0, and k_rope NULL then.)
 *
 * Whoever wrote this believed that the pages of a sequence lie one after the other.
 *
 * POINTS: 2
 * REPLACES: latent_append_cpu in 04_mla/latent_cache_cpu.c
 * TESTS: test_latent_cache:latent_cache/appends*_cpu test_mla_cache:mla_cache/different*_cpu
 */
#include "04_mla/latent_cache.h"

void latent_append_cpu(float *latent, const int32_t *block_table, const int32_t *lengths,
                       const float *c_kv, const float *k_rope, int64_t batch, int64_t tokens,
                       int64_t c_width, int64_t rope_width, int64_t max_pages) {
    int64_t width = c_width + rope_width;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t t = 0; t < tokens; t++) {
            int64_t first = block_table[b * max_pages] * (int64_t)PAGE_TOKENS;
            float *row = latent + (first + lengths[b] - tokens + t) * width;
            for (int64_t c = 0; c < c_width; c++) row[c] = c_kv[(b * tokens + t) * c_width + c];
            for (int64_t c = 0; c < rope_width; c++)
                row[c_width + c] = k_rope[(b * tokens + t) * rope_width + c];
        }
}
