/*
 * Solution 10.10. The tempting mistake is to count queries from the beginning of the sequence: with
 * a cache they are its last q_len tokens, which is what index_keys_seen knows.
 */
#include "10_full_model/sparse/index_kernels.h"

#include <stdlib.h>

static const float *key(float *room, const void *keys, const IndexShape *s, int b, int j) {
    if (!s->block_table) return (const float *)keys + ((int64_t)b * s->kv_len + j) * s->dim;
    int64_t row = page_row(s->block_table + (int64_t)b * s->max_pages, j);
    if (!s->e4m3) return (const float *)keys + row * s->dim;
    latent_row_read_cpu(room, NULL, (const char *)keys + row * latent_row_bytes(s->dim, 0), s->dim,
                        0);
    return room;
}

void index_scores_cpu(float *scores, const float *q, const float *weights, const void *keys,
                      IndexShape s) {
    float *room = must_alloc((size_t)s.dim, sizeof *room);
    for (int b = 0; b < s.batch; b++)
        for (int i = 0; i < s.count; i++) {
            int64_t query = (int64_t)b * s.q_len + s.first + i;
            for (int j = 0; j < index_keys_seen(&s, b, s.first + i); j++) {
                const float *k = key(room, keys, &s, b, j);
                float sum = 0;
                for (int h = 0; h < s.heads; h++) {
                    float dot = 0;
                    for (int c = 0; c < s.dim; c++)
                        dot += q[(query * s.heads + h) * s.dim + c] * k[c];
                    if (dot > 0) sum += weights[query * s.heads + h] * dot;
                }
                scores[((int64_t)b * s.count + i) * s.kv_len + j] = s.scale * sum;
            }
        }
    free(room);
}
