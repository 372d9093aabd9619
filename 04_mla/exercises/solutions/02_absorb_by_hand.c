/*
 * Exercise 04.2: absorb by hand.
 *
 * The lesson computes the third of three tokens; do the second one. All as there:
 *
 *     latents  c = (1, 1), (1, -1), (-1, 1)      weights are powers of two: 2^score / their sum
 *     head 0   W_uk = ( 2 1; -1  0)   W_uv = (1 2)   the second token's query: (-1, -1)
 *     head 1   W_uk = ( 0 1;  1 -2)   W_uv = (5 1)   the second token's query: (-2, -1)
 *
 *   absorbed0, absorbed1   the two heads' absorbed queries, W_uk^T q
 *   scores0                head 0's scores for the two tokens that it sees
 *   latent0                head 0's weighted sum of latents: what attention on the cache gives
 *   head0, head1           what the heads give, W_uv times that
 *   turned0                head 0's absorbed query for the first token, if keys and queries were
 *                          turned whole, by a quarter turn for each position: (x, y) -> (-y, x)
 *
 * POINTS: 3
 */
extern const double absorbed0[2], absorbed1[2], scores0[2], latent0[2], head0, head1, turned0[2];

const double absorbed0[2] = {-2 + 1, -1};
const double absorbed1[2] = {-1, -2 + 2};
const double scores0[2] = {-1 - 1, -1 + 1};             /* weights 1/4 : 1, that is 1/5 and 4/5 */
const double latent0[2] = {0.2 + 0.8, 0.2 - 0.8};       /* (1, -3/5) */
const double head0 = 1 * (0.2 + 0.8) + 2 * (0.2 - 0.8); /* -1/5 */
const double head1 = 5 * (0.5 + 0.5) + 1 * (0.5 - 0.5); /* scores -1 and -1: half and half */
const double turned0[2] = {2 * 1 + -1 * -1, 1 * 1};     /* (-1, -1) turned once is (1, -1) */
