/*
 * Exercise 05.1: predict the parameters.
 *
 * A layer of DeepSeek's kind: hidden_size 2048, 64 routed experts of inner width 1408, 2 shared
 * ones, top 6, a linear gate. Predict, with a pencil:
 *
 *   one_expert        the numbers in one expert (gate, up and down)
 *   total             in the layer: experts, shared experts, gate
 *   active            those that one token is multiplied with
 *   rows              rows of the permuted matrix for 33 tokens
 *   multiplications   in the routed experts, for these 33 tokens, forward
 *
 * POINTS: 1
 */
extern const long long one_expert, total, active, rows, multiplications;

const long long one_expert = 0;
const long long total = 0;
const long long active = 0;
const long long rows = 0;
const long long multiplications = 0;
