/*
 * Reading a model's folder.
 *
 * Before a number is read, and before there is memory for one, the list of the model's weights and
 * the files are laid beside each other: every weight that is missing, has another shape or another
 * dtype, and every tensor that no weight wants, is found and named.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/checkpoint/stored.h"

#include "08_quant/quantised.h"
#include "common/files/files.h"
#include "common/files/json.h"
#include "common/files/replacement.h"
#include "common/text/tokenizer_folder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- a list of names for a message ---- */

typedef struct NameList {
    char text[700];
    int count;
} NameList;

static void name_list_add(NameList *list, const char *name) {
    enum { SHOWN = 6 };
    size_t used = strlen(list->text);
    if (list->count++ < SHOWN)
        snprintf(list->text + used, sizeof list->text - used, "%s%s", used ? ", " : "",
                 name_text(name).text);
    else if (list->count == SHOWN + 1)
        snprintf(list->text + used, sizeof list->text - used, ", ...");
}

/* ---- model and files, side by side ---- */

typedef struct Loading {
    Model *model;
    const char *directory;
    LoadKind kind;
    WeightFiles files;
    char **names; /* of all tensors that the model wants, sorted */
    int name_count;
    size_t name_capacity;
    NameList missing, unexpected;
    IndexerStage stage; /* of a sparse model that is to train */
    float index_rate;
    int modules;         /* for multi-token prediction, that the folder has or should have */
    bool quantised;      /* is a weight of the model? */
    bool fresh_modules;  /* the model is to have some and the folder has none: they are not read */
    bool fresh_indexers; /* the same */
} Loading;

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void want(Loading *l, const char *name) {
    l->names = grow(l->names, &l->name_capacity, (size_t)l->name_count + 1, sizeof *l->names);
    l->names[l->name_count++] = must_strdup(name);
}

/* All tensors of a stored weight are wanted. */
static void want_stored(Loading *l, const StoredWeight *s) {
    const Tensor *const all[] = {s->codes, s->scale, s->shape};
    for (int i = 0; i < 3; i++)
        if (all[i]) want(l, all[i]->name);
}

/* A weight whose parts are all quantised stays so, if it is one that can: a linear layer, or a head
 * that is not the embedding table, too. */
static void keep_quantised(Loading *l, Tensor *weight) {
    const Decoder *d = &l->model->decoder;
    bool can = size_quantisable(weight) || (weight == d->lm_head && weight != d->embed_tokens);
    QuantFormat f = stored_format(&l->model->cfg, tensor_dim(weight, -1));
    Error no;
    if (l->kind != LOAD_TO_RUN && l->kind != LOAD_WEIGHT_ONLY) return;
    if (!can || quantised_format_check(weight, f.dtype, f.block_out, f.block_in, &no)) return;
    params_set_quantised(&l->model->params, weight, f.dtype, f.block_out, f.block_in,
                         l->kind == LOAD_TO_RUN ? &quantised_products : &quantised_weight_only);
    l->quantised = true;
}

/* All parts of one weight: are they there, each by itself or fused? */
static int match_weight(Loading *l, Tensor *weight, Error *err) {
    WeightPart part, fused;
    StoredWeight stored;
    int64_t first, stride;
    int quantised = 0;
    if (weight_fused(weight, &fused, &first, &stride)) {
        if (stored_find(&stored, &l->files, &l->model->cfg, &fused, err)) return -1;
        want_stored(l, &stored);
        if (stored.codes) return 0;
    }
    for (int j = 0; j < weight_parts(weight); j++) {
        part = weight_part(weight, j);
        if (stored_find(&stored, &l->files, &l->model->cfg, &part, err)) return -1;
        want_stored(l, &stored);
        if (!stored.codes) name_list_add(&l->missing, part.name);
        quantised += stored.scale != NULL;
    }
    if (quantised == weight_parts(weight)) keep_quantised(l, weight);
    return 0;
}

static bool ends_with(const char *text, const char *end) {
    size_t a = strlen(text), b = strlen(end);
    return a >= b && !strcmp(text + a - b, end);
}

