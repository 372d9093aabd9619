/*
 * Exercise 03.3: append to the cache.
 *
 * The cache of a layer is to [batch, capacity, width]; from [batch, tokens, width] holds the new
 * keys (or values), which belong at `position`, `position` + 1, ... of each sequence. Whoever wrote
 * this tried it with a batch of one and a new cache, where it works. (Nobody has to check bounds
 * here: kv_cache_append has done that before.)
 *
 * POINTS: 2
 * REPLACES: kv_append_cpu in 03_multihead/kv_cache_cpu.c
 * TESTS: test_kv_cache:kv_append test_kv_cache:kv_cache
 */
#include "03_multihead/kv_cache.h"

void kv_append_cpu(float *to, const float *from, int64_t batch, int64_t tokens, int64_t width,
                   int64_t capacity, int64_t position) {
    for (int64_t i = 0; i < batch * tokens * width; i++) to[i] = from[i];
}
