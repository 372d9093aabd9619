/*
 * deepseek quantize: a model's linear weights in 8 or 4 bits (chapter 08), as a folder that this
 * program decodes with and that transformers opens.
 *
 * Which weights: the projections of attention and of the FFNs, experts too, those in modules for
 * multi-token prediction rounded to nearest; with --head the head, too. Routers, norms, the table
 * and what joins a module stay plain, as in DeepSeek's own files; so do projections that the blocks
 * do not fit.
 * The model that was read is changed by the method; a second one gets its codes, its scales and
 * its plain weights, and is written.
 */
#include "10_full_model/checkpoint/stored.h"
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/quantize_report.h"
#include "10_full_model/commands/rewrite.h"
#include "10_full_model/commands/text_input.h"
#include "10_full_model/train/train.h"

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
    QuantMethod method;
    int group; /* -1: not given */
    StringList calibrate;
    int windows, context; /* context 0: not given */
    bool head, ragged, overwrite;
    SaveOptions save;
} Options;

/* What config.json will say of the result, and what the method is told. */
static QuantRecipe set_format(ModelConfig *cfg, const Options *o) {
    QuantFormat format = {.dtype = o->to == TO_INT8 ? U8 : I4,
                          .block_out = 1,
                          .block_in = o->group,
                          .scale = o->save.dtype == BF16 ? SCALE_BF16 : SCALE_ANY};
    cfg->quant_method = o->to == TO_FP8 ? STORED_FP8 : STORED_PACKED;
    cfg->num_bits = o->to == TO_INT4 ? 4 : 8;
    cfg->group_size = o->group;
    if (o->to == TO_FP8) format = (QuantFormat){F8_E4M3, FP8_BLOCK, FP8_BLOCK, SCALE_ANY};
    QuantRecipe recipe = quant_recipe(o->method, format);
    recipe.ragged = o->ragged;
    recipe.head = o->head;
    return recipe;
}

/* transformers knows no layer with experts of which some are packed. */
static int check_experts(const Model *model, const ModelConfig *cfg, Error *err) {
    if (cfg->quant_method != STORED_PACKED || !cfg->group_size) return 0;
    for (int i = 0; i < model->params.count; i++) {
        const Tensor *w = model->params.list[i];
        int64_t in = tensor_dim(w, -1);
        if (w->ndim < 3 || in % cfg->group_size == 0) continue;
        int fits = in % 64 == 0 ? 64 : in % 32 == 0 ? 32 : 0;
        return error_set(err,
                         "the experts' weights have rows of %lld numbers, which --group %d does "
                         "not divide; %s%d does",
                         (long long)in, cfg->group_size,
                         fits ? "--group " : "no group of 32 or more does, but --to int8 --group ",
                         fits);
    }
    return 0;
}

/* Nobody should have to find out from the report that the head he asked for has stayed plain. */
static int check_head(const ModelConfig *cfg, const Options *o, Error *err) {
    int64_t in = cfg->hidden_size;
    if (!o->head || !o->group || in % o->group == 0) return 0;
    return error_set(err, "the head has rows of %lld numbers, which --group %d does not divide",
                     (long long)in, o->group);
}

/* ---- the calibration text ---- */

static int read_text(Calibration *c, Model *model, const Options *o, Error *err) {
    TextInput input;
    int64_t length = o->context, windows = o->windows;
    if (!length) length = model->cfg.trained_context_length;
    if (!length) length = train_defaults().context_length;
    if (length > model->cfg.max_position_embeddings)
        return error_set(err, "--context %lld is longer than this model's %d positions",
                         (long long)length, model->cfg.max_position_embeddings);
    TextOptions text = {.data = &o->calibrate,
                        .context_length = (int)length,
                        .validation = 1,
                        .tokenizer = o->model,
                        .vocab = model->cfg.vocab_size};
    if (text_input_open(&input, &text, err)) return -1;
    int status = 0;
    if (input.source.validation_tokens < windows * length)
        status = error_set(err,
                           "the calibration text has %lld tokens, but %lld windows of %lld need "
                           "%lld; give a longer text, or fewer --windows",
                           (long long)input.source.validation_tokens, (long long)windows,
                           (long long)length, (long long)(windows * length));
    *c = (Calibration){.sequences = windows, .length = length, .position = model_position(model)};
    c->ids = must_alloc((size_t)(windows * length), sizeof *c->ids);
    int32_t *targets = must_alloc((size_t)length, sizeof *targets);
    for (int64_t i = 0; i < windows && !status; i++)
        source_validation(&input.source, (int)i, (int)windows, (int)length, c->ids + i * length,
                          targets);
    free(targets);
    text_input_close(&input);
    return status;
}

/* ---- the work ---- */

static void show_progress(void *user, int done, int all) {
    progress_update(user, done, "layer %d of %d", done, all);
}

