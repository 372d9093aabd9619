/*
 * Exercise 05.10: experts under the roof, and a bias in its place.
 *
 * A machine does 186 operations in BF16 in the time of one byte from memory. A layer has 256
 * experts of which each token takes 8, all equally often; the weights are in BF16, 2 bytes, and
 * count alone. In the grouped product with `tokens` tokens in a batch:
 *
 *   rows_of_4096        rows of an expert, with 4096 tokens
 *   operations_a_byte   operations for each byte of its weights, with these rows
 *   least_tokens        the smallest batch, a multiple of 64, for which memory is not the limit
 *   share_read_by_one   how much of all experts' weights one token reads, as a fraction
 *
 * And a mistake that was made in earnest: somebody puts the bias into the weights of the chosen,
 * too. (The balance rule moves it after each step; it is no weight of the model.) 1 if the sentence
 * is true, 0 if not:
 *
 *   other_choice        tokens then go to other experts than before
 *   stays_biased        when all loads are even at last, and no bias moves any more, the output
 *                       still is another one than without any bias
 *   learns_bias         the bias then gets a gradient through the weights, and learns from the loss
 *
 * POINTS: 2
 */
extern const double rows_of_4096, operations_a_byte, share_read_by_one;
extern const int least_tokens, other_choice, stays_biased, learns_bias;

const double rows_of_4096 = 0, operations_a_byte = 0, share_read_by_one = 0;
const int least_tokens = 0, other_choice = -1, stays_biased = -1, learns_bias = -1;
