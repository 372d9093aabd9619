/*
 * Exercise 10.10: the indexer's scores
 *
 *     I[t, s] = scale * sum over heads h of  w[t, h] * ReLU(q[t, h] . k[s])
 *
 * for the queries first .. first + count - 1 of each sequence and the keys that each of them sees
 * (index_keys_seen); what it does not see is not written. index_kernels.h has the shapes. Keys lie
 * one behind the other, or in pages: page_row() says where; of rows in eight bits
 * (shape.e4m3) latent_row_read_cpu() makes numbers. Plain loops will do.
 *
 * POINTS: 3
 * REPLACES: index_scores_cpu in 10_full_model/sparse/index_scores_cpu.c
 * TESTS: test_indexer:index_scores test_sparse:sparse/cached_is_uncached test_golden:golden/v32_cpu
 */
#include "10_full_model/sparse/index_kernels.h"

void index_scores_cpu(float *scores, const float *q, const float *weights, const void *keys,
                      IndexShape s) {
    for (int b = 0; b < s.batch; b++)
        for (int i = 0; i < s.count; i++)
            for (int j = 0; j < index_keys_seen(&s, b, s.first + i); j++)
                scores[((int64_t)b * s.count + i) * s.kv_len + j] = 0;
}