static int quantise_all(QuantReport *report, Model *model, const QuantRecipe *recipe,
                        const Options *o, Error *err) {
    Calibration text = {0};
    if (o->calibrate.count && read_text(&text, model, o, err)) {
        calibration_free(&text);
        return -1;
    }
    Progress progress = progress_start("quantising", model->cfg.num_hidden_layers);
    report->progress = show_progress;
    report->user = &progress;
    int status =
        quantise_decoder(model->ctx, &model->decoder, recipe, text.ids ? &text : NULL, report, err);
    for (int k = 0; k < model->mtp.depth && !status; k++)
        status = quantise_block(&model->mtp.modules[k].block, &model->decoder.cfg.block, recipe,
                                report, err);
    calibration_free(&text);
    if (status) return -1;
    progress_finish(&progress, NULL);
    for (int i = 0; i < report->count; i++)
        if (report->list[i].codes) return 0;
    return error_set(err, "not one matrix of this model is fit for that%s",
                     o->to == TO_FP8 ? ", for tiles of 128 x 128 cut all of them; --ragged takes "
                                       "them all the same"
                                     : ": choose another --group");
}

static void copy_numbers(Model *to, Tensor *same, Model *from, const Tensor *weight) {
    float *values = must_alloc((size_t)tensor_count(weight), sizeof *values);
    params_get(&from->params, weight, values);
    params_set(&to->params, same, values);
    free(values);
}

/* The same model with the head apart from the table: one is to have codes, the other is not. */
static int separate_head(Model *to, Model *from, Error *err) {
    ModelConfig cfg = from->cfg;
    cfg.tie_word_embeddings = false;
    if (model_register(to, from->ctx, &cfg, err)) return -1;
    if (model_allocate(to, false, err)) {
        model_free(to);
        return -1;
    }
    Tensor *weight;
    for (int i = 0; (weight = weights_at(&from->params, i)); i++)
        copy_numbers(to, params_find(&to->params, weight->name), from, weight);
    copy_numbers(to, to->decoder.lm_head, from, from->decoder.lm_head);
    return 0;
}

static int load(Model *plain, Context *ctx, const ModelConfig *cfg, const Options *o, Error *err) {
    Model tied = {0};
    ModelConfig as_it_is = *cfg;
    as_it_is.quant_method = STORED_PLAIN;
    if (!o->head || !cfg->tie_word_embeddings)
        return checkpoint_load_model(plain, ctx, o->model, &as_it_is, LOAD_PLAIN, err);
    if (checkpoint_load_model(&tied, ctx, o->model, &as_it_is, LOAD_PLAIN, err)) return -1;
    int status = separate_head(plain, &tied, err);
    model_free(&tied);
    return status;
}

/* The model with the report's codes, and all other numbers as `from` has them. */
static int build(Model *to, Model *from, const ModelConfig *cfg, const QuantReport *report,
                 Error *err) {
    if (model_register(to, from->ctx, cfg, err)) return -1;
    for (int i = 0; i < report->count; i++) {
        const QuantisedWeight *q = &report->list[i];
        QuantFormat f = stored_format(cfg, tensor_dim(q->weight, -1));
        if (!q->codes) continue;
        CHECK(f.dtype == q->format.dtype && f.block_in == q->format.block_in, "%s: codes of %s",
              q->weight->name, dtype_name(q->format.dtype));
        params_set_quantised(&to->params, params_find(&to->params, q->weight->name), f.dtype,
                             f.block_out, f.block_in, &quantised_weight_only);
    }
    if (model_allocate(to, false, err)) {
        model_free(to);
        return -1;
    }
    Tensor *weight;
    for (int i = 0; (weight = weights_at(&from->params, i)); i++) {
        Tensor *same = params_find(&to->params, weight->name);
        const QuantisedWeight *q = quant_report_find(report, weight);
        if (q && q->codes) {
            params_set_codes(&to->params, same, q->codes, q->scales);
            continue;
        }
        copy_numbers(to, same, from, weight);
    }
    return 0;
}

static int quantize(const Options *o, Context *ctx, Error *err) {
    Model plain = {0}, result = {0};
    ModelConfig cfg;
    QuantReport report = {0};
    if (checkpoint_load_config(&cfg, o->model, err)) return -1;
    if (cfg.quant_method != STORED_PLAIN)
        return error_set(err,
                         "%s is quantised already, and its numbers are no longer those it was "
                         "trained to; `deepseek convert --dequantize` makes plain ones of them",
                         o->model);
    QuantRecipe recipe = set_format(&cfg, o);
    if (quant_recipe_check(&recipe, err)) return -1;
    if (load(&plain, ctx, &cfg, o, err)) return -1;
    cfg = plain.cfg;
    set_format(&cfg, o);
    Tokenizer *tokenizer = rewrite_tokenizer(&cfg, o->model, err);
    int status = tokenizer ? check_experts(&plain, &cfg, err) : -1;
    if (!status) status = check_head(&cfg, o, err);
    if (!status) status = quantise_all(&report, &plain, &recipe, o, err);
    if (!status) status = build(&result, &plain, &cfg, &report, err);
    if (!status) status = rewrite_model(&result, tokenizer, o->model, o->out, &o->save, err);
    const QuantOutcome outcome = {&plain.params, &report, o->save.dtype};
    if (!status) status = quantize_report(&outcome, o->out, o->common.csv, err);
    quant_report_free(&report);
    tokenizer_free(tokenizer);
    model_free(&result);
    model_free(&plain);
    return status;
}

