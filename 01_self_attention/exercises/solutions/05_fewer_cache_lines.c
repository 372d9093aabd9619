/*
 * Solution 01.5. A tile of C stays while tiles of A and B pass by: 16 lines of C for each of 16
 * tiles, and 32 lines for each of 64 pairs: 256 + 2048 = 2304 lines.
 *
 * Tempting is to stop at the order of the loops, i, k, j: rows of B and C are walked along, and
 * 16,896 lines are fetched instead of 263,000. But each row of A meets all of B, which is four
 * times as large as the cache, so B comes anew for every row. Another one is tiles of 32: three of
 * them are 192 lines.
 */
#include "01_self_attention/exercises/cache.h"

void multiply(float *c, const float *a, const float *b);

enum { N = 64, TILE = 16 };

static void multiply_tile(float *c, const float *a, const float *b, int first) {
    for (int i = 0; i < TILE; i++)
        for (int j = 0; j < TILE; j++) {
            float sum = first ? 0 : load(&c[i * N + j]);
            for (int k = 0; k < TILE; k++) sum += load(&a[i * N + k]) * load(&b[k * N + j]);
            store(&c[i * N + j], sum);
        }
}

void multiply(float *c, const float *a, const float *b) {
    for (int i = 0; i < N; i += TILE)
        for (int j = 0; j < N; j += TILE)
            for (int k = 0; k < N; k += TILE)
                multiply_tile(c + i * N + j, a + i * N + k, b + k * N + j, k == 0);
}
