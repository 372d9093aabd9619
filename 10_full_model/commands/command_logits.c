/*
 * deepseek logits: what a model computes for given ids, as a file: the way to check it against
 * another program.
 *
 *     IN    input_ids  I32 or I64 [B, T]
 *     OUT   logits     F32 [B, T, vocab_size]
 *           loss       F32 [1], the mean over all tokens but each row's first of
 *                      -log p(token | those before)
 *           mtp_logits.k   F32 [B, T, vocab_size] for each module k (--mtp): row i is what it
 *                      predicts for token i + k + 1; zeros in the last k rows, which know no
 *                      token i + k
 *           grad.NAME  F32, the gradient of every weight, named and cut as in
 *                      model.safetensors
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/checkpoint/output_folder.h"
#include "10_full_model/checkpoint/weights_map.h"
#include "10_full_model/commands/command.h"

#include "common/core/ops.h"
#include "common/files/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Options {
    CommonOptions common;
    const char *model, *input, *output;
    bool grads, mtp, overwrite, quantised_activations;
} Options;

/* ---- input ---- */

typedef struct Batch {
    int64_t B, T;
    int32_t *ids, *targets; /* [B, T]; a row's last token has no target */
} Batch;

static void batch_free(Batch *batch) {
    free(batch->ids);
    free(batch->targets);
}

static int64_t id_at(const Tensor *t, int64_t i) {
    return t->dtype == I32 ? ((const int32_t *)t->data)[i] : ((const int64_t *)t->data)[i];
}

static int read_ids(Batch *batch, const Tensor *t, const ModelConfig *cfg, const char *path,
                    Error *err) {
    if (t->dtype != I32 && t->dtype != I64)
        return error_set(err, "%s: input_ids is %s, but ids are I32 or I64", path,
                         dtype_name(t->dtype));
    batch->B = t->shape[0];
    batch->T = t->shape[1];
    int64_t count = tensor_count(t);
    if (count < 1 || batch->T < 2 || batch->T > cfg->max_position_embeddings || count > 1 << 28)
        return error_set(
            err,
            "%s: input_ids is %s, but each row must have 2 tokens (the second is what the "
            "first is to predict) to %d (the model's context)",
            path, shape_text(t).text, cfg->max_position_embeddings);
    batch->ids = must_alloc((size_t)count, sizeof *batch->ids);
    batch->targets = must_alloc((size_t)count, sizeof *batch->targets);
    for (int64_t i = 0; i < count; i++) {
        int64_t id = id_at(t, i);
        if (id < 0 || id >= cfg->vocab_size)
            return error_set(err, "%s: id %lld at [%lld, %lld] is not one of the model's %d tokens",
                             path, (long long)id, (long long)(i / batch->T),
                             (long long)(i % batch->T), cfg->vocab_size);
        batch->ids[i] = (int32_t)id;
        batch->targets[i] = (i + 1) % batch->T == 0 ? IGNORE_TARGET : (int32_t)id_at(t, i + 1);
    }
    return 0;
}

static int read_input(Batch *batch, const char *path, const ModelConfig *cfg, Error *err) {
    SafeTensors *file = safetensors_open(path, err);
    const Tensor *t = file ? safetensors_get(file, "input_ids", SHAPE(-1, -1), err) : NULL;
    int status = t ? read_ids(batch, t, cfg, path, err) : -1;
    safetensors_close(file);
    return status;
}

/* ---- output ---- */

typedef struct Output {
    Tensor *tensors;
    char **names; /* of what is not always there */
    float **data; /* all that must be freed */
    int count, names_count, data_count;
} Output;

static float *output_data(Output *out, int64_t count) {
    float *data = must_alloc((size_t)count, sizeof *data);
    out->data = must_realloc(out->data, (size_t)(out->data_count + 1), sizeof *out->data);
    return out->data[out->data_count++] = data;
}

static void output_add(Output *out, const char *name, float *data, const int64_t *shape, int ndim) {
    out->tensors = must_realloc(out->tensors, (size_t)(out->count + 1), sizeof *out->tensors);
    out->tensors[out->count++] = tensor_view(data, name, F32, CPU, shape, ndim);
}

static void output_free(Output *out) {
    for (int i = 0; i < out->names_count; i++) free(out->names[i]);
    for (int i = 0; i < out->data_count; i++) free(out->data[i]);
    free(out->names);
    free(out->data);
    free(out->tensors);
}

/* "PREFIX.REST", kept as long as `out`. */
static const char *output_name(Output *out, const char *prefix, const char *rest) {
    size_t length = strlen(prefix) + strlen(rest) + 2;
    char *name = must_alloc(length, 1);
    snprintf(name, length, "%s.%s", prefix, rest);
    out->names = must_realloc(out->names, (size_t)(out->names_count + 1), sizeof *out->names);
    return out->names[out->names_count++] = name;
}

static void add_gradients(Output *out, Model *model) {
    for (int i = 0; i < model->params.count; i++) {
        const Tensor *t = model->params.list[i];
        float *grad = output_data(out, tensor_count(t));
        params_get_grad(&model->params, t, grad);
        for (int j = 0; j < weight_parts(t); j++) {
            WeightPart part = weight_part(t, j);
            output_add(out, output_name(out, "grad", part.name), grad + part.offset, part.shape,
                       part.ndim);
        }
    }
}

