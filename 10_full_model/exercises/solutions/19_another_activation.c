/*
 * Solution 10.19: d relu(g)^2 / dg = 2 relu(g), so dgate = dh up 2 relu(gate) and dup = dh
 * relu(gate)^2. The loss ends where it did: what is left of it is what nobody can know, where in
 * the sentence a window begins, and both find all the rest. (Tempting: 3. The change is slower at
 * first, and after 100 steps its loss is higher; and 1, because larger models have been trained
 * with it well. Neither can be seen here. And in the code: to overwrite where `add` asks for a
 * sum, which is right until a tensor is used twice.)
 */
#include "common/core/context.h"
#include "common/core/tape.h"

Tensor *squared_relu(Context *ctx, Tensor *gate, Tensor *up);
extern const int verdict;

const int verdict = 2;

typedef struct Saved {
    Tensor *h, *gate, *up;
} Saved;

static void backward(Context *ctx, void *saved) {
    Saved *s = saved;
    int add_gate, add_up;
    float *dgate = grad_slot(ctx, s->gate, &add_gate), *dup = grad_slot(ctx, s->up, &add_up);
    const float *dh = s->h->grad->data, *g = s->gate->data, *u = s->up->data;
    for (int64_t i = 0; i < tensor_count(s->h); i++) {
        float positive = g[i] > 0 ? g[i] : 0;
        if (dgate) dgate[i] = (add_gate ? dgate[i] : 0) + dh[i] * u[i] * 2 * positive;
        if (dup) dup[i] = (add_up ? dup[i] : 0) + dh[i] * positive * positive;
    }
}

Tensor *squared_relu(Context *ctx, Tensor *gate, Tensor *up) {
    Tensor *h = tensor_new(ctx, "squared_relu", F32, gate->shape, gate->ndim);
    float *y = h->data;
    const float *g = gate->data, *u = up->data;
    for (int64_t i = 0; i < tensor_count(h); i++) y[i] = g[i] > 0 ? g[i] * g[i] * u[i] : 0;
    RECORD(ctx, h, backward, Saved, .h = h, .gate = gate, .up = up);
    return h;
}
