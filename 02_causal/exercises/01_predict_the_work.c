/*
 * Exercise 02.1: predict the work and the memory.
 *
 * One head reads T = 1000 tokens. Queries are worked on in tiles of 32 (the last tile is smaller);
 * each tile visits the keys up to its last query and none after it, as in section 2 of the demo.
 * Predict, with a pencil:
 *
 *   scores_visible    pairs (query, key) that the causal mask allows
 *   scores_computed   pairs that the tiles compute
 *   bytes_matrix      bytes of the T x T probabilities of 12 such heads, kept for backward in F32
 *   bytes_lse         bytes that the tiled kernel keeps of 12 such heads, beside q, k, v and o
 *
 * POINTS: 1
 */
extern const long scores_visible, scores_computed, bytes_matrix, bytes_lse;

const long scores_visible = 0;
const long scores_computed = 0;
const long bytes_matrix = 0;
const long bytes_lse = 0;
