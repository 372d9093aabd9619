/*
 * Solution 03.3. Rows of one sequence lie side by side on both sides, so one run of tokens * width
 * numbers is copied for each sequence. The tempting wrong answer steps by tokens * width in `to` as
 * well: with one sequence, or when the cache is exactly full, nobody notices.
 */
#include "03_multihead/kv_cache.h"

#include <string.h>

void kv_append_cpu(float *to, const float *from, int64_t batch, int64_t tokens, int64_t width,
                   int64_t capacity, int64_t position) {
    for (int64_t b = 0; b < batch; b++)
        memcpy(to + (b * capacity + position) * width, from + b * tokens * width,
               sizeof(float) * (size_t)(tokens * width));
}
