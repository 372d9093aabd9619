/*
 * deepseek quantize: a model's linear weights in 8 or 4 bits (chapter 08), as a folder that this
 * program decodes with and that transformers opens.
 *
 * Which weights: the projections of attention and of the FFNs, experts too. Routers, norms, the
 * table, the head and what joins a module for multi-token prediction stay plain, as in DeepSeek's
 * own files; and so do projections whose sizes the blocks do not fit. The first model is read, the
 * second gets its codes and scales, and what of the plain weights the method has changed.
 */
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/quantize_report.h"
#include "10_full_model/commands/rewrite.h"

#include "08_quant/quantised.h"
#include "common/files/csv.h"
#include "common/program/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum Target { TO_NOTHING = -1, TO_INT8, TO_INT4, TO_FP8 } Target;

typedef struct Options {
    CommonOptions common;
    const char *model, *out;
    Target to;
    int group;
    bool ragged, overwrite;
    SaveOptions save;
} Options;

/* What config.json will say of the result. */
static void set_format(ModelConfig *cfg, const Options *o) {
    cfg->quant_method = o->to == TO_FP8 ? STORED_FP8 : STORED_PACKED;
    cfg->num_bits = o->to == TO_INT4 ? 4 : 8;
    cfg->group_size = o->group;
}

/* Does the weight stay plain, and why? -1 and a message where that must not be. */
static int decide(QuantRow *l, const ModelConfig *cfg, const Options *o, Error *err) {
    const Tensor *w = l->weight;
    int64_t out = w->shape[w->ndim - 2], in = tensor_dim(w, -1);
    if (!size_quantisable(w)) {
        snprintf(l->why, sizeof l->why, "always");
        return 0;
    }
    if (o->to == TO_FP8) {
        if (!o->ragged && (out % FP8_BLOCK || in % FP8_BLOCK))
            snprintf(l->why, sizeof l->why, "%lld x %lld is cut by tiles of %d", (long long)out,
                     (long long)in, FP8_BLOCK);
        return 0;
    }
    if (!cfg->group_size || in % cfg->group_size == 0) return 0;
    snprintf(l->why, sizeof l->why, "%d does not divide %lld", cfg->group_size, (long long)in);
    if (!strstr(w->name, ".experts.")) return 0;
    int fits = in % 64 == 0 ? 64 : in % 32 == 0 ? 32 : 0;
    return error_set(err,
                     "the experts' weights have rows of %lld numbers, which --group %d does not "
                     "divide; %s%d does",
                     (long long)in, cfg->group_size,
                     fits || o->to == TO_INT8 ? "--group "
                                              : "no group of 32 or more fits: --to int8 "
                                                "--group ",
                     fits);
}

/* Scales that a file in BF16 can hold. The codes are made for them. */
static void round_scales(float *scales, int64_t count, const Options *o) {
    bool narrow = o->to != TO_FP8 && o->save.dtype == BF16; /* FP8's are F32 in DeepSeek's files */
    for (int64_t i = 0; i < count && narrow; i++)
        scales[i] = bf16_to_float(bf16_from_float(scales[i]));
}

/* Codes and scales by rounding, expert by expert. */
static int round_weight(QuantRow *l, const float *values, const ModelConfig *cfg, const Options *o,
                        Error *err) {
    const Tensor *w = l->weight;
    int64_t out = w->shape[w->ndim - 2], in = tensor_dim(w, -1), parts = tensor_rows(w) / out;
    l->format = stored_format(cfg, in);
    size_t bytes = quant_code_bytes(&l->format, out, in);
    int64_t scales = quant_scale_count(&l->format, out, in);
    l->codes = must_alloc((size_t)parts, bytes);
    l->scales = must_alloc((size_t)(parts * scales), sizeof *l->scales);
    float *back = must_alloc((size_t)(out * in), sizeof *back);
    int status = 0;
    for (int64_t e = 0; e < parts && !status; e++) {
        void *codes = (char *)l->codes + (size_t)e * bytes;
        const float *from = values + e * out * in;
        float *own = l->scales + e * scales;
        if ((status = quantise(codes, own, from, out, in, &l->format, err))) break;
        round_scales(own, scales, o);
        if ((status = quantise_with(codes, own, from, out, in, &l->format, err))) break;
        dequantise(back, codes, own, out, in, &l->format);
        quant_row_add(l, from, back, out * in);
    }
    free(back);
    return status ? error_prefix(err, "%s: ", w->name) : 0;
}

static int quantise_all(QuantRows *rows, Model *model, const ModelConfig *cfg, const Options *o,
                        Error *err) {
    Progress progress = progress_start("quantising", rows->numbers);
    int64_t done = 0;
    for (int i = 0; i < rows->count; i++) {
        QuantRow *l = &rows->list[i];
        int64_t count = tensor_count(l->weight);
        if (decide(l, cfg, o, err)) return -1;
        float *values = must_alloc((size_t)count, sizeof *values);
        params_get(&model->params, l->weight, values);
        int status = *l->why ? 0 : round_weight(l, values, cfg, o, err);
        free(values);
        if (status) return -1;
        progress_update(&progress, done += count, "%s", l->weight->name);
    }
    progress_finish(&progress, NULL);
    for (int i = 0; i < rows->count; i++)
        if (!*rows->list[i].why) return 0;
    return error_set(err, "not one matrix of this model is fit for that%s",
                     o->to == TO_FP8 ? ", for tiles of 128 x 128 cut all of them; --ragged takes "
                                       "them all the same"
                                     : ": choose another --group");
}