/* What each module predicts. Targets do not matter here. */
static void add_modules(Output *out, Model *model, const Batch *batch) {
    Context *ctx = model->ctx;
    int64_t B = batch->B, T = batch->T, V = model->cfg.vocab_size;
    const BlockRun run = {.position = model_position(model)};
    Tensor *ids = tensor_copy_in(ctx, "ids", I32, batch->ids, SHAPE(B, T)), *ids_k, *none;
    Tensor *states =
        decoder_states(ctx, &model->decoder, ids, &(DecoderRun){.position = model_position(model)});
    Tensor *h = decoder_normed(ctx, &model->decoder, states);
    for (int k = 1; k <= model->mtp.depth; k++) {
        char number[12];
        float *logits = output_data(out, B * T * V);
        mtp_shift(ctx, ids, ids, k, -1, &ids_k, &none);
        h = mtp_forward(ctx, &model->mtp, k, ids_k, h, &run);
        tensor_download(ctx, logits, decoder_head(ctx, &model->decoder, h));
        int64_t rows = k < T ? k : T;
        for (int64_t b = 0; b < B; b++)
            memset(logits + ((b + 1) * T - rows) * V, 0, (size_t)(rows * V) * sizeof *logits);
        snprintf(number, sizeof number, "%d", k);
        output_add(out, output_name(out, "mtp_logits", number), logits, SHAPE(B, T, V));
    }
}

static void compute(Output *out, Model *model, const Batch *batch, const Options *o) {
    Context *ctx = model->ctx;
    int64_t B = batch->B, T = batch->T, V = model->cfg.vocab_size;
    float *logits = output_data(out, B * T * V), *loss = output_data(out, 2);
    ctx->recording = o->grads;
    Tensor *y =
        model_forward(model, tensor_copy_in(ctx, "ids", I32, batch->ids, SHAPE(B, T)), NULL);
    tensor_download(ctx, logits, y); /* before backward turns them into their gradient */
    Tensor *l =
        cross_entropy(ctx, y, tensor_copy_in(ctx, "targets", I32, batch->targets, SHAPE(B, T)));
    tensor_download(ctx, loss, l);
    output_add(out, "logits", logits, SHAPE(B, T, V));
    output_add(out, "loss", loss, SHAPE(1));
    if (o->grads) {
        tape_backward(ctx, l);
        add_gradients(out, model);
    }
    context_reset(ctx);
    if (o->mtp) add_modules(out, model, batch);
}

static int run(int argc, char **argv, Error *err) {
    Options options = {0}, *o = &options;
    const Option flags[] = {
        OPT_STRING("model", 'm', "DIR", &o->model, "Folder with the model",
                   .required = "says which model"),
        OPT_STRING("input", 0, "FILE", &o->input, "Safetensors with input_ids [B, T], I32 or I64",
                   .required = "says for which ids"),
        OPT_STRING("output", 0, "FILE", &o->output, "Safetensors that get logits and loss",
                   .required = "says where the result goes"),
        OPT_FLAG("mtp", 0, &o->mtp,
                 "Also what modules for multi-token prediction say, as mtp_logits.1, ..."),
        OPT_FLAG("grads", 0, &o->grads, "Also the gradient of every weight, as grad.NAME"),
        OPT_FLAG("quantised-activations", 0, &o->quantised_activations,
                 "With quantised weights: multiply as generate does, which on a CPU rounds what "
                 "they are multiplied with"),
        OPT_FLAG("overwrite", 0, &o->overwrite,
                 "Replace the file of --output if it is there already"),
        OPT_COMMON_OF(&o->common, COMMON_THREADS | COMMON_DEVICE | COMMON_DTYPE),
        OPT_END};
    options_parse(argc, argv, command_logits.about, flags);
    if (o->grads && o->quantised_activations)
        options_error(argv, "--grads are those of plain numbers; --quantised-activations makes no "
                            "sense with it");
    if (output_file_check(o->output, o->overwrite, err)) return -1;
    Context ctx;
    options_open(&o->common, &ctx);
    Model model = {0};
    Batch batch = {0};
    Output out = {0};
    LoadKind kind = o->grads                   ? LOAD_TO_TRAIN
                    : o->quantised_activations ? LOAD_TO_RUN
                                               : LOAD_WEIGHT_ONLY;
    int status = checkpoint_load_model(&model, &ctx, o->model, NULL, kind, err);
    if (!status && o->mtp && !model.mtp.depth)
        status = error_set(err,
                           "%s has no modules for multi-token prediction; `train --mtp 1` trains "
                           "one with a model, or behind the model of --from",
                           o->model);
    if (!status) status = read_input(&batch, o->input, &model.cfg, err);
    if (!status) {
        compute(&out, &model, &batch, o);
        status = safetensors_write(o->output, out.tensors, out.count, NULL, 0, err);
    }
    if (!status) printf("loss %.6f   %d tensors in %s\n", out.data[1][0], out.count, o->output);
    output_free(&out);
    batch_free(&batch);
    model_free(&model);
    context_free(&ctx);
    return status;
}

const Command command_logits = {
    "logits", "Writes logits, loss and gradients for given ids, to compare.", run};
