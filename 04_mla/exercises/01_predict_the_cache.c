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
 * And the claim: DeepSeek-V2 (60 layers, 512 + 64) is said to need 93.3 % less cache than DeepSeek
 * 67B (95 layers, GQA with 8 groups of 128). That counts 6 bits for a number of the one and 16 for
 * a number of the other.
 *
 *   percent_saved       what is saved with 16 bits for both, to one decimal
 *
 * POINTS: 2
 */
extern const long long mla_bytes, mha_bytes, mla_bytes_128, tokens_in_20_gib;
extern const double groups, percent_saved;

const long long mla_bytes = 0;
const long long mha_bytes = 0;
const double groups = 0;
const long long mla_bytes_128 = 0;
const long long tokens_in_20_gib = 0;
const double percent_saved = 93.3;
