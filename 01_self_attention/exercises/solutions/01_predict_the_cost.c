/*
 * Solution 01.1. Only the queries belong to the T new tokens; keys and values are made from the
 * other text, so the projections take (T + 2 S) C D. The tempting wrong answer is 3 T C D, which
 * holds when a text looks at itself.
 *
 * There, 3 T C D = 2 T T D: one T and D cancel, and T = 3 C / 2 whatever the head's width is.
 * Beyond it the T x T part is the larger one, and its memory has outgrown that of x at T = C
 * already.
 */
extern const long bytes_texts, bytes_weights, projections, products, t_equal;

const long bytes_texts = 2L * (1536 + 6000) * 768;
const long bytes_weights = 2L * 1536 * 6000;
const long projections = (1536L + 2 * 6000) * 768 * 96;
const long products = 2L * 1536 * 6000 * 96;
const long t_equal = 3 * 768 / 2;
