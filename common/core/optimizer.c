/*
 * AdamW over the spans of flat buffers, and the schedule's curve.
 *
 * A step is a norm over all gradients and then, for each span, one pass that reads a gradient and
 * writes m, v, master and weight. The norm stays on the device, where that pass clips by it.
 */
#include "common/core/optimizer.h"

#include <math.h>

AdamW adamw_defaults(void) {
    return (AdamW){.beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .clip = 1.0f};
}

float adamw_step(AdamW *adamw, Params *params, float lr, float grad_scale) {
    CHECK(params->grads, "adamw_step: the weights were not allocated for training");
    params_finish_gradients(params);
    ON(params->ctx, grad_norm, params->scratch, params->grads, params->size, grad_scale);
    return adamw_update(adamw, params, lr, grad_scale);
}

float adamw_update(AdamW *adamw, Params *params, float lr, float grad_scale) {
    Context *ctx = params->ctx;
    double t = (double)adamw->step + 1;
    AdamWStep step = {.beta1 = adamw->beta1,
                      .beta2 = adamw->beta2,
                      .eps = adamw->eps,
                      .weight_decay = adamw->weight_decay,
                      .clip = adamw->clip,
                      .grad_scale = grad_scale,
                      .correction1 = (float)(1 - pow(adamw->beta1, t)),
                      .correction2 = (float)(1 - pow(adamw->beta2, t))};
    float *norm = params->scratch + NORM_CHUNKS;
    for (int i = 0; i < params->span_count; i++) {
        const ParamSpan *s = &params->spans[i];
        step.lr = lr * s->rate;
        const float *grads = params->grads + s->first;
        if (params->moments == BF16)
            ON_AS(ctx, s->dtype, adamw_bf16, s->values, s->master,
                  (uint16_t *)params->m + s->moments, (uint16_t *)params->v + s->moments, grads,
                  norm, s->size, s->decayed, step);
        else
            ON_AS(ctx, s->dtype, adamw, s->values, s->master, (float *)params->m + s->moments,
                  (float *)params->v + s->moments, grads, norm, s->size, s->decayed, step);
    }
    float result;
    device_get(ctx->gpu, &result, norm, sizeof result);
    if (isfinite(result)) adamw->step++;
    return result;
}

float schedule_rate(const Schedule *s, int64_t step) {
    int64_t level_ends = s->warmup + s->constant;
    if (step < s->warmup) return s->peak * (float)(step + 1) / (float)s->warmup;
    if (step < level_ends) return s->peak;
    if (step >= s->steps) return s->floor;
    double progress = (double)(step - level_ends) / (double)(s->steps - level_ends);
    return s->floor +
           (s->peak - s->floor) * (float)(0.5 * (1 + cos(3.14159265358979323846 * progress)));
}
