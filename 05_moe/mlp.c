/*
 * Three products and a SwiGLU; the last one adds to the residual stream where it is given.
 */
#include "05_moe/mlp.h"

Mlp mlp_init(Params *params, const char *prefix, int hidden, int inner) {
    return (Mlp){.gate_proj = params_new(params, prefix, "gate_proj.weight", SHAPE(inner, hidden)),
                 .up_proj = params_new(params, prefix, "up_proj.weight", SHAPE(inner, hidden)),
                 .down_proj = params_new(params, prefix, "down_proj.weight", SHAPE(hidden, inner))};
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
