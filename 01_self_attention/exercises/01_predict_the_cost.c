/*
 * Exercise 01.1: predict the cost.
 *
 * T = 1536 new tokens look at S = 6000 others: the queries are made from x [T, C], the keys and
 * values from another text [S, C]. C = 768, one head of D = 96, and all numbers are BF16, 2 bytes
 * each. Predict, with a pencil:
 *
 *   bytes_texts     bytes of the two texts together
 *   bytes_weights   bytes of the attention weights, the softmax's output P
 *   projections     multiply-adds of the three projections together
 *   products        multiply-adds of q k^T and of weights v together
 *   t_equal         for a text that looks at itself (S = T; C and D as above): the T at which the
 *                   two products cost as much as the three projections
 *
 * POINTS: 1
 */
extern const long bytes_texts, bytes_weights, projections, products, t_equal;

const long bytes_texts = 0;
const long bytes_weights = 0;
const long projections = 0;
const long products = 0;
const long t_equal = 0;
