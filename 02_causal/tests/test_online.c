/*
 * The online softmax by itself: the lesson's toy numbers, and that the cut into tiles does not
 * matter.
 */
#include "02_causal/causal.h"

#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>

/* exp of the toy's scores: 1 2 | 4 1 | 2 8. The lesson and the demo use the same six. */
static const double weights[6] = {1, 2, 4, 1, 2, 8};
static const float values[6] = {2, 5, 1, 4, 2, 6};

/* log() and exp() each round, and a rounded score of ln 8 = 2.08 is in every exp(): five. */
enum { TOY_TILE = 2 };
static const float TOY_TOLERANCE = 1e-6f;

static void expect(const char *what, int tile, float got, float wanted) {
    cr_assert(fabsf(got - wanted) <= TOY_TOLERANCE * fabsf(wanted),
              "%s after tile %d: %.9g, not %.9g", what, tile + 1, got, wanted);
}

Test(online, toy_numbers_of_the_lesson) {
    const float m[3] = {logf(2), logf(4), logf(8)}, l[3] = {1.5f, 2.0f, 2.25f}, o[3] = {6, 5, 9};
    OnlineSoftmax state = {-INFINITY, 0};
    float out = 0;
    for (int tile = 0; tile < 3; tile++) {
        float s[TOY_TILE];
        for (int j = 0; j < TOY_TILE; j++) s[j] = logf((float)weights[TOY_TILE * tile + j]);
        online_softmax(&state, &out, s, TOY_TILE, values + TOY_TILE * tile, 1, 1);
        expect("m", tile, state.m, m[tile]);
        expect("l", tile, state.l, l[tile]);
        expect("o", tile, out, o[tile]);
    }
    expect("o / l", 2, out / state.l, 4.0f);
    expect("exp(lse)", 2, expf(state.m + logf(state.l)), 18.0f);
}

enum { N = 131, DIM = 5 };

/* The direct softmax in double. */
static void direct(double *out, double *lse, const float *s, const float *v) {
    double max = s[0], sum = 0;
    for (int j = 0; j < N; j++) max = fmax(max, s[j]);
    for (int c = 0; c < DIM; c++) out[c] = 0;
    for (int j = 0; j < N; j++) {
        double p = exp(s[j] - max);
        sum += p;
        for (int c = 0; c < DIM; c++) out[c] += p * v[j * DIM + c];
    }
    for (int c = 0; c < DIM; c++) out[c] /= sum;
    *lse = max + log(sum);
}

static void check_tiles(const float *s, const float *v, int tile) {
    double expected[DIM], expected_lse;
    direct(expected, &expected_lse, s, v);
    OnlineSoftmax state = {-INFINITY, 0};
    float out[DIM] = {0}, wanted[DIM], copy[N];
    for (int first = 0; first < N; first += tile) {
        int keys = N - first < tile ? N - first : tile;
        for (int j = 0; j < keys; j++) copy[j] = s[first + j];
        online_softmax(&state, out, copy, keys, v + first * DIM, DIM, DIM);
        for (int j = 0; j < keys; j++)
            cr_assert(copy[j] == copy[j] && copy[j] <= 1, "s[%d] became %g, not exp(s - m)",
                      first + j, copy[j]);
    }
    for (int c = 0; c < DIM; c++) {
        out[c] /= state.l;
        wanted[c] = (float)expected[c];
    }
    /* N roundings of sums, and fast_exp()'s 2e-7 for a probability and each rescaling. */
    check_close("o / l", out, wanted, DIM, 2e-6);
    float lse = state.m + logf(state.l), wanted_lse = (float)expected_lse;
    check_close("lse", &lse, &wanted_lse, 1, 1e-6);
}

static float *scores_and_values(float **v, float spread) {
    float *s = malloc(sizeof(float) * N * (1 + DIM));
    for (int i = 0; i < N * (1 + DIM); i++) s[i] = rng_normal(5, 0, (uint64_t)i);
    for (int j = 0; j < N; j++) s[j] *= spread;
    *v = s + N;
    return s;
}

Test(online, any_cut_into_tiles_gives_the_softmax) {
    float *v, *s = scores_and_values(&v, 3);
    const int tiles[] = {1, 2, 3, 31, 64, 130, N};
    for (int i = 0; i < 7; i++) check_tiles(s, v, tiles[i]);
}

/* exp(s) itself would overflow at 89. Rising: each tile has a new maximum; falling: none. */
Test(online, large_scores_rising_and_falling) {
    float *v, *s = scores_and_values(&v, 1);
    for (int j = 0; j < N; j++) s[j] = 0.5f * (float)j + 400;
    check_tiles(s, v, 4);
    for (int j = 0; j < N; j++) s[j] = -0.5f * (float)j - 400;
    check_tiles(s, v, 4);
}

/* A NaN score must not be mistaken for a small one: training looks for it. */
Test(online, nan_is_not_swallowed) {
    float s[3] = {1, NAN, 2}, v[3] = {1, 1, 1}, o = 0;
    OnlineSoftmax state = {-INFINITY, 0};
    online_softmax(&state, &o, s, 3, v, 1, 1);
    cr_assert(isnan(o) && isnan(state.l), "o = %g, l = %g", o, state.l);
}
