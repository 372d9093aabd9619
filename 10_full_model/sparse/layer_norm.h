/*
 * LayerNorm with a bias: the indexer's keys are the one place where V3.2 has it.
 *
 *     y = (x - mean(x)) / sqrt(variance(x) + eps) * w + b     x [..., D], w and b [D]
 *
 * On the tape. Backward needs x and not y, so y may be turned in place (07_rope/rope.h).
 */
#ifndef LAYER_NORM_H
#define LAYER_NORM_H

#include "common/core/context.h"

Tensor *layer_norm(Context *ctx, Tensor *x, Tensor *weight, Tensor *bias, float eps);

#endif
