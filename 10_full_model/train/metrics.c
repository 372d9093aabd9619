/*
 * The cells of a row, and where their numbers come from: what the routers have counted, and the
 * shapes of the weights.
 */
#include "10_full_model/train/metrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double metrics_flop_per_token(const Model *model, int context_length) {
    const ModelConfig *cfg = &model->cfg;
    double dims = cfg->qk_nope_head_dim + cfg->qk_rope_head_dim + cfg->v_head_dim;
    int depth = model->mtp.depth; /* each module has a layer's attention, and the head again */
    double attention =
        context_length * dims * cfg->num_attention_heads * (cfg->num_hidden_layers + depth);
    /* weights that a token is multiplied with */
    int64_t active = depth * tensor_count(model->decoder.lm_head);
    for (int i = 0; i < model->params.count; i++) {
        const Tensor *w = model->params.list[i];
        bool experts = w->ndim == 3,
             only_table = w == model->decoder.embed_tokens && w != model->decoder.lm_head;
        if (experts)
            active += tensor_count(w) / cfg->n_routed_experts * cfg->num_experts_per_tok;
        else if (!only_table)
            active += tensor_count(w);
    }
    return 2.0 * (double)active + attention;
}

ExpertLoad metrics_expert_load(Model *model) {
    ExpertLoad load = decoder_expert_load(model->ctx, &model->decoder);
    for (int k = 0; k < model->mtp.depth; k++)
        block_add_load(model->ctx, &model->mtp.modules[k].block, &load);
    return load;
}

int metrics_open(Metrics *metrics, const char *path, const Model *model, int context_length,
                 int64_t after, double peak, Error *err) {
    *metrics = (Metrics){.depth = model->mtp.depth,
                         .flop_per_token = metrics_flop_per_token(model, context_length),
                         .peak = peak};
    if (!path) return 0;
    Context *ctx = model->ctx;
    GpuText gpu = {"cpu"};
    if (ctx->gpu) gpu = gpu_describe(ctx->gpu);
    char columns[512] = TRAIN_COLUMNS;
    for (int k = 1; k <= metrics->depth; k++)
        snprintf(columns + strlen(columns), sizeof columns - strlen(columns), ",mtp_loss_%d", k);
    if (after == 0) return csv_open(&metrics->csv, path, columns, gpu.text, ctx->rng.seed, err);
    return csv_continue(&metrics->csv, path, columns, (double)after, gpu.text, ctx->rng.seed, err);
}

/* A cell: the number, or nothing if it is none. */
typedef struct Cell {
    char text[32];
} Cell;

static Cell cell(const char *format, double value) {
    Cell c = {""};
    if (isfinite(value)) snprintf(c.text, sizeof c.text, format, value);
    return c;
}

void metrics_row(Metrics *metrics, const StepReport *r) {
    if (!metrics->csv.stream) return;
    double rate = 3 * metrics->flop_per_token * r->tokens_per_second;
    /* A step that is faster than the peak says that the peak was measured on a busy machine. */
    if (metrics->peak > 0 && rate > metrics->peak) metrics->peak = rate;
    char modules[16 * MTP_MAX_DEPTH] = "";
    for (int k = 0; k < metrics->depth; k++)
        snprintf(modules + strlen(modules), sizeof modules - strlen(modules), ",%.5f",
                 r->mtp_loss[k]);
    csv_row(&metrics->csv, "%lld,%.5f,%s,%.6g,%.4f,%.0f,%s,%s,%s%s", (long long)r->step, r->loss,
            cell("%.5f", r->validation_loss).text, r->learning_rate, r->gradient_norm,
            r->tokens_per_second, cell("%.4f", metrics->peak > 0 ? rate / metrics->peak : NAN).text,
            cell("%.3f", r->load.max_vio).text,
            cell("%.0f", isnan(r->load.max_vio) ? NAN : r->load.idle).text, modules);
}

int metrics_close(Metrics *metrics, Error *err) {
    return metrics->csv.stream ? csv_close(&metrics->csv, err) : 0;
}
