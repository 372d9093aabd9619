/*
 * Solution 04.5. Every token asks the block table anew. Pages one after the other is what one sees
 * in a test with one sequence, for a fresh pool hands them out in order: that is why the mistake
 * lives long. Tempting besides: to ask the table once for each chunk, with the place of its first
 * token, which is right until a chunk crosses the end of a page; and to count lengths[b] as it was
 * before the chunk.
 */
#include "04_mla/latent_cache.h"

void latent_append_cpu(float *latent, const int32_t *block_table, const int32_t *lengths,
                       const float *c_kv, const float *k_rope, int64_t batch, int64_t tokens,
                       int64_t c_width, int64_t rope_width, int64_t max_pages) {
    int64_t width = c_width + rope_width;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t t = 0; t < tokens; t++) {
            int64_t n = lengths[b] - tokens + t;
            int64_t page = block_table[b * max_pages + n / PAGE_TOKENS];
            float *row = latent + (page * PAGE_TOKENS + n % PAGE_TOKENS) * width;
            for (int64_t c = 0; c < c_width; c++) row[c] = c_kv[(b * tokens + t) * c_width + c];
            for (int64_t c = 0; c < rope_width; c++)
                row[c_width + c] = k_rope[(b * tokens + t) * rope_width + c];
        }
}
