/*
 * Appending to the KV cache on the CPU: one memcpy for each sequence.
 *
 * The new rows of a sequence are contiguous on both sides; only the distance between two sequences
 * differs (tokens rows in the new block, capacity rows in the cache).
 */
#include "03_multihead/kv_cache.h"

#include <string.h>

void kv_append_cpu(float *to, const float *from, int64_t batch, int64_t tokens, int64_t width,
                   int64_t capacity, int64_t position) {
    for (int64_t b = 0; b < batch; b++)
        memcpy(to + (b * capacity + position) * width, from + b * tokens * width,
               (size_t)(tokens * width) * sizeof(float));
}
