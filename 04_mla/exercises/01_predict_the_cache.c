/*
 * Exercise 04.1: predict the cache.
 *
 * A model has 48 layers with 64 heads of 128 numbers. Its latent has 384 numbers (kv_lora_rank),
 * the shared part for positions 32 (qk_rope_head_dim); the cache is kept in BF16, 2 bytes a
 * number. Predict, with a pencil:
 *
 *   mla_bytes           what the cache grows by with each token
 *   mha_bytes           the same if it kept a key and a value of 128 numbers for each head
 *   groups              as GQA with how many groups? A fraction
 *   mla_bytes_128       mla_bytes, were it built with 128 heads
 *   tokens_in_20_gib    how many tokens fit into 20 GiB (20 x 2^30 bytes)
 *
 * And a claim of the kind that the lesson takes apart. DeepSeek-V3 (61 layers, 512 + 64) with a
 * cache of 8 bits a number is set beside DeepSeek 67B (95 layers, GQA with 8 groups of 128) with 16
 * bits.
 *
 *   percent_claimed     what it saves, so counted, in percent to one decimal
 *   percent_by_mla      what of 67B's own cache would be saved if it had MLA (512 + 64) in its own
 *                       95 layers, with 16 bits as before
 *
 * POINTS: 2
 */
extern const long long mla_bytes, mha_bytes, mla_bytes_128, tokens_in_20_gib;
extern const double groups, percent_claimed, percent_by_mla;

const long long mla_bytes = 0;
const long long mha_bytes = 0;
const double groups = 0;
const long long mla_bytes_128 = 0;
const long long tokens_in_20_gib = 0;
const double percent_claimed = 0;
const double percent_by_mla = 0;
