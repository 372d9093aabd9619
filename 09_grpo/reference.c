/*
 * By way of the host, weight by weight: it happens once in hundreds of steps.
 */
#include "09_grpo/reference.h"

#include <stdlib.h>

static void mix(Params *reference, Tensor *to, Params *policy, const Tensor *from, float alpha) {
    int64_t n = tensor_count(to);
    CHECK(tensor_count(from) == n, "reference_mix: '%s' has %lld numbers, '%s' %lld", from->name,
          (long long)tensor_count(from), to->name, (long long)n);
    float *x = must_alloc((size_t)n, sizeof *x), *y = NULL;
    params_get(policy, from, x);
    if (alpha != 1) {
        y = must_alloc((size_t)n, sizeof *y);
        params_get(reference, to, y);
        for (int64_t i = 0; i < n; i++) x[i] = alpha * x[i] + (1 - alpha) * y[i];
    }
    params_set(reference, to, x);
    free(x), free(y);
}

void reference_mix(Params *reference, Params *policy, float alpha) {
    CHECK(reference->count == policy->count && reference->buffer_count == policy->buffer_count,
          "reference_mix: %d weights and %d", reference->count, policy->count);
    for (int i = 0; i < policy->count; i++)
        mix(reference, reference->list[i], policy, policy->list[i], alpha);
    for (int i = 0; i < policy->buffer_count; i++)
        if (policy->buffers[i]->dtype == F32)
            mix(reference, reference->buffers[i], policy, policy->buffers[i], alpha);
}
