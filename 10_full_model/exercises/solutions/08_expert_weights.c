/*
 * Solution 10.8. Expert j is the j-th of equal pieces, and its name has j after ".experts.". A
 * weight without experts is one part, at offset 0. (Tempting: to ask for "experts." alone. It
 * stands in "shared_experts." as well, and the shared expert would be cut into pieces that no file
 * has. And the number of the layer in the offset: each layer has a tensor of its own.)
 */
#include "10_full_model/checkpoint/weights_map.h"

#include <stdio.h>
#include <string.h>

WeightPart weight_part(const Tensor *weight, int j) {
    static const char key[] = ".experts.";
    WeightPart part = {.ndim = weight->ndim, .count = tensor_count(weight)};
    const char *at = strstr(weight->name, key);
    if (!at) {
        snprintf(part.name, sizeof part.name, "%s", weight->name);
        for (int i = 0; i < part.ndim; i++) part.shape[i] = weight->shape[i];
        return part;
    }
    at += strlen(key); /* the number goes here */
    snprintf(part.name, sizeof part.name, "%.*s%d.%s", (int)(at - weight->name), weight->name, j,
             at);
    part.ndim = weight->ndim - 1;
    for (int i = 0; i < part.ndim; i++) part.shape[i] = weight->shape[i + 1];
    part.count = tensor_count(weight) / weight->shape[0];
    part.offset = j * part.count;
    return part;
}
