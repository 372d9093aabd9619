/*
 * Solution 05.10. 4096 * 8 / 256 = 128 rows; a weight of 2 bytes does 2 * 128 operations, 128 for
 * a byte. So 186 rows are needed: 186 * 32 = 5952 tokens, which is a multiple of 64. One token
 * reads 8 of 256 experts: little of what is stored, but for itself alone; that is why decoding
 * wants large batches.
 *
 * The bias in the weights: the choice is what it was, for it was made with the bias all along. But
 * the output now depends on the loads of all steps before: the rule stops where they are even, and
 * the bias that made them so is not 0. Tempting are two wrong answers. That even loads make an end
 * of the harm; and that the bias would at least learn: it is no parameter, and the balance rule
 * moves it whatever the loss says. Who computes and what is computed are two questions.
 */
extern const double rows_of_4096, operations_a_byte, share_read_by_one;
extern const int least_tokens, other_choice, stays_biased, learns_bias;

const double rows_of_4096 = 128, operations_a_byte = 128, share_read_by_one = 8.0 / 256;
const int least_tokens = 5952, other_choice = 0, stays_biased = 1, learns_bias = 0;