/* A tensor of a file: wanted, known to be of no use, or a mistake? */
static int match_tensor(Loading *l, const Tensor *t, const char *path, Error *err) {
    const ModelConfig *cfg = &l->model->cfg;
    int layer = weight_layer(t->name) - cfg->num_hidden_layers;
    if (bsearch(&t->name, l->names, (size_t)l->name_count, sizeof *l->names, compare_names))
        return 0;
    bool left_out = layer >= cfg->num_nextn_predict_layers && layer >= 0 && layer < l->modules;
    if (ends_with(t->name, ".weight_scale_inv") && !left_out)
        return error_set(err, "%s: '%s' is a scale of FP8 weights, but those are not there as such",
                         path, name_text(t->name).text);
    if (!left_out && !(cfg->tie_word_embeddings && !strcmp(t->name, "lm_head.weight")) &&
        !ends_with(t->name, ".rotary_emb.inv_freq")) /* old files keep what config.json says */
        name_list_add(&l->unexpected, t->name);
    return 0;
}

/* Is this weight not to be read, for it is a new module's or indexer's? */
static bool is_fresh(const Loading *l, const Tensor *weight) {
    return (l->fresh_indexers && strstr(weight->name, ".indexer.")) ||
           (l->fresh_modules && weight_layer(weight->name) >= l->model->cfg.num_hidden_layers);
}

static bool same_numbers(const Tensor *a, const Tensor *b) {
    if (a->dtype == b->dtype) return !memcmp(a->data, b->data, tensor_bytes(a));
    if (!weight_readable(a) || !weight_readable(b)) return false;
    float x, y;
    for (int64_t i = 0; i < tensor_count(a); i++) {
        weight_read(&x, a, i, 1), weight_read(&y, b, i, 1);
        if (x != y) return false;
    }
    return true;
}

/* A repetition may be left out; if it is there it must have the numbers of what it repeats. */
static int match_alias(Loading *l, const Tensor *weight, const WeightPart *alias, Error *err) {
    StoredWeight stored, first;
    WeightPart part = weight_part(weight, 0);
    if (stored_find(&stored, &l->files, &l->model->cfg, alias, err) ||
        stored_find(&first, &l->files, &l->model->cfg, &part, err))
        return -1;
    want_stored(l, &stored);
    bool alike = !stored.scale == !first.scale;
    if (!stored.codes || !first.codes) return 0;
    if (alike && same_numbers(first.codes, stored.codes) &&
        (!stored.scale || same_numbers(first.scale, stored.scale)))
        return 0;
    return error_set(err,
                     "%s: '%s' differs from '%s'. Modules for multi-token prediction share the "
                     "model's table and head; one with its own is not known here",
                     stored.path, alias->name, weight->name);
}

static int match(Loading *l, Error *err) {
    Tensor *weight;
    WeightPart alias;
    for (int i = 0; (weight = weights_at(&l->model->params, i)); i++)
        if (!is_fresh(l, weight) && match_weight(l, weight, err)) return -1;
    for (int i = 0; !l->fresh_modules && weight_alias(l->model, i, &weight, &alias); i++)
        if (match_alias(l, weight, &alias, err)) return -1;
    if (l->name_count) qsort(l->names, (size_t)l->name_count, sizeof *l->names, compare_names);
    for (int f = 0; f < l->files.count; f++)
        for (int i = 0; i < safetensors_count(l->files.files[f]); i++)
            if (match_tensor(l, safetensors_at(l->files.files[f], i),
                             safetensors_path(l->files.files[f]), err))
                return -1;
    if (l->missing.count)
        return error_set(err, "%s: %d of the model's tensors are not in its files: %s",
                         l->directory, l->missing.count, l->missing.text);
    if (l->unexpected.count)
        return error_set(
            err, "%s: the files hold %d tensors that the model of config.json does not have: %s",
            l->directory, l->unexpected.count, l->unexpected.text);
    return 0;
}

/*
 * A config that ties the head to the embedding table, beside files with both: where they are not
 * the same, the file's head counts, as it does for transformers.
 */
static void untie(ModelConfig *cfg, WeightFiles *files, const char *directory) {
    const char *path;
    const Tensor *head = weight_files_find(files, "lm_head.weight", &path);
    const Tensor *table = weight_files_find(files, "model.embed_tokens.weight", &path);
    if (!cfg->tie_word_embeddings || !head || !table) return;
    bool same = head->dtype == table->dtype && tensor_bytes(head) == tensor_bytes(table) &&
                !memcmp(head->data, table->data, (size_t)tensor_bytes(head));
    if (same) return;
    cfg->tie_word_embeddings = false;
    fprintf(stderr,
            "%s: config.json says tie_word_embeddings, but lm_head.weight is not the embedding "
            "table: it is used, as it is by transformers\n",
            directory);
}

/* ---- reading ---- */

