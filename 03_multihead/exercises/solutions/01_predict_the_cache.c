/*
 * Exercise 03.1: predict the cache.
 *
 * A model has 48 layers, 40 query heads of 128 numbers and 8 key and value heads; the cache is kept
 * in BF16, 2 bytes a number. Predict, with a pencil:
 *
 *   bytes_per_token   what the cache grows by with each token
 *   bytes_if_mha      the same if every query head had keys and values of its own
 *   tokens_in_30_gib  how many tokens fit into 30 GiB (30 x 2^30 bytes) of GPU memory
 *   bytes_read        bytes of cache that are read to compute token number 4097: its own key and
 *                     value are in the cache by then
 *
 * POINTS: 1
 */
extern const long long bytes_per_token, bytes_if_mha, tokens_in_30_gib, bytes_read;

const long long bytes_per_token = 2LL * 48 * 8 * 128 * 2;
const long long bytes_if_mha = 2LL * 48 * 40 * 128 * 2;
const long long tokens_in_30_gib = 30LL * 1024 * 1024 * 1024 / (2LL * 48 * 8 * 128 * 2);
const long long bytes_read = 4097LL * 2 * 48 * 8 * 128 * 2;
