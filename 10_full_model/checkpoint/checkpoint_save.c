/*
 * Writing a model's folder: first a plan, which says in which file each tensor goes; then file by
 * file into a folder of their own, from where all of them take their places at once.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/checkpoint/weight_files.h"
#include "10_full_model/checkpoint/weights_map.h"

#include "common/files/files.h"
#include "common/files/json.h"
#include "common/files/replacement.h"
#include "common/text/tokenizer_folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int64_t SHARD_SIZE = 5000000000;

/* ---- what goes into which file ---- */

typedef struct Piece {
    Tensor *weight; /* in the model */
    WeightPart part;
    DType dtype; /* in the file */
    int file;
} Piece;

typedef struct Plan {
    Piece *pieces;
    int count, files;
    int64_t bytes, in_file; /* in all, and in the last file so far */
} Plan;

/* One more piece: a new file begins where it would not fit. */
static void plan_piece(Plan *p, Tensor *weight, const WeightPart *part, DType dtype, int64_t most) {
    int64_t bytes = part->count * (int64_t)dtype_size(dtype);
    if (p->in_file && p->in_file + bytes > most) {
        p->files++;
        p->in_file = 0;
    }
    p->in_file += bytes;
    p->bytes += bytes;
    p->pieces[p->count++] =
        (Piece){.weight = weight, .part = *part, .dtype = dtype, .file = p->files - 1};
}

/* In the model's order, and what is repeated last. */
static Plan plan(const Model *model, const SaveOptions *options) {
    const Params *params = &model->params;
    int64_t most = options->shard_size > 0 ? options->shard_size : SHARD_SIZE;
    Plan p = {.files = 1};
    Tensor *weight;
    WeightPart part;
    size_t count = 2 * (size_t)model->mtp.depth;
    for (int i = 0; (weight = weights_at(params, i)); i++) count += (size_t)weight_parts(weight);
    p.pieces = must_alloc(count, sizeof *p.pieces);
    for (int i = 0; (weight = weights_at(params, i)); i++) {
        DType dtype = i < params->count ? options->dtype : F32;
        for (int j = 0; j < weight_parts(weight); j++) {
            part = weight_part(weight, j);
            plan_piece(&p, weight, &part, dtype, most);
        }
    }
    for (int i = 0; weight_alias(model, i, &weight, &part); i++)
        plan_piece(&p, weight, &part, options->dtype, most);
    return p;
}

/* ---- one file ---- */

/* The weight's numbers in host memory: the model's own where they are there as F32, else a copy
 * in *copy. */
static const float *values_of(Model *model, Tensor *weight, float **copy) {
    *copy = NULL;
    if (weight->device == CPU && weight->dtype == F32) return weight->data;
    *copy = must_alloc((size_t)tensor_count(weight), sizeof **copy);
    params_get(&model->params, weight, *copy);
    return *copy;
}

static void *to_bf16(const float *values, int64_t count) {
    uint16_t *rounded = must_realloc(NULL, (size_t)count, sizeof *rounded);
#pragma omp parallel for if (count > 1 << 16)
    for (int64_t i = 0; i < count; i++) rounded[i] = bf16_from_float(values[i]);
    return rounded;
}

/* Pieces [first, end) to a file. */
static int write_file(Model *model, const Plan *p, int first, int end, const char *path,
                      int64_t step, Error *err) {
    int count = end - first;
    Tensor *tensors = must_alloc((size_t)count, sizeof *tensors);
    void **owned = must_alloc(2 * (size_t)count, sizeof *owned);
    int owned_count = 0;
    const float *values = NULL;
    for (int i = 0; i < count; i++) {
        const Piece *piece = &p->pieces[first + i];
        if (i == 0 || piece->weight != piece[-1].weight) {
            float *copy;
            values = values_of(model, piece->weight, &copy);
            owned[owned_count++] = copy;
        }
        const float *from = values + piece->part.offset;
        void *data = (void *)from;
        if (piece->dtype == BF16) data = owned[owned_count++] = to_bf16(from, piece->part.count);
        tensors[i] = tensor_view(data, piece->part.name, piece->dtype, CPU, piece->part.shape,
                                 piece->part.ndim);
    }
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)step);
    int status = safetensors_write(path, tensors, count, &(KeyValue){"step", text}, 1, err);
    for (int i = 0; i < owned_count; i++) free(owned[i]);
    free(owned);
    free(tensors);
    return status;
}

