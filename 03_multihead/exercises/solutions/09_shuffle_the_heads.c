/*
 * Solution 03.9. A head is a run of rows in q, k and v, and a run of COLUMNS in o, for o's input is
 * the heads side by side. The tempting wrong answer moves rows in all four: o's rows are the
 * model's own numbers, and have no heads. It is also tempting to let query heads move freely:
 * across groups they would look at another head's keys.
 */
#include <string.h>

typedef struct Matrices {
    float *q, *k, *v, *o;
} Matrices;

void shuffle_heads(Matrices to_fill, Matrices old, const int *to, int H, int H_kv, int D,
                   int hidden);

void shuffle_heads(Matrices to_fill, Matrices old, const int *to, int H, int H_kv, int D,
                   int hidden) {
    int key = D * hidden, group = H / H_kv;
    for (int g = 0; g < H_kv; g++) {
        memcpy(to_fill.k + to[g] * key, old.k + g * key, sizeof(float) * (size_t)key);
        memcpy(to_fill.v + to[g] * key, old.v + g * key, sizeof(float) * (size_t)key);
        memcpy(to_fill.q + to[g] * group * key, old.q + g * group * key,
               sizeof(float) * (size_t)(group * key));
        for (int row = 0; row < hidden; row++)
            memcpy(to_fill.o + row * H * D + to[g] * group * D, old.o + row * H * D + g * group * D,
                   sizeof(float) * (size_t)(group * D));
    }
}
