/*
 * The weights of a model, and the optimizer's state beside them.
 *
 * A model registers its weights one by one under their Hugging Face names; params_allocate() then
 * lays all of them out in a few flat buffers: values, gradients (F32), AdamW's two moments, and F32
 * master copies when the values are BF16. Flat means that the gradient norm and the AdamW step are
 * one kernel each for the whole model.
 *
 * Invariant: weights with two or more dimensions (which are decayed) come before vectors (which are
 * not); every weight begins at a multiple of 64 elements, and the padding is zero in every buffer.
 *
 * State that belongs to the model but is not learned by gradients (a router's bias, say) is
 * registered by params_buffer(): it keeps its dtype, has no gradient, and the optimizer does not
 * know it.
 */
#ifndef COMMON_PARAMS_H
#define COMMON_PARAMS_H

#include "common/core/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Params {
    Context *ctx;
    Tensor **list; /* in order of registration */
    int count, capacity;
    /* elements in a flat buffer; how many of them, from the start, are decayed */
    int64_t size, decayed;
    void *values;         /* ctx->dtype */
    float *grads, *m, *v; /* on ctx's device; NULL for a model that only infers */
    float *master;        /* the F32 weights; the same memory as values when ctx->dtype is F32 */
    float *scratch;       /* partial sums of the gradient norm */
    Tensor **buffers;     /* state that is not learned, in order of registration */
    int buffer_count, buffer_capacity;
    void *buffer_values;
} Params;

void params_init(Params *params, Context *ctx);
void params_free(Params *params);

/* Registers a weight. The Tensor lives as long as params; its data is there after
 * params_allocate(). name is copied. */
Tensor *params_new(Params *params, const char *name, const int64_t *shape, int ndim);

/* Registers state that the optimizer does not touch: F32 or I32, zero after params_allocate(). name
 * is copied. */
Tensor *params_buffer(Params *params, const char *name, DType dtype, const int64_t *shape,
                      int ndim);

/* Lays out and clears the buffers. training: gradients and moments too. -1 and a message when
 * memory runs out. */
int params_allocate(Params *params, bool training, Error *err);

/* a weight or a buffer; NULL if there is none */
Tensor *params_find(const Params *params, const char *name);
int64_t params_count(const Params *params); /* weights: numbers in the model, padding not counted */

/* Fills one weight (master and value), or an F32 buffer. Normal(0, std): a stream of ctx's rng, so
 * the same on every device. */
void params_normal(Params *params, Tensor *t, float std);
void params_fill(Params *params, Tensor *t, float value);
void params_set(Params *params, Tensor *t, const float *host); /* F32 from host memory */
void params_get(Params *params, const Tensor *t, float *host); /* the F32 master to host memory */
/* zeros where nothing was written */
void params_get_grad(Params *params, const Tensor *t, float *host);

/* Where weight i begins in each of the flat buffers. */
int64_t params_offset(const Params *params, int i);

/* Start of a step: the next contribution to each gradient overwrites. (Not between accumulated
 * micro-batches.) */
void params_zero_grad(Params *params);

/* ---- AdamW (Loshchilov & Hutter 2019, alg. 2: decoupled weight decay) ---- */

typedef struct AdamW {
    float beta1, beta2, eps, weight_decay;
    float clip;   /* largest global norm of the gradient; 0: no clipping */
    int64_t step; /* steps done */
} AdamW;

/* beta 0.9 / 0.95, eps 1e-8, weight decay 0.1, clip 1.0: DeepSeek-V3's recipe. */
AdamW adamw_defaults(void);

/*
 * One step with learning rate lr on gradients multiplied by grad_scale (1 / the number of
 * accumulated micro-batches):
 *     norm = || grad_scale * grad ||_2 over all weights
 *     g = grad_scale * grad * min(1, clip / norm)
 *     m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
 *     w = w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) - lr weight_decay w
 * Returns the norm before clipping. When the norm is not finite nothing is changed and the step is
 * not counted.
 */
float adamw_step(AdamW *adamw, Params *params, float lr, float grad_scale);

/* Linear warm-up to `peak` over `warmup` steps, then a half cosine down to `floor` at step `total`.
 * step counts from 0. */
float lr_warmup_cosine(int64_t step, int64_t warmup, int64_t total, float peak, float floor);

/* ---- kernels ---- */

enum { NORM_CHUNKS = 1024 };

/* What one AdamW step needs of its settings; the corrections are 1 - beta^t. */
typedef struct AdamWStep {
    float lr, beta1, beta2, eps, weight_decay, clip, grad_scale;
    float correction1, correction2;
} AdamWStep;

/* scratch: F32 [NORM_CHUNKS + 1]; the norm of grad_scale * grads ends in scratch[NORM_CHUNKS] */
void grad_norm_cpu(float *scratch, const float *grads, int64_t n, float grad_scale);
/* values = the new master, rounded to dtype. Does nothing when norm[0] is not finite. */
void adamw_cpu(void *values, float *master, float *m, float *v, const float *grads,
               const float *norm, int64_t n, int64_t decayed, AdamWStep step);
#ifdef WITH_CUDA
void grad_norm_cuda(Gpu *gpu, DType dtype, float *scratch, const float *grads, int64_t n,
                    float grad_scale);
void adamw_cuda(Gpu *gpu, DType dtype, void *values, float *master, float *m, float *v,
                const float *grads, const float *norm, int64_t n, int64_t decayed, AdamWStep step);
#endif

#ifdef __cplusplus
}
#endif
#endif
