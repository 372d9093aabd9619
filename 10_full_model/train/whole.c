/*
 * Weight by weight, in the order in which both models have registered them.
 */
#include "10_full_model/train/whole.h"

#include <stdlib.h>

/* A frozen weight is in files as the model computes with it. */
static void keep_dtypes(Params *whole, const Params *params) {
    for (int i = 0; i < params->count; i++)
        if (!params->list[i]->grad) {
            params_set_dtype(whole, whole->list[i], params->list[i]->dtype);
            params_group(whole, whole->list[i])->frozen = true;
        }
}

int whole_open(Whole *whole, const Model *model, Error *err) {
    *whole = (Whole){0};
    if (!ranks_are_apart(&model->params)) return 0;
    if (context_init(&whole->ctx, CPU, F32, model->ctx->rng.seed, err)) return -1;
    whole->ctx.moments = model->ctx->moments;
    whole->ctx.rng = model->ctx->rng;
    if (model_register(&whole->model, &whole->ctx, &model->cfg, err)) return -1;
    keep_dtypes(&whole->model.params, &model->params);
    return model_allocate(&whole->model, true, err);
}

void whole_free(Whole *whole) {
    model_free(&whole->model);
    context_free(&whole->ctx);
}

static int parts_of(const Tensor *t) { return t->grad ? 3 : 1; }

/* Where a part of a whole weight lies. */
static void *place_of(const Params *p, const Tensor *t, int part) {
    if (part == 0) return t->data;
    return (char *)(part == 1 ? p->m : p->v) + dtype_bytes(p->moments, params_offset(p, t));
}

int whole_collect(Whole *whole, Ranks *ranks, Model *model, Error *err) {
    *whole = (Whole){0};
    Params *from = &model->params, *to = &whole->model.params;
    if (!ranks_are_apart(from)) return 0;
    bool mine = comm_rank(model->ctx->comm) == 0;
    if (comm_agree(model->ctx->comm, mine ? whole_open(whole, model, err) : 0, err)) return -1;
    for (int i = 0; i < from->count; i++) {
        const Tensor *t = from->list[i];
        int64_t rows = params_is_spread(t) ? comm_size(model->ctx->experts) : 1;
        void *scratch = mine ? NULL : must_alloc((size_t)(tensor_count(t) * rows), sizeof(float));
        for (int part = 0; part < parts_of(t); part++)
            ranks_get(ranks, from, t, part, mine ? place_of(to, to->list[i], part) : scratch);
        free(scratch);
    }
    for (int i = 0; mine && i < from->buffer_count; i++)
        device_get(model->ctx->gpu, to->buffers[i]->data, from->buffers[i]->data,
                   tensor_bytes(from->buffers[i]));
    return 0;
}

void whole_distribute(Whole *whole, Ranks *ranks, Model *model) {
    Params *from = &whole->model.params;
    Params *to = &model->params;
    if (!whole->model.ctx) return;
    for (int i = 0; i < from->count; i++) {
        const Tensor *t = from->list[i];
        float *wide = must_alloc((size_t)tensor_count(t), sizeof *wide);
        params_get(from, t, wide);
        ranks_set(ranks, to, to->list[i], 0, wide);
        for (int part = 1; ranks && part < parts_of(to->list[i]); part++)
            ranks_set(ranks, to, to->list[i], part, place_of(from, t, part));
        free(wide);
    }
    for (int i = 0; i < from->buffer_count; i++)
        device_put(model->ctx->gpu, to->buffers[i]->data, from->buffers[i]->data,
                   tensor_bytes(from->buffers[i]));
    model->ctx->rng = whole->ctx.rng;
}
