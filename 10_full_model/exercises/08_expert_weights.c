/*
 * Exercise 10.8: one expert's weights
 *
 * In a file every expert has its own tensors; in this program the experts of a layer are one
 * tensor, so that one kernel can multiply with all of them. Say which part of a weight each tensor
 * of a file is:
 *
 *     in the model     model.layers.3.mlp.experts.up_proj.weight        [E, inner, hidden]
 *     in the file      model.layers.3.mlp.experts.17.up_proj.weight     [inner, hidden]
 *
 * Fill in name, shape, ndim, offset (its first number's place in the model's tensor) and count of
 * part j. Every other weight has one part, which is all of it.
 *
 * POINTS: 2
 * REPLACES: weight_part in 10_full_model/checkpoint/weights_map.c
 * TESTS: test_checkpoint:weights_map test_golden:golden/v2_lite_cpu
 */
#include "10_full_model/checkpoint/weights_map.h"

#include <stdio.h>
#include <string.h>

WeightPart weight_part(const Tensor *weight, int j) {
    WeightPart part = {.ndim = weight->ndim, .count = tensor_count(weight)};
    snprintf(part.name, sizeof part.name, "%s", weight->name);
    for (int i = 0; i < part.ndim; i++) part.shape[i] = weight->shape[i];
    return part; /* right for all weights but those of experts */
}