/* Codes and scales, part behind part. */
static int read_codes(Loading *l, Tensor *weight, Error *err) {
    const Tensor *scale = &weight->quantised->scale;
    int parts = weight_parts(weight), status = 0;
    size_t bytes = tensor_bytes(weight) / (size_t)parts;
    int64_t scales = tensor_count(scale) / parts;
    char *codes = must_alloc((size_t)parts, bytes);
    float *values = must_alloc((size_t)tensor_count(scale), sizeof *values);
    for (int j = 0; j < parts && !status; j++) {
        StoredWeight stored;
        WeightPart part = weight_part(weight, j);
        status = stored_find(&stored, &l->files, &l->model->cfg, &part, err);
        if (!status)
            status = stored_codes(codes + (size_t)j * bytes, values + j * scales, &stored,
                                  &l->model->cfg, err);
    }
    if (!status) params_set_codes(&l->model->params, weight, codes, values);
    free(values);
    free(codes);
    return status;
}

static int read_numbers(Loading *l, Tensor *weight, float *values, Error *err) {
    WeightPart fused;
    int64_t first, stride;
    const Tensor *all = weight_fused(weight, &fused, &first, &stride)
                            ? weight_files_find(&l->files, fused.name, NULL)
                            : NULL;
    for (int j = 0; j < weight_parts(weight); j++) {
        WeightPart part = weight_part(weight, j);
        StoredWeight stored;
        if (all)
            weight_read(values + part.offset, all, first + j * stride, part.count);
        else if (stored_find(&stored, &l->files, &l->model->cfg, &part, err) ||
                 stored_numbers(values + part.offset, &stored, &l->model->cfg, err))
            return -1;
    }
    params_set(&l->model->params, weight, values);
    return 0;
}

/* Of all weights that are no numbers only these would not show in the logits: the router would
 * choose other experts, and nothing else. */
static int check_bias(const Loading *l, const Tensor *weight, const float *values, Error *err) {
    if (!ends_with(weight->name, ".e_score_correction_bias")) return 0;
    for (int64_t i = 0; i < tensor_count(weight); i++)
        if (!isfinite(values[i]))
            return error_set(err, "%s: number %lld of '%s' is %g", l->directory, (long long)i,
                             weight->name, fabsf(values[i]));
    return 0;
}

static int read_all(Loading *l, Error *err) {
    Tensor *weight;
    Model *model = l->model;
    int status = 0;
    int64_t most = 0;
    for (int i = 0; (weight = weights_at(&model->params, i)); i++)
        if (!weight->quantised && tensor_count(weight) > most) most = tensor_count(weight);
    float *values = must_alloc((size_t)most, sizeof *values);
    for (int i = 0; (weight = weights_at(&model->params, i)) && !status; i++) {
        if (is_fresh(l, weight)) continue;
        status =
            weight->quantised ? read_codes(l, weight, err) : read_numbers(l, weight, values, err);
        if (!status && !weight->quantised) status = check_bias(l, weight, values, err);
    }
    if (l->fresh_modules) model_randomize_modules(model);
    if (l->fresh_indexers) model_randomize_indexers(model);
    free(values);
    return status;
}

/* How many modules for multi-token prediction there are. */
static int modules_in(const WeightFiles *files, int layers) {
    int count = 0;
    for (int f = 0; f < files->count; f++)
        for (int i = 0; i < safetensors_count(files->files[f]); i++) {
            const char *name = safetensors_at(files->files[f], i)->name;
            int layer = weight_layer(name) - layers;
            if (layer >= count && strstr(name, ".eh_proj.weight"))
                count = layer + 1; /* or _packed */
        }
    return count;
}

/* What config.json says of modules, beside what there is. transformers counts them and writes
 * none. */
static int check_modules(ModelConfig *cfg, const char *directory, Error *err) {
    WeightFiles files;
    if (cfg->model_type == DEEPSEEK_V2 || weight_files_open(&files, directory, NULL)) return 0;
    int count = modules_in(&files, cfg->num_hidden_layers);
    weight_files_close(&files);
    if (count == 0) cfg->num_nextn_predict_layers = 0;
    if (count <= cfg->num_nextn_predict_layers) return 0;
    return error_set(err,
                     "%s: config.json says num_nextn_predict_layers %d, but the files hold modules "
                     "for multi-token prediction up to model.layers.%d",
                     directory, cfg->num_nextn_predict_layers, cfg->num_hidden_layers + count - 1);
}