/* What flags say together. */
static void check_flags(Options *o, char **argv) {
    bool rows = o->method == QUANT_LLMINT8 || o->method == QUANT_SMOOTHQUANT;
    if (o->to == TO_FP8 && o->method != QUANT_RTN)
        options_error(argv, "--method %s is for --to int8%s; FP8 is rounded to nearest (rtn)",
                      quant_method_names[o->method], rows ? "" : " and int4");
    if (rows && o->to == TO_INT4)
        options_error(argv, "--method %s is for --to int8", quant_method_names[o->method]);
    if (o->group < 0) o->group = rows ? 0 : 128;
    bool known = o->group == 128 || o->group == 64 || o->group == 32;
    if (!known && !(o->group == 0 && o->to == TO_INT8))
        options_error(argv, "--group must be 32, 64 or 128; with --to int8 also 0, a whole row");
    if (quant_needs_text(o->method) && !o->calibrate.count)
        options_error(argv,
                      "--method %s looks at what the weights are multiplied with: "
                      "--calibrate FILE says on which text",
                      quant_method_names[o->method]);
    if (o->head && o->to == TO_FP8)
        options_error(argv, "--head is for --to int8 and int4: in DeepSeek's layout of FP8, as "
                            "transformers opens it, the head is plain");
    if (o->ragged && o->to != TO_FP8) options_error(argv, "--ragged is for --to fp8");
}

static int run(int argc, char **argv, Error *err) {
    static const char *const dtypes[] = {"f32", "bf16", NULL}; /* in DType's order */
    static const char *const targets[] = {"int8", "int4", "fp8", NULL};
    Options options = {.to = TO_NOTHING, .save = {.dtype = BF16}, .group = -1, .windows = 128},
            *o = &options;
    double megabytes = 5000;
    const Option flags[] = {
        OPT_STRING("model", 'm', "DIR", &o->model, "Folder with the model",
                   .required = "says which model"),
        OPT_STRING("out", 0, "DIR", &o->out, "Folder for the result",
                   .required = "says where the result goes"),
        OPT_CHOICE("to", 0, "int8|int4|fp8", &o->to, targets,
                   "Bits of a weight. fp8 is DeepSeek's own layout", .required = "says into what"),
        OPT_CHOICE("method", 0, "NAME", &o->method, quant_method_names,
                   "rtn rounds to nearest; gptq and awq (int8, int4) round by what the weights "
                   "are multiplied with; smoothquant and llmint8 (int8) are for activations in "
                   "INT8, too"),
        OPT_INT("group", 0, "N", &o->group, 0, 128,
                "Numbers of a row with one scale: 32, 64 or 128; int8: 0, a whole row, too "
                "(default: 128; of smoothquant and llmint8 0)"),
        OPT_LIST("calibrate", 0, "FILE", &o->calibrate, 0,
                 "Text, as for eval's --data, that the methods look at; with rtn: to see what "
                 "rounding does to outputs"),
        OPT_INT("windows", 0, "N", &o->windows, 1, 1 << 20, "Windows of it, spread evenly"),
        OPT_INT("context", 0, "N", &o->context, 1, 1 << 20,
                "Tokens in a window (default: as many as in training, or 64)"),
        OPT_FLAG("head", 0, &o->head,
                 "int8, int4: the head, too, in the same format. One that is the embedding table "
                 "is written beside it"),
        OPT_FLAG("ragged", 0, &o->ragged,
                 "fp8: also matrices that tiles of 128 x 128 cut, as in DeepSeek-V3's own files, "
                 "which transformers does not open"),
        OPT_CHOICE("weights", 0, "f32|bf16", &o->save.dtype, dtypes,
                   "Numbers of what stays plain, and of scales (fp8's are F32)"),
        OPT_FLAG("overwrite", 0, &o->overwrite, "Replace the model that is in --out"),
        OPT_FLOAT("shard-mb", 0, "N", &megabytes, 0.001, 1e9, "Largest file, in millions of bytes"),
        OPT_CSV(&o->common),
        OPT_COMMON_OF(&o->common, COMMON_THREADS),
        OPT_END};
    options_parse(argc, argv, command_quantize.about, flags);
    check_flags(o, argv);
    o->save.shard_size = (int64_t)(1e6 * megabytes);
    if (o->common.csv && csv_check(o->common.csv, err)) return -1;
    int lock = rewrite_open("quantize", o->model, o->out, o->overwrite, err);
    if (lock < 0) return -1;
    Context ctx;
    options_open(&o->common, &ctx);
    int status = quantize(o, &ctx, err);
    context_free(&ctx);
    close(lock);
    free(o->calibrate.items);
    return status;
}

const Command command_quantize = {"quantize", "Writes a model in fewer bits: INT8, INT4 or FP8.",
                                  run};
