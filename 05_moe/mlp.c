/*
 * Three products and a SwiGLU; the last one adds to the residual stream where it is given.
 */
#include "05_moe/mlp.h"

#include <stdio.h>

static Tensor *weight(Params *params, const char *prefix, const char *name, int out, int in) {
    char full[256];
    snprintf(full, sizeof full, "%s.%s.weight", prefix, name);
    return params_new(params, full, SHAPE(out, in));
}

Mlp mlp_init(Params *params, const char *prefix, int hidden, int inner) {
    return (Mlp){.gate_proj = weight(params, prefix, "gate_proj", inner, hidden),
                 .up_proj = weight(params, prefix, "up_proj", inner, hidden),
                 .down_proj = weight(params, prefix, "down_proj", hidden, inner)};
}

void mlp_randomize(Params *params, const Mlp *w, float std, float out_std) {
    params_normal(params, w->gate_proj, std);
    params_normal(params, w->up_proj, std);
    params_normal(params, w->down_proj, out_std);
}

Tensor *mlp_forward(Context *ctx, Tensor *x, const Mlp *w, Residual to) {
    Tensor *gate = linear(ctx, x, w->gate_proj, NULL); /* [..., inner] */
    Tensor *up = linear(ctx, x, w->up_proj, NULL);
    Tensor *h = swiglu(ctx, gate, up);
    return linear_residual(ctx, h, w->down_proj, NULL, to);
}
