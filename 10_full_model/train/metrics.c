/*
 * The cells of a row, and where their numbers come from: what the routers have counted, and the
 * shapes of the weights.
 */
#include "10_full_model/train/metrics.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double metrics_flop_per_token(const Model *model, int context_length) {
    const ModelConfig *cfg = &model->cfg;
    double dims = cfg->qk_nope_head_dim + cfg->qk_rope_head_dim + cfg->v_head_dim;
    int depth = model->mtp.depth; /* each module has a layer's attention, and the head again */
    int layers = cfg->num_hidden_layers + depth;
    double T = context_length, k = cfg->index_topk, seen = T / 2, read = seen;
    const Indexers *indexers = &model->indexers;
    bool warms_up = indexers->count && indexers->list[0].stage == INDEXER_WARMS_UP;
    if (indexers->count && !warms_up && T > k) read = k - k * k / (2 * T);
    double attention = 2 * read * dims * cfg->num_attention_heads * layers;
    if (indexers->count) attention += 2 * seen * cfg->index_n_heads * cfg->index_head_dim * layers;
    /* weights that a token is multiplied with */
    int64_t active = depth * tensor_count(model->decoder.lm_head);
    for (int i = 0; i < model->params.count; i++) {
        const Tensor *w = model->params.list[i];
        bool experts = w->ndim == 3,
             only_table = w == model->decoder.embed_tokens && w != model->decoder.lm_head;
        if (experts)
            active += tensor_count(w) / w->shape[0] * cfg->num_experts_per_tok;
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

/* More columns than a config.json may have layers are never needed. */
enum { LAYER_COLUMNS = 56, MAX_LAYERS = 1024 + MTP_MAX_DEPTH };

__attribute__((format(printf, 3, 4))) static void append(char *text, size_t size,
                                                         const char *format, ...) {
    va_list arguments;
    size_t used = strlen(text);
    va_start(arguments, format);
    vsnprintf(text + used, size - used, format, arguments);
    va_end(arguments);
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
    const Indexers *indexers = &model->indexers;
    if (indexers->count && indexers->list[0].stage != INDEXER_SELECTS) metrics->indexers = indexers;
    char columns[512 + LAYER_COLUMNS * MAX_LAYERS] = TRAIN_COLUMNS;
    for (int k = 1; k <= metrics->depth; k++) append(columns, sizeof columns, ",mtp_loss_%d", k);
    if (metrics->indexers)
        append(columns, sizeof columns, ",index_loss,index_recall,index_mass,best_mass,dead_heads");
    for (int i = 0; metrics->indexers && i < indexers->count; i++)
        append(columns, sizeof columns, ",index_loss_%d,index_recall_%d,index_mass_%d", i, i, i);
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
    char more[512 + LAYER_COLUMNS * MAX_LAYERS] = "";
    for (int k = 0; k < metrics->depth; k++) append(more, sizeof more, ",%.5f", r->mtp_loss[k]);
    for (int i = -1; metrics->indexers && i < metrics->indexers->count; i++) {
        IndexMeasures m = indexers_measures(metrics->indexers, i); /* -1: of all */
        append(more, sizeof more, ",%.5f,%s,%s", m.loss, cell("%.4f", m.recall).text,
               cell("%.4f", m.mass).text);
        if (i < 0) append(more, sizeof more, ",%s,%.4f", cell("%.4f", m.best).text, m.dead_heads);
    }
    csv_row(&metrics->csv, "%lld,%.5f,%s,%.6g,%.4f,%.0f,%s,%s,%s%s", (long long)r->step, r->loss,
            cell("%.5f", r->validation_loss).text, r->learning_rate, r->gradient_norm,
            r->tokens_per_second, cell("%.4f", metrics->peak > 0 ? rate / metrics->peak : NAN).text,
            cell("%.3f", r->load.max_vio).text,
            cell("%.0f", isnan(r->load.max_vio) ? NAN : r->load.idle).text, more);
}

int metrics_close(Metrics *metrics, Error *err) {
    return metrics->csv.stream ? csv_close(&metrics->csv, err) : 0;
}
