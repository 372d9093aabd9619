/*
 * Solution 02.2. The order matters: the cap first, for the maximum must be one of capped scores;
 * then the new maximum, the correction of what is there, and the new terms. The sink is a key that
 * has come before all others: m is the sink, l is exp(sink - m) = 1, and its value adds nothing to
 * o.
 *
 * The tempting wrong answer adds the sink in every tile: with one tile it is right, with seven the
 * sink counts seven times. And adding exp(sink) in finish() overflows, or is measured against no
 * maximum.
 */
#include <math.h>

typedef struct State {
    float m, l;
} State;

void start(State *state, float sink);
void tile(State *state, float *o, const float *s, int keys, const float *v, int v_dim, float cap);
void finish(const State *state, float *o, int v_dim);

void start(State *state, float sink) {
    state->m = sink;
    state->l = sink > -INFINITY; /* exp(sink - sink), and 0 when there is none */
}

void tile(State *state, float *o, const float *s, int keys, const float *v, int v_dim, float cap) {
    float m = state->m;
    for (int j = 0; j < keys; j++) m = fmaxf(m, cap * tanhf(s[j] / cap));

    float rescale = state->m == -INFINITY ? 0 : expf(state->m - m);
    state->m = m;
    state->l *= rescale;
    for (int c = 0; c < v_dim; c++) o[c] *= rescale;

    for (int j = 0; j < keys; j++) {
        float p = expf(cap * tanhf(s[j] / cap) - m);
        state->l += p;
        for (int c = 0; c < v_dim; c++) o[c] += p * v[j * v_dim + c];
    }
}

void finish(const State *state, float *o, int v_dim) {
    for (int c = 0; c < v_dim; c++) o[c] /= state->l;
}
