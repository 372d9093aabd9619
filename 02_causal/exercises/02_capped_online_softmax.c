/*
 * Exercise 02.2: an online softmax with a cap and a sink.
 *
 * Two things that some models add to attention. A cap keeps scores from growing: s becomes
 * cap tanh(s / cap). A sink is one more score, without a value, for a query that finds nothing. For
 * one query with scores s_k and values v_k it should see
 *
 *     o = sum_k exp(c_k) v_k / (exp(sink) + sum_k exp(c_k)),        c_k = cap tanh(s_k / cap)
 *
 * The keys arrive in tiles of any size. start() is called once, then tile() for each tile, then
 * finish(), which leaves the output in o. Nothing may overflow, whatever the size of the scores, of
 * the cap and of the sink; the sink is not capped, and may be -infinity. Before the first tile o
 * holds zeros. Value j begins at v + j * v_dim.
 *
 * POINTS: 3
 */
#include <math.h>

typedef struct State {
    float m, l;
} State;

void start(State *state, float sink);
void tile(State *state, float *o, const float *s, int keys, const float *v, int v_dim, float cap);
void finish(const State *state, float *o, int v_dim);

void start(State *state, float sink) {
    state->m = -INFINITY;
    state->l = 0;
}

void tile(State *state, float *o, const float *s, int keys, const float *v, int v_dim, float cap) {
    /* Your code here. */
}

void finish(const State *state, float *o, int v_dim) {
    for (int c = 0; c < v_dim; c++) o[c] /= state->l;
}