/* The model with these codes, and all other numbers as `from` has them. */
static int build(Model *to, Model *from, const ModelConfig *cfg, const QuantRows *rows,
                 Error *err) {
    if (model_register(to, from->ctx, cfg, err)) return -1;
    for (int i = 0; i < rows->count; i++) {
        const QuantRow *l = &rows->list[i];
        if (!*l->why)
            params_set_quantised(&to->params, params_find(&to->params, l->weight->name),
                                 l->format.dtype, l->format.block_out, l->format.block_in,
                                 &quantised_weight_only);
    }
    if (model_allocate(to, false, err)) {
        model_free(to);
        return -1;
    }
    for (int i = 0; i < rows->count; i++) {
        const QuantRow *l = &rows->list[i];
        if (!*l->why)
            params_set_codes(&to->params, params_find(&to->params, l->weight->name), l->codes,
                             l->scales);
    }
    Tensor *weight;
    for (int i = 0; (weight = weights_at(&from->params, i)); i++) {
        Tensor *same = params_find(&to->params, weight->name);
        if (same->quantised) continue;
        float *values = must_alloc((size_t)tensor_count(weight), sizeof *values);
        params_get(&from->params, weight, values);
        params_set(&to->params, same, values);
        free(values);
    }
    return 0;
}

static int quantize(const Options *o, Context *ctx, Error *err) {
    Model plain = {0}, result = {0};
    ModelConfig cfg;
    QuantRows rows = {0};
    if (checkpoint_load_config(&cfg, o->model, err)) return -1;
    if (cfg.quant_method != STORED_PLAIN)
        return error_set(err,
                         "%s is quantised already, and its numbers are no longer those it was "
                         "trained to; `deepseek convert --dequantize` makes plain ones of them",
                         o->model);
    int status = checkpoint_load_model(&plain, ctx, o->model, &cfg, LOAD_PLAIN, err);
    if (status) return -1;
    cfg = plain.cfg;
    set_format(&cfg, o);
    rows = quant_rows(&plain);
    Tokenizer *tokenizer = rewrite_tokenizer(&cfg, o->model, err);
    if (!tokenizer) status = -1;
    if (!status) status = quantise_all(&rows, &plain, &cfg, o, err);
    if (!status) status = build(&result, &plain, &cfg, &rows, err);
    if (!status) status = rewrite_model(&result, tokenizer, o->model, o->out, &o->save, err);
    if (!status) status = quant_report(&rows, o->out, o->common.csv, o->save.dtype, err);
    quant_rows_free(&rows);
    tokenizer_free(tokenizer);
    model_free(&result);
    model_free(&plain);
    return status;
}

static int run(int argc, char **argv, Error *err) {
    static const char *const dtypes[] = {"f32", "bf16", NULL}; /* in DType's order */
    static const char *const targets[] = {"int8", "int4", "fp8", NULL};
    Options options = {.to = TO_NOTHING, .save = {.dtype = BF16}, .group = 128}, *o = &options;
    double megabytes = 5000;
    const Option flags[] = {
        OPT_STRING("model", 'm', "DIR", &o->model, "Folder with the model",
                   .required = "says which model"),
        OPT_STRING("out", 0, "DIR", &o->out, "Folder for the result",
                   .required = "says where the result goes"),
        OPT_CHOICE("to", 0, "int8|int4|fp8", &o->to, targets,
                   "Bits of a weight. fp8 is DeepSeek's own layout", .required = "says into what"),
        OPT_INT("group", 0, "N", &o->group, 0, 128,
                "Numbers of a row with one scale: 32, 64, 128, or (int8) 0 for the whole row"),
        OPT_FLAG("ragged", 0, &o->ragged,
                 "fp8: also matrices that tiles of 128 x 128 cut, as in DeepSeek-V3's own files, "
                 "which transformers does not open"),
        OPT_CHOICE("weights", 0, "f32|bf16", &o->save.dtype, dtypes, "Numbers of what stays plain"),
        OPT_FLAG("overwrite", 0, &o->overwrite, "Replace the model that is in --out"),
        OPT_FLOAT("shard-mb", 0, "N", &megabytes, 0.001, 1e9, "Largest file, in millions of bytes"),
        OPT_CSV(&o->common),
        OPT_COMMON_OF(&o->common, COMMON_THREADS),
        OPT_END};
    options_parse(argc, argv, command_quantize.about, flags);
    bool known = o->group == 128 || o->group == 64 || o->group == 32;
    if (!known && !(o->group == 0 && o->to == TO_INT8))
        options_error(argv, "--group must be 32, 64 or 128; with --to int8 also 0, a whole row");
    o->save.shard_size = (int64_t)(1e6 * megabytes);
    if (o->common.csv && csv_check(o->common.csv, err)) return -1;
    int lock = rewrite_open("quantize", o->model, o->out, o->overwrite, err);
    if (lock < 0) return -1;
    Context ctx;
    options_open(&o->common, &ctx);
    int status = quantize(o, &ctx, err);
    context_free(&ctx);
    close(lock);
    return status;
}

const Command command_quantize = {"quantize", "Writes a model in fewer bits: INT8, INT4 or FP8.",
                                  run};