int checkpoint_load_config(ModelConfig *cfg, const char *directory, Error *err) {
    if (replacement_finish(directory, err)) return -1;
    if (access(file_path(directory, "config.json").text, F_OK) == 0)
        return config_load(cfg, directory, err) ? -1 : check_modules(cfg, directory, err);
    if (access(file_path(directory, WEIGHTS_FILE).text, F_OK) == 0 ||
        access(file_path(directory, WEIGHTS_INDEX).text, F_OK) == 0)
        return error_set(err, "%s has weights, but no config.json that says of which model",
                         directory);
    if (access(file_path(directory, "last/config.json").text, F_OK) == 0)
        return error_set(err,
                         "%s has no best model yet, for its training was stopped before the first "
                         "validation; the model of its last step is in %s/last",
                         directory, directory);
    return error_set(err, "%s is no model's folder: there is no config.json in it", directory);
}

static int load_model(Loading l, Context *ctx, const ModelConfig *other, Error *err) {
    ModelConfig cfg;
    Model *model = l.model;
    const char *directory = l.directory;
    bool training = l.kind == LOAD_TO_TRAIN;
    *model = (Model){0};
    if ((!other || config_is_sparse(other)) && checkpoint_load_config(&cfg, directory, err))
        return -1;
    l.fresh_indexers = other && config_is_sparse(other) && !config_is_sparse(&cfg);
    if (other) cfg = *other;
    if (replacement_finish(directory, err)) return -1;
    if (weight_files_open(&l.files, directory, err)) return -1;
    int there = modules_in(&l.files, cfg.num_hidden_layers);
    l.modules = there > cfg.num_nextn_predict_layers ? there : cfg.num_nextn_predict_layers;
    l.fresh_modules = training && cfg.num_nextn_predict_layers && !there;
    if (!training && !there) cfg.num_nextn_predict_layers = 0;
    untie(&cfg, &l.files, directory);
    int status = model_register(model, ctx, &cfg, err);
    if (!status) status = match(&l, err);
    if (!status) indexers_train(&model->indexers, &model->params, l.stage, l.index_rate);
    if (!status) status = model_allocate(model, training, err);
    if (!status) status = read_all(&l, err);
    if (!l.quantised) model->cfg.quant_method = STORED_PLAIN; /* from now on */
    for (int i = 0; i < l.name_count; i++) free(l.names[i]);
    free(l.names);
    weight_files_close(&l.files);
    if (status) model_free(model);
    return status;
}

int checkpoint_load_model(Model *model, Context *ctx, const char *directory, const ModelConfig *cfg,
                          LoadKind kind, Error *err) {
    return load_model((Loading){.model = model, .directory = directory, .kind = kind}, ctx, cfg,
                      err);
}

int checkpoint_load_to_train(Model *model, Context *ctx, const char *directory,
                             const ModelConfig *cfg, IndexerStage stage, float index_rate,
                             Error *err) {
    return load_model((Loading){.model = model,
                                .directory = directory,
                                .kind = LOAD_TO_TRAIN,
                                .stage = stage,
                                .index_rate = index_rate},
                      ctx, cfg, err);
}

Tokenizer *checkpoint_load_tokenizer(const ModelConfig *cfg, const char *directory, Error *err) {
    if (replacement_finish(directory, err)) return NULL;
    Tokenizer *tokenizer = tokenizer_load_folder(directory, err);
    /* Fewer is usual: embedding tables are rounded up, V3's from 128,815 to 129,280. */
    if (tokenizer && tokenizer_vocab_size(tokenizer) > cfg->vocab_size) {
        error_set(err,
                  "%s: the model has %d tokens, its tokenizer.json %d: they do not belong together",
                  directory, cfg->vocab_size, tokenizer_vocab_size(tokenizer));
        tokenizer_free(tokenizer);
        tokenizer = NULL;
    }
    return tokenizer;
}

int checkpoint_load(Model *model, Tokenizer **tokenizer, Context *ctx, const char *directory,
                    Error *err) {
    ModelConfig cfg;
    *model = (Model){0};
    *tokenizer = NULL;
    if (checkpoint_load_config(&cfg, directory, err)) return -1;
    if (!(*tokenizer = checkpoint_load_tokenizer(&cfg, directory, err))) return -1;
    if (checkpoint_load_model(model, ctx, directory, &cfg, LOAD_TO_RUN, err) == 0) return 0;
    tokenizer_free(*tokenizer);
    *tokenizer = NULL;
    return -1;
}
