/*
 * Exercise 07.6: find the two mistakes.
 *
 * decode_step() is one step of a head with a cache of keys: the new token's query and key are
 * turned by their position, the key joins the cache, and the query meets every key in it. One pair
 * of numbers a head, turned by the angle f for each place. `cached` tokens are in the cache
 * already. It was tried with an empty cache, where it works. Two lines are wrong. Mend both.
 *
 * POINTS: 3
 */
#include <math.h>

/* keys [capacity, 2]; scores [cached + 1] */
void decode_step(float *scores, float *keys, const float q[2], const float k[2], int cached,
                 float f);

static void turn(float y[2], const float x[2], float angle) {
    y[0] = x[0] * cosf(angle) - x[1] * sinf(angle);
    y[1] = x[0] * sinf(angle) + x[1] * cosf(angle);
}

void decode_step(float *scores, float *keys, const float q[2], const float k[2], int cached,
                 float f) {
    float query[2], key[2];
    int place = cached;
    turn(query, q, (float)place * f);
    turn(key, k, (float)place * f);
    keys[2 * cached] = key[0];
    keys[2 * cached + 1] = key[1];
    for (int s = 0; s <= cached; s++)
        scores[s] = query[0] * keys[2 * s] + query[1] * keys[2 * s + 1];
}
