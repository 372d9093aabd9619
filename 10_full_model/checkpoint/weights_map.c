/*
 * Names in files, and names in the model.
 *
 * The model has one tensor for all experts of a layer; files have one for each ("experts.7.", a
 * part j of it), or, fused, gate's rows and up's below each other in one tensor. Where in the
 * model's numbers a part lies is arithmetic on the shapes: nothing is kept.
 */
#include "10_full_model/checkpoint/weights_map.h"

#include <stdio.h>
#include <string.h>

/* The part of a name behind "mlp.experts.", or NULL: "gate_proj.weight". ("shared_experts." has
 * no dot before.) */
static const char *behind_experts(const Tensor *weight) {
    static const char key[] = ".experts.";
    const char *at = strstr(weight->name, key);
    return at ? at + sizeof key - 1 : NULL;
}

int weight_parts(const Tensor *weight) {
    return behind_experts(weight) ? (int)weight->shape[0] : 1;
}

WeightPart weight_part(const Tensor *weight, int j) {
    WeightPart part = {.ndim = weight->ndim, .count = tensor_count(weight)};
    const char *rest = behind_experts(weight);
    int first = rest ? 1 : 0; /* the file's tensors have no dimension for experts */
    if (rest) {
        part.ndim = weight->ndim - 1;
        part.count /= weight->shape[0];
        part.offset = j * part.count;
        snprintf(part.name, sizeof part.name, "%.*s%d.%s", (int)(rest - weight->name), weight->name,
                 j, rest);
    } else {
        snprintf(part.name, sizeof part.name, "%s", weight->name);
    }
    for (int i = 0; i < part.ndim; i++) part.shape[i] = weight->shape[first + i];
    return part;
}

int weight_layer(const char *name) {
    int layer;
    return sscanf(name, "model.layers.%d.", &layer) == 1 ? layer : -1;
}

bool weight_alias(const Model *model, int i, Tensor **weight, WeightPart *alias) {
    static const char *const names[] = {"embed_tokens.weight", "shared_head.head.weight"};
    if (i >= 2 * model->mtp.depth) return false;
    *weight = i % 2 ? model->decoder.lm_head : model->decoder.embed_tokens;
    *alias = weight_part(*weight, 0);
    snprintf(alias->name, sizeof alias->name, "model.layers.%d.%s",
             model->cfg.num_hidden_layers + i / 2, names[i % 2]);
    return true;
}

bool weight_fused(const Tensor *weight, WeightPart *fused, int64_t *first, int64_t *stride) {
    const char *rest = behind_experts(weight);
    if (!rest) return false;
    bool down = !strcmp(rest, "down_proj.weight"), up = !strcmp(rest, "up_proj.weight");
    int64_t experts = weight->shape[0], rows = weight->shape[1], columns = weight->shape[2];
    *fused = (WeightPart){.shape = {experts, down ? rows : 2 * rows, columns}, .ndim = 3};
    *stride = fused->shape[1] * columns;
    *first = up ? rows * columns : 0;
    fused->count = experts * *stride;
    snprintf(fused->name, sizeof fused->name, "%.*s%s", (int)(rest - weight->name), weight->name,
             down ? "down_proj" : "gate_up_proj");
    return true;
}

Tensor *weights_at(const Params *params, int i) {
    if (i < params->count) return params->list[i];
    i -= params->count;
    for (int b = 0; b < params->buffer_count; b++) /* I32 buffers count or report, no more */
        if (params->buffers[b]->dtype == F32 && i-- == 0) return params->buffers[b];
    return NULL;
}
