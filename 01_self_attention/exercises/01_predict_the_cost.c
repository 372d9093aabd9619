/*
 * Exercise 01.1: predict the cost.
 *
 * A sequence of T = 2048 tokens, each a vector of C = 512 numbers, goes through one attention head
 * with D = 64. All numbers are F32. Predict, with a pencil:
 *
 *   bytes_x         bytes of x [T, C]
 *   bytes_weights   bytes of the attention weights [T, T]
 *   projections     multiply-adds of the three projections q, k and v together
 *   products        multiply-adds of q k^T and of weights v together
 *   t_equal         the T at which the two products cost as much as the three projections
 *
 * POINTS: 1
 */
extern const long bytes_x, bytes_weights, projections, products, t_equal;

const long bytes_x = 0;
const long bytes_weights = 0;
const long projections = 0;
const long products = 0;
const long t_equal = 0;
