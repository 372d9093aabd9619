/*
 * The optimizer: AdamW, and how its learning rate goes over a run.
 */
#ifndef COMMON_OPTIMIZER_H
#define COMMON_OPTIMIZER_H

#include "common/core/params.h"

__BEGIN_DECLS

/* ---- AdamW (Loshchilov & Hutter 2019, alg. 2: decoupled weight decay) ----
 *
 * As in PyTorch the decay of a step is lr * weight_decay. In the paper the schedule multiplies the
 * decay, and the base rate does not: its lambda is this product at the schedule's peak. */

typedef struct AdamW {
    float beta1, beta2, eps, weight_decay;
    float clip;   /* largest global norm of the gradient; 0: no clipping */
    int64_t step; /* steps done */
} AdamW;

/* beta 0.9 / 0.95, eps 1e-8, weight decay 0.1, clip 1.0: DeepSeek-V3's recipe. */
AdamW adamw_defaults(void);

/*
 * m and v may be BF16, as in DeepSeek-V3 (3.3.3), for weights of a Context whose `moments` says so:
 * 4 bytes a weight instead of 8. They are rounded to nearest as they are stored, and a step uses
 * them as they were before that. BF16 has 8 bits: a moment that is off by less than 2^-9 / (1 -
 * beta) of itself from where it is pulled to stays where it is, 2 % with 0.9 and 4 % with 0.95.
 */

/*
 * One step with learning rate lr on gradients multiplied by grad_scale (1 / the number of
 * accumulated micro-batches):
 *     norm = || grad_scale * grad ||_2 over all weights that train
 *     g = grad_scale * grad * min(1, clip / norm)
 *     m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
 *     w = w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) - lr weight_decay w
 * The decay goes with lr, as in PyTorch's AdamW; in algorithm 2 of the paper it goes with the
 * schedule alone and not with the base rate. lr is multiplied by the rate of a weight's group.
 * Returns the norm before clipping. When the norm is not finite nothing is changed and the step is
 * not counted.
 */
float adamw_step(AdamW *adamw, Params *params, float lr, float grad_scale);

/* Its second half: params->scratch[NORM_CHUNKS] holds the norm (several processes find it
 * together). */
float adamw_update(AdamW *adamw, Params *params, float lr, float grad_scale);

/*
 * The learning rate over a training run: up, level, down.
 *
 *     peak         __________
 *                 /          \
 *                /            `.
 *     floor     /               `-___
 *              warmup constant  a cosine, to the last step
 *
 * Up, because AdamW's second moments are guesses at first; level, because there is much to learn;
 * down, because small steps find the bottom of the valley that large ones have found (DeepSeek-V3,
 * 4.2, has all three; GPT-2 and Llama have no level part: constant 0).
 */
typedef struct Schedule {
    int64_t steps;            /* of the whole run */
    int64_t warmup, constant; /* steps; what they leave is the cosine's */
    float peak, floor;
} Schedule;

/* Of the step that follows `step` finished ones; step 0's is peak / warmup. */
float schedule_rate(const Schedule *schedule, int64_t step);

/* ---- kernels ---- */

/* What one AdamW step needs of its settings; the corrections are 1 - beta^t. */
typedef struct AdamWStep {
    float lr, beta1, beta2, eps, weight_decay, clip, grad_scale;
    float correction1, correction2;
} AdamWStep;

/* scratch: F32 [NORM_CHUNKS + 1]; the norm of grad_scale * grads ends in scratch[NORM_CHUNKS] */
KERNEL(grad_norm, float *scratch, const float *grads, int64_t n, float grad_scale);
/* values = the new master, rounded to dtype. Does nothing when norm[0] is not finite. */
KERNEL(adamw, void *values, float *master, float *m, float *v, const float *grads,
       const float *norm, int64_t n, int64_t decayed, AdamWStep step);
/* The same with m and v in BF16. */
KERNEL(adamw_bf16, void *values, float *master, uint16_t *m, uint16_t *v, const float *grads,
       const float *norm, int64_t n, int64_t decayed, AdamWStep step);

__END_DECLS
#endif
