/*
 * Solution 04.7. q . R_(s-p) W_uk c = (W_uk^T R_(p-s) q) . c. The turn stands between the two
 * matrices and depends on both positions, so every cached token wants an absorbed query of its own:
 * as many products with W_uk as making every key again would take. The tempting wrong answer turns
 * by s - p: with angles that are small nobody sees the sign, at a quarter turn everybody does.
 */
#include "04_mla/exercises/turn.h"

extern const int queries_needed, key_numbers, rope_numbers;

const int queries_needed = 4096;   /* one for each distance, 0 to 4095 */
const int key_numbers = 128 * 128; /* turned keys of all heads: what MLA was to save */
const int rope_numbers = 64;

void turned_query(float *out, const float *w_uk, const float *q, int D, int rank, int p, int s) {
    float turned[1024];
    for (int d = 0; d < D; d++) turned[d] = q[d];
    turn(turned, D, p - s);
    for (int c = 0; c < rank; c++) {
        out[c] = 0;
        for (int d = 0; d < D; d++) out[c] += w_uk[d * rank + c] * turned[d];
    }
}
