/*
 * An indexer reads the latent that queries are made from, and the tour's model makes its queries
 * from the hidden state. So the copy's latent is the hidden state: q_a_proj is the identity, the
 * latent's norm has the weight that leaves rows about as they are, and q_b_proj is what q_proj was.
 *
 * A parameter that does not learn has no gradient from the beginning: so there is one copy for each
 * stage, and the second goes on from the first.
 */
#include "10_full_model/demo_sparse.h"

#include "common/program/plot.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 60, SPARSE = 60, STAGES = 2, SHARE = 4 }; /* a query reads a quarter of a text */

static ModelConfig sparse_config(const ModelConfig *dense, int length) {
    ModelConfig cfg = *dense;
    cfg.model_type = DEEPSEEK_V32;
    cfg.num_nextn_predict_layers = 0;
    if (!cfg.q_lora_rank) cfg.q_lora_rank = cfg.hidden_size;
    cfg.index_n_heads = cfg.num_attention_heads / 2 ? cfg.num_attention_heads / 2 : 1;
    cfg.index_head_dim = 2 * cfg.qk_rope_head_dim;
    cfg.index_topk = length / SHARE;
    return cfg;
}

static Tensor *weight(const Params *params, int layer, const char *name) {
    char full[96];
    snprintf(full, sizeof full, "model.layers.%d.%s.weight", layer, name);
    return params_find(params, full);
}

/* Queries by way of the hidden state: equal but for the norm, which does not know a row's
 * length. */
static void widen_queries(Model *to, const Model *from, int layer) {
    Tensor *q = weight(&from->params, layer, "self_attn.q_proj");
    int64_t d = to->cfg.hidden_size, n = q ? tensor_count(q) : 0;
    if (!q) return;
    float *numbers = must_alloc((size_t)(n > d * d ? n : d * d), sizeof *numbers);
    params_get((Params *)&from->params, q, numbers);
    params_set(&to->params, weight(&to->params, layer, "self_attn.q_b_proj"), numbers);
    for (int64_t i = 0; i < d * d; i++) numbers[i] = i % (d + 1) == 0;
    params_set(&to->params, weight(&to->params, layer, "self_attn.q_a_proj"), numbers);
    double squares = 0; /* of a normed row: those of the norm's weights */
    params_get((Params *)&from->params, weight(&from->params, layer, "input_layernorm"), numbers);
    for (int64_t i = 0; i < d; i++) squares += numbers[i] * numbers[i];
    for (int64_t i = 0; i < d; i++) numbers[i] = (float)sqrt(squares / (double)d);
    params_set(&to->params, weight(&to->params, layer, "self_attn.q_a_layernorm"), numbers);
    free(numbers);
}

/* The copy for a stage: all that the model before it has, by name. */
static int open_stage(Model *to, Model *from, const ModelConfig *cfg, IndexerStage stage,
                      Error *err) {
    if (model_register(to, from->ctx, cfg, err)) return -1;
    indexers_train(&to->indexers, &to->params, stage, stage == INDEXER_LEARNS ? 5 : 1);
    if (model_allocate(to, true, err)) return -1;
    model_randomize(to);
    for (int i = 0; i < to->params.count; i++) {
        Tensor *w = to->params.list[i], *old = params_find(&from->params, w->name);
        if (!old) continue;
        float *numbers = must_alloc((size_t)tensor_count(old), sizeof *numbers);
        params_get(&from->params, old, numbers), params_set(&to->params, w, numbers);
        free(numbers);
    }
    for (int i = 0; i < to->params.buffer_count; i++)
        for (int j = 0; j < from->params.buffer_count; j++) {
            const Tensor *old = from->params.buffers[j];
            if (strcmp(old->name, to->params.buffers[i]->name) || old->dtype != F32) continue;
            float *numbers = must_alloc((size_t)tensor_count(old), sizeof *numbers);
            tensor_download(from->ctx, numbers, old);
            tensor_upload(to->ctx, to->params.buffers[i], numbers);
            free(numbers);
        }
    for (int i = 0; i < cfg->num_hidden_layers; i++) widen_queries(to, from, i);
    return 0;
}

