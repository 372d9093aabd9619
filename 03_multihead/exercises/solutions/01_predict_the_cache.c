/*
 * Solution 03.1. A token leaves a key AND a value, of 8 heads, in each of 48 layers. The tempting
 * wrong answer takes the 40 query heads, which is what bytes_if_mha asks for: queries are used once
 * and not kept. Token number 4097 reads the cache once, its own row included. A step that a program
 * takes a millisecond longer for reads it more often than that, and this chapter's kernels are
 * about why.
 */
extern const long long bytes_per_token, bytes_if_mha, tokens_in_30_gib, bytes_read;

const long long bytes_per_token = 2LL * 48 * 8 * 128 * 2;
const long long bytes_if_mha = 2LL * 48 * 40 * 128 * 2;
const long long tokens_in_30_gib = 30LL * 1024 * 1024 * 1024 / (2LL * 48 * 8 * 128 * 2);
const long long bytes_read = 4097LL * 2 * 48 * 8 * 128 * 2;
