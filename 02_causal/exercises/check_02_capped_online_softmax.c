/* Checks exercise 02.2 against the formula in double, exponents taken relative to the largest. */
#include "common/core/rng.h"

#include <criterion/criterion.h>
#include <math.h>

typedef struct State {
    float m, l;
} State;

void start(State *state, float sink);
void tile(State *state, float *o, const float *s, int keys, const float *v, int v_dim, float cap);
void finish(const State *state, float *o, int v_dim);

enum { KEYS = 50, DIM = 3 };

static void compare(int tile_size, float size, float middle, float cap, float sink) {
    float s[KEYS], v[KEYS * DIM], o[DIM] = {0};
    double c[KEYS], max = sink, sum, want[DIM] = {0};
    for (int j = 0; j < KEYS; j++) {
        s[j] = middle + size * rng_normal(7, 0, (uint64_t)j);
        c[j] = cap * tanh((double)s[j] / cap);
        max = fmax(max, c[j]);
    }
    for (int j = 0; j < KEYS * DIM; j++) v[j] = rng_normal(7, 1, (uint64_t)j);
    sum = exp(sink - max);
    for (int j = 0; j < KEYS; j++) {
        sum += exp(c[j] - max);
        for (int i = 0; i < DIM; i++) want[i] += exp(c[j] - max) * v[j * DIM + i];
    }
    State state;
    start(&state, sink);
    for (int j = 0; j < KEYS; j += tile_size) {
        int keys = KEYS - j < tile_size ? KEYS - j : tile_size;
        tile(&state, o, s + j, keys, v + j * DIM, DIM, cap);
    }
    finish(&state, o, DIM);
    for (int i = 0; i < DIM; i++) /* outputs of order 1; scores of 1000 are rounded at 2^-14 */
        cr_assert(fabs(o[i] - want[i] / sum) <= 1e-4,
                  "tiles of %d, cap %g, sink %g: o[%d] is %g, not %g", tile_size, cap, sink, i,
                  o[i], want[i] / sum);
}

Test(capped, one_tile) { compare(KEYS, 1, 0, 30, 0); }
Test(capped, tiles_of_any_size) {
    for (int size = 1; size < KEYS; size++) compare(size, 3, 0, 30, 1);
}
Test(capped, no_sink) { compare(7, 3, 0, 30, -INFINITY); }
Test(capped, a_cap_that_is_felt) { compare(7, 200, 0, 5, 2); }
Test(capped, scores_far_below) { compare(7, 1, -2000, 1000, -900); }
Test(capped, scores_far_above) { compare(7, 1, 2000, 1000, 500); }
Test(capped, a_sink_far_above) { compare(7, 1, 0, 30, 500); }