/* ---- the set of files ---- */

typedef struct FileName {
    char text[64];
} FileName;

static FileName file_name(const Plan *p, int file) {
    FileName name = {WEIGHTS_FILE};
    if (p->files > 1)
        snprintf(name.text, sizeof name.text, "model-%05d-of-%05d.safetensors", file + 1, p->files);
    return name;
}

static int write_index(const Plan *p, const char *directory, Error *err) {
    cJSON *json = cJSON_CreateObject();
    cJSON *metadata = cJSON_AddObjectToObject(json, "metadata");
    cJSON_AddNumberToObject(metadata, "total_size", (double)p->bytes);
    cJSON *map = cJSON_AddObjectToObject(json, "weight_map");
    if (!map) fatal("out of memory");
    for (int i = 0; i < p->count; i++)
        cJSON_AddStringToObject(map, p->pieces[i].part.name, file_name(p, p->pieces[i].file).text);
    int status = json_save(file_path(directory, WEIGHTS_INDEX).text, json, err);
    cJSON_Delete(json);
    return status;
}

/* Into a folder that has no weights yet. */
static int write_weights(Model *model, const char *directory, const SaveOptions *options,
                         Error *err) {
    CHECK(options->dtype == F32 || options->dtype == BF16, "weights are saved as F32 or BF16");
    Plan p = plan(model, options);
    int status = 0;
    for (int file = 0, first = 0; file < p.files && !status; file++) {
        int end = first;
        while (end < p.count && p.pieces[end].file == file) end++;
        PathText path = file_path(directory, file_name(&p, file).text);
        status = write_file(model, &p, first, end, path.text, options->step, err);
        first = end;
    }
    if (!status && p.files > 1) status = write_index(&p, directory, err);
    free(p.pieces);
    return status;
}

int checkpoint_write_weights(Model *model, const char *directory, const SaveOptions *options,
                             Error *err) {
    Replacement r;
    if (replacement_open(&r, directory, err)) return -1;
    int status = write_weights(model, r.staging, options, err);
    if (!status) status = replacement_commit(&r, weight_file_owned, err);
    replacement_abandon(&r);
    return status;
}

/* ---- beside the weights ---- */

int checkpoint_write_setup(const ModelConfig *cfg, const Tokenizer *tokenizer,
                           const char *directory, DType dtype, Error *err) {
    ModelConfig written = *cfg;
    written.dtype = dtype;
    /* Unless the config knows better, a text begins and ends as its tokenizer says. */
    if (tokenizer && cfg->bos_token_id < 0) written.bos_token_id = tokenizer_eot(tokenizer);
    if (tokenizer && cfg->eos_token_id < 0) written.eos_token_id = tokenizer_eot(tokenizer);
    if (make_directories(directory, err) || config_save(&written, directory, err)) return -1;
    return tokenizer ? tokenizer_save_folder(tokenizer, directory, written.bos_token_id,
                                             cfg->max_position_embeddings, err)
                     : 0;
}

bool checkpoint_owns(const char *name) {
    for (int i = 0; tokenizer_folder_files[i]; i++)
        if (!strcmp(name, tokenizer_folder_files[i])) return true;
    return !strcmp(name, "config.json") || weight_file_owned(name);
}

int checkpoint_save(Model *model, const Tokenizer *tokenizer, const char *directory,
                    const SaveOptions *options, Error *err) {
    Replacement r;
    if (replacement_open(&r, directory, err)) return -1;
    int status = checkpoint_write_setup(&model->cfg, tokenizer, r.staging, options->dtype, err);
    if (!status) status = write_weights(model, r.staging, options, err);
    if (!status) status = replacement_commit(&r, checkpoint_owns, err);
    replacement_abandon(&r);
    return status;
}
