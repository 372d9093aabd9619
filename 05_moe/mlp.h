/*
 * The dense feed-forward layer, SwiGLU (Shazeer 2020): what one expert is, and what all of them
 * replace.
 *
 *     y = (silu(x W_gate^T) * (x W_up^T)) W_down^T
 */
#ifndef MLP_H
#define MLP_H

#include "common/core/ops.h"
#include "common/core/params.h"

__BEGIN_DECLS

typedef struct Mlp {
    Tensor *gate_proj, *up_proj; /* [inner, hidden] */
    Tensor *down_proj;           /* [hidden, inner] */
} Mlp;

/* Registers PREFIX.gate_proj.weight and so on. */
Mlp mlp_init(Params *params, const char *prefix, int hidden, int inner);

/* gate and up Normal(0, std), down Normal(0, out_std): it writes into the residual stream. */
void mlp_randomize(Params *params, const Mlp *w, float std, float out_std);

/* x [..., hidden] -> [..., hidden], added to `to` (ops.h); {0}: to nothing */
Tensor *mlp_forward(Context *ctx, Tensor *x, const Mlp *w, Residual to);

__END_DECLS
#endif
