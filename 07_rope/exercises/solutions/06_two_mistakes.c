/*
 * Solution 07.6: the new token stands at place `cached`, not at 0; and what joins the cache is the
 * turned key. Each mistake alone is invisible with an empty cache, where the place is 0 and nothing
 * is turned. (Tempting: to turn the cached keys at every step. The right scores come out if the
 * query is turned by its distance to each, too, and the whole cache is turned for every token.)
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
