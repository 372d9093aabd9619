/* The predictions against the project's own count. */
#include "03_multihead/kv_cache.h"

#include <criterion/criterion.h>

extern const long long bytes_per_token, bytes_if_mha, tokens_in_30_gib, bytes_read;

Test(predict, cache) {
    int64_t bytes = kv_cache_bytes_per_token(48, 8, 128, BF16);
    cr_assert(bytes_per_token == bytes, "bytes_per_token is not %lld", bytes_per_token);
    cr_assert(bytes_if_mha == kv_cache_bytes_per_token(48, 40, 128, BF16),
              "bytes_if_mha is not %lld", bytes_if_mha);
    cr_assert(tokens_in_30_gib == (30LL << 30) / bytes, "tokens_in_30_gib is not %lld",
              tokens_in_30_gib);
    cr_assert(bytes_read == 4097 * bytes, "bytes_read is not %lld", bytes_read);
}
