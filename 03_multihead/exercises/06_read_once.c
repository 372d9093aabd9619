/*
 * Exercise 03.6: read every key once.
 *
 * group_scores() computes the scores of one new token: scores[h][t] = q[h] . key t of head h's
 * group, for H query heads and `length` keys of each of the H_kv key heads. It gets a key by
 * read_key(), which stands for the memory: each call moves D numbers, and that is what
 * decoding waits for. As it stands the keys of a group are read once for each of its query heads.
 * Make it H_kv * length calls, with the same scores. (A key is valid until the next call.)
 *
 * POINTS: 3
 */
#include "03_multihead/exercises/read_once.h"

void group_scores(float *scores, const float *q, Memory *memory, int H, int H_kv, int D,
                  int length) {
    for (int h = 0; h < H; h++)
        for (int t = 0; t < length; t++) {
            const float *key = read_key(memory, h / (H / H_kv), t);
            float sum = 0;
            for (int d = 0; d < D; d++) sum += q[h * D + d] * key[d];
            scores[h * length + t] = sum;
        }
}
