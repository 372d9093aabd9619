/*
 * Solution 04.2. W_uk^T q is the sum of W_uk's ROWS, weighed by q's numbers; the tempting wrong
 * answer takes W_uk q, the columns, which is what makes keys of latents. For head 0 the two even
 * differ in sign. Attention then never leaves the two dimensions of the latents; W_uv comes once,
 * at the end.
 *
 * turned0: the first token is one position behind, so the query is turned once before it is
 * absorbed. To turn the absorbed query instead is tempting, and gives (1, -1) for (3, 1).
 */
extern const double absorbed0[2], absorbed1[2], scores0[2], latent0[2], head0, head1, turned0[2];

const double absorbed0[2] = {-2 + 1, -1};
const double absorbed1[2] = {-1, -2 + 2};
const double scores0[2] = {-1 - 1, -1 + 1};             /* weights 1/4 : 1, that is 1/5 and 4/5 */
const double latent0[2] = {0.2 + 0.8, 0.2 - 0.8};       /* (1, -3/5) */
const double head0 = 1 * (0.2 + 0.8) + 2 * (0.2 - 0.8); /* -1/5 */
const double head1 = 5 * (0.5 + 0.5) + 1 * (0.5 - 0.5); /* scores -1 and -1: half and half */
const double turned0[2] = {2 * 1 + -1 * -1, 1 * 1};     /* (-1, -1) turned once is (1, -1) */