/* What the chart shows, of both stages. */
typedef struct Course {
    double step[WARM_UP + SPARSE], recall[WARM_UP + SPARSE];
    int count;
    IndexMeasures first, last;
} Course;

/* One stage's steps. The model's part learns slowly, as it did at the end of the tour. */
static int learn(Model *m, IndexerStage stage, const TokenSource *source, const TrainOptions *train,
                 int steps, Course *course, Error *err) {
    bool warm = stage == INDEXER_WARMS_UP;
    LanguageModelObjective objective = {.model = m,
                                        .bias_speed = train->bias_speed,
                                        .stage = stage,
                                        .index_loss = train->index_loss};
    objective.training.losses.aux_loss_alpha = train->balance_alpha;
    objective.training.losses.seq_aux = true;
    objective.mtp = (MtpTraining){0, -1};
    AdamW adamw = train->adamw;
    Trainer trainer = {.params = &m->params,
                       .objective = objective_language_model(&objective),
                       .source = source,
                       .schedule = {.steps = steps,
                                    .warmup = steps / 10,
                                    .peak = warm ? 1e-2f : 3e-4f,
                                    .floor = warm ? 2e-3f : 3e-5f},
                       .context_length = train->context_length};
    if (step_cut(&trainer.cut, m->ctx, train->batch_size, 1, false, err)) return -1;
    for (int i = 0; i < steps; i++) {
        StepReport report;
        train_step(&trainer, &adamw, &report);
        IndexMeasures measures = indexers_measures(&m->indexers, -1);
        if (!isfinite(report.loss) || !isfinite(measures.loss))
            return error_set(err, "sparse training: the loss of step %d is not a finite number",
                             i + 1);
        course->step[course->count] = course->count + 1;
        course->recall[course->count++] = 100 * measures.recall;
        if (course->count == 1) course->first = measures;
        course->last = measures;
    }
    return 0;
}

int demo_sparse(int section, Model *model, const TokenSource *source, const TrainOptions *train,
                Error *err) {
    int length = train->context_length, most = (int)train->schedule.steps;
    int windows = train->eval_batches * train->batch_size, status = 0;
    if (length < 2 * SHARE || model->cfg.model_type != DEEPSEEK_V3 || !model->cfg.rope_interleave)
        return 0;
    ModelConfig cfg = sparse_config(&model->cfg, length);
    Model stages[STAGES] = {0}, *from = model;
    Course *course = must_alloc(1, sizeof *course);
    double started = seconds_now();
    float loss[STAGES + 1];
    loss[0] = train_validation_loss(model, source, windows, train->batch_size, length);
    printf("%d. Sparse attention (SPARSE.md): each layer gets an indexer of %d heads, and\n"
           "   attention reads the %d tokens of %d that it picks. First it learns to agree\n"
           "   with attention, which reads all; then both learn, and it chooses.\n",
           section, cfg.index_n_heads, cfg.index_topk, length);
    fflush(stdout);
    for (int i = 0; i < STAGES && !status; i++) {
        static const IndexerStage stage[] = {INDEXER_WARMS_UP, INDEXER_LEARNS};
        int steps = i ? SPARSE : WARM_UP;
        status = open_stage(&stages[i], from, &cfg, stage[i], err);
        if (!status)
            status = learn(&stages[i], stage[i], source, train, steps < most ? steps : most, course,
                           err);
        if (!status)
            loss[i + 1] =
                train_validation_loss(&stages[i], source, windows, train->batch_size, length);
        from = &stages[i];
    }
    if (!status) {
        const IndexMeasures *a = &course->first, *b = &course->last;
        if (course->count > 2)
            text_line_chart("   the true ones among its picks, in percent, against the step",
                            course->step, course->recall, course->count, 6, 0);
        printf("   Its picks hold %.0f %% of attention, at first %.0f %%; the best %d would hold\n"
               "   %.0f %%. Loss on held-out text: %.3f when attention reads all, %.3f when the\n"
               "   warmed-up indexers choose, %.3f after training with them (%.0f s in all).\n\n",
               100 * b->mass, 100 * a->mass, cfg.index_topk, 100 * b->best, loss[0], loss[1],
               loss[2], seconds_now() - started);
    }
    for (int i = 0; i < STAGES; i++) model_free(&stages[i]);
    free(course);
    return status;
}
