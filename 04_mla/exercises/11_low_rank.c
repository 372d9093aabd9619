/*
 * Exercise 04.11: what a narrow waist can do, and what it costs.
 *
 * V3: hidden size 7168, 128 heads, keys of 128 numbers without positions (16384 in all), a latent
 * of 512. Leave the norm and the values out. Predict:
 *
 *   weights_low       numbers in the way x -> latent -> keys of all heads
 *   weights_full      numbers in one matrix x -> keys of all heads
 *   same_cost         the rank of the latent at which both ways have as many numbers; a fraction
 *   rank_of_300       the largest rank of all keys of 300 tokens, as a matrix [300, 16384]
 *   rank_of_3000      the same of 3000 tokens
 *
 * And three sentences about MLA without norms and without positions; 1 if it is true, 0 if not:
 *
 *   contains_mha      with a latent of 7168 numbers it can compute whatever MHA can
 *   mqa_of_latents    absorbed, every head attends to the same keys and the same values
 *   shares_like_mqa   so two heads with the same query always find the same
 *
 * POINTS: 2
 */
extern const long weights_low, weights_full;
extern const double same_cost;
extern const int rank_of_300, rank_of_3000, contains_mha, mqa_of_latents, shares_like_mqa;

const long weights_low = 0, weights_full = 0;
const double same_cost = 0;
const int rank_of_300 = 0, rank_of_3000 = 0;
const int contains_mha = -1, mqa_of_latents = -1, shares_like_mqa = -1;
