/*
 * Writing a model's folder: first a plan, which says in which file each tensor goes; then file by
 * file into a folder of their own, from where all of them take their places at once.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/checkpoint/stored.h"

#include "common/files/files.h"
#include "common/files/json.h"
#include "common/files/replacement.h"
#include "common/text/tokenizer_folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const int64_t SHARD_SIZE = 5000000000;

/* ---- what goes into which file ---- */

/* What of a weight a tensor of the file holds: numbers, or one of those of stored.h. */
typedef enum PieceRole { PIECE_NUMBERS, PIECE_CODES, PIECE_SCALE, PIECE_SHAPE } PieceRole;

typedef struct Piece {
    Tensor *weight; /* in the model */
    PieceRole role;
    int expert;      /* which part of the weight it belongs to */
    WeightPart part; /* name and shape in the file; where the part's numbers are in the model */
    DType dtype;     /* in the file */
    int file;
} Piece;

typedef struct Plan {
    Piece *pieces;
    int count, files;
    int64_t bytes, in_file; /* in all, and in the last file so far */
    int64_t most;           /* in a file */
} Plan;

/* One more piece: a new file begins where it would not fit. */
static void plan_piece(Plan *p, Piece piece) {
    int64_t bytes = (int64_t)dtype_size(piece.dtype);
    for (int i = 0; i < piece.part.ndim; i++) bytes *= piece.part.shape[i];
    if (p->in_file && p->in_file + bytes > p->most) {
        p->files++;
        p->in_file = 0;
    }
    p->in_file += bytes;
    p->bytes += bytes;
    piece.file = p->files - 1;
    p->pieces[p->count++] = piece;
}

static void plan_quantised_piece(Plan *p, Piece piece, PieceRole role, const char *end, DType dtype,
                                 const int64_t *shape, int ndim) {
    ModuleName module = stored_module(piece.part.name);
    snprintf(piece.part.name, sizeof piece.part.name, "%s%s", module.text, end);
    piece.role = role;
    piece.dtype = dtype;
    piece.part.ndim = ndim;
    memcpy(piece.part.shape, shape, (size_t)ndim * sizeof *shape);
    plan_piece(p, piece);
}

/* Packed weights' scales are written as the plain weights are, if they lose nothing: transformers
 * makes numbers of the scales' dtype. */
static DType scale_dtype(const Model *model, const Tensor *weight, DType plain) {
    const Tensor *scale = &weight->quantised->scale;
    int64_t count = tensor_count(scale), i = 0;
    float *values = must_alloc((size_t)count, sizeof *values);
    device_get(model->ctx->gpu, values, scale->data, tensor_bytes(scale));
    while (i < count && bf16_to_float(bf16_from_float(values[i])) == values[i]) i++;
    free(values);
    return i == count ? plain : F32;
}

/* The two or three tensors of stored.h. */
static void plan_quantised(Plan *p, const Model *model, Piece piece, DType scales) {
    const ModelConfig *cfg = &model->cfg;
    int64_t out = piece.part.shape[0], in = piece.part.shape[1];
    if (cfg->quant_method == STORED_FP8) {
        int64_t down = (out + FP8_BLOCK - 1) / FP8_BLOCK, across = (in + FP8_BLOCK - 1) / FP8_BLOCK;
        plan_quantised_piece(p, piece, PIECE_CODES, ".weight", F8_E4M3, SHAPE(out, in));
        plan_quantised_piece(p, piece, PIECE_SCALE, ".weight_scale_inv", F32, SHAPE(down, across));
        return;
    }
    int64_t groups = cfg->group_size ? in / cfg->group_size : 1;
    plan_quantised_piece(p, piece, PIECE_CODES, ".weight_packed", I32,
                         SHAPE(out, (in * cfg->num_bits + 31) / 32));
    plan_quantised_piece(p, piece, PIECE_SCALE, ".weight_scale", scales, SHAPE(out, groups));
    plan_quantised_piece(p, piece, PIECE_SHAPE, ".weight_shape", I64, SHAPE(2));
}

static void plan_part(Plan *p, const Model *model, Piece piece, DType plain) {
    piece.dtype = plain;
    if (piece.weight->quantised)
        plan_quantised(p, model, piece, scale_dtype(model, piece.weight, plain));
    else
        plan_piece(p, piece);
}

/* In the model's order, and what is repeated last. */
static Plan plan(const Model *model, const SaveOptions *options) {
    const Params *params = &model->params;
    Plan p = {.files = 1, .most = options->shard_size > 0 ? options->shard_size : SHARD_SIZE};
    Piece piece = {0};
    size_t count = 4 * (size_t)model->mtp.depth; /* the table's numbers, and three for the head */
    for (int i = 0; (piece.weight = weights_at(params, i)); i++)
        count += (piece.weight->quantised ? 3 : 1) * (size_t)weight_parts(piece.weight);
    p.pieces = must_alloc(count, sizeof *p.pieces);
    for (int i = 0; (piece.weight = weights_at(params, i)); i++) {
        for (int j = 0; j < weight_parts(piece.weight); j++) {
            piece.part = weight_part(piece.weight, j);
            piece.expert = j;
            plan_part(&p, model, piece, i < params->count ? options->dtype : F32);
        }
    }
    piece = (Piece){0};
    for (int i = 0; weight_alias(model, i, &piece.weight, &piece.part); i++)
        plan_part(&p, model, piece, options->dtype);
    return p;
}

/* ---- one file ---- */

/* What of a weight is in host memory: the model's own where it is there as it is to be, else
 * copies. */
typedef struct Host {
    const float *numbers, *scales;
    const char *codes;
    void *copies[2];
} Host;

static void *copy_of(Model *model, const Tensor *t) {
    void *copy = must_alloc(tensor_bytes(t), 1);
    device_get(model->ctx->gpu, copy, t->data, tensor_bytes(t));
    return copy;
}

static Host host_of(Model *model, const Tensor *weight) {
    Host h = {0};
    bool here = weight->device == CPU;
    if (weight->quantised) {
        const Tensor *scale = &weight->quantised->scale;
        if (!here) h.copies[0] = copy_of(model, weight), h.copies[1] = copy_of(model, scale);
        h.codes = here ? weight->data : h.copies[0];
        h.scales = here ? scale->data : h.copies[1];
    } else if (here && weight->dtype == F32) {
        h.numbers = weight->data;
    } else {
        h.copies[0] = must_alloc((size_t)tensor_count(weight), sizeof(float));
        params_get(&model->params, weight, h.copies[0]);
        h.numbers = h.copies[0];
    }
    return h;
}

static void *to_bf16(const float *values, int64_t count) {
    uint16_t *rounded = must_realloc(NULL, (size_t)count, sizeof *rounded);
#pragma omp parallel for if (count > 1 << 16)
    for (int64_t i = 0; i < count; i++) rounded[i] = bf16_from_float(values[i]);
    return rounded;
}

/* Of the packed layout: words, every so many-th scale, or the sizes. */
static void *packed_data(const Model *model, const Piece *piece, const Host *h) {
    const Tensor *weight = piece->weight;
    int64_t out = weight->shape[weight->ndim - 2], in = tensor_dim(weight, -1);
    int bits = model->cfg.num_bits;
    QuantFormat format = stored_format(&model->cfg, in);
    if (piece->role == PIECE_SHAPE) {
        int64_t *sizes = must_alloc(2, sizeof *sizes);
        sizes[0] = out, sizes[1] = in;
        return sizes;
    }
    if (piece->role == PIECE_CODES) {
        int32_t *words = must_alloc((size_t)(out * piece->part.shape[1]), sizeof *words);
        size_t bytes = quant_code_bytes(&format, out, in);
        stored_pack(words, h->codes + (size_t)piece->expert * bytes, out, in, bits, &format);
        return words;
    }
    int64_t here = quant_scale_count(&format, out, in), there = out * piece->part.shape[1];
    float *scales = must_alloc((size_t)there, sizeof *scales);
    for (int64_t i = 0; i < there; i++)
        scales[i] = h->scales[piece->expert * here + i * (here / there)];
    if (piece->dtype == F32) return scales;
    void *rounded = to_bf16(scales, there);
    free(scales);
    return rounded;
}

/* The tensor's bytes; what is made for it goes into *made, too, to be freed. */
static const void *piece_data(const Model *model, const Piece *piece, const Host *h, void **made) {
    *made = NULL;
    if (piece->role == PIECE_NUMBERS) {
        const float *from = h->numbers + piece->part.offset;
        return piece->dtype == BF16 ? *made = to_bf16(from, piece->part.count) : from;
    }
    if (model->cfg.quant_method == STORED_PACKED) return *made = packed_data(model, piece, h);
    int64_t scales = piece->part.shape[0] * piece->part.shape[1];
    return piece->role == PIECE_CODES ? (const void *)(h->codes + piece->part.offset)
                                      : (const void *)(h->scales + piece->expert * scales);
}

/* Pieces [first, end) to a file. */
static int write_file(Model *model, const Plan *p, int first, int end, const char *path,
                      int64_t step, Error *err) {
    size_t count = (size_t)(end - first);
    Tensor *tensors = must_alloc(count, sizeof *tensors);
    Host *hosts = must_alloc(count, sizeof *hosts);
    void **made = must_alloc(count, sizeof *made);
    for (size_t i = 0, host = 0; i < count; i++) {
        const Piece *piece = &p->pieces[(size_t)first + i];
        if (i == 0 || piece->weight != piece[-1].weight)
            hosts[host = i] = host_of(model, piece->weight);
        void *data = (void *)piece_data(model, piece, &hosts[host], &made[i]);
        tensors[i] = tensor_view(data, piece->part.name, piece->dtype, CPU, piece->part.shape,
                                 piece->part.ndim);
    }
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)step);
    int status = safetensors_write(path, tensors, (int)count, &(KeyValue){"step", text}, 1, err);
    for (size_t i = 0; i < count; i++) {
        free(hosts[i].copies[0]);
        free(hosts[i].copies[1]);
        free(made[i]);
    }
    free(made);
    free(hosts);
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

static bool has_second_name(const char *same_as, const char *directory, const char *name) {
    return same_as && !link(file_path(same_as, name).text, file_path(directory, name).text);
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
        FileName name = file_name(&p, file);
        PathText path = file_path(directory, name.text);
        if (!has_second_name(options->same_as, directory, name.text))
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

static int write_setup(const ModelConfig *cfg, const char *const *high, const Tokenizer *tokenizer,
                       const char *directory, DType dtype, Error *err) {
    ModelConfig written = *cfg;
    written.dtype = dtype;
    /* Unless the config knows better, a text begins and ends as its tokenizer says. */
    if (tokenizer && cfg->bos_token_id < 0) written.bos_token_id = tokenizer_eot(tokenizer);
    if (tokenizer && cfg->eos_token_id < 0) written.eos_token_id = tokenizer_eot(tokenizer);
    if (make_directories(directory, err) || config_save(&written, high, directory, err)) return -1;
    return tokenizer ? tokenizer_save_folder(tokenizer, directory, written.bos_token_id,
                                             cfg->max_position_embeddings, err)
                     : 0;
}

int checkpoint_write_setup(const ModelConfig *cfg, const Tokenizer *tokenizer,
                           const char *directory, DType dtype, Error *err) {
    return write_setup(cfg, NULL, tokenizer, directory, dtype, err);
}

/* Of a layer's experts, that are one module to transformers, the three weights have one name. */
static ModuleName high_module(const Tensor *weight) {
    ModuleName module = stored_module(weight->name);
    char *experts = strstr(module.text, ".mlp.experts.");
    if (experts) experts[strlen(".mlp.experts")] = 0;
    return module;
}

int checkpoint_write_setup_of(const Model *model, const Tokenizer *tokenizer, const char *directory,
                              DType dtype, Error *err) {
    const Params *params = &model->params;
    size_t room = (size_t)params->count + 2, count = 0;
    char **high = must_alloc(room, sizeof *high);
    if (model->cfg.tie_word_embeddings) high[count++] = must_strdup("lm_head");
    for (int i = 0; i < params->count && model->cfg.quant_method != STORED_PLAIN; i++) {
        const Tensor *weight = params->list[i];
        if (weight->ndim < 2 || weight->quantised || weight == model->decoder.embed_tokens)
            continue;
        ModuleName module = high_module(weight);
        if (!count || strcmp(high[count - 1], module.text))
            high[count++] = must_strdup(module.text);
    }
    int status =
        write_setup(&model->cfg, (const char *const *)high, tokenizer, directory, dtype, err);
    while (count) free(high[--count]);
    free(high);
    return status;
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
    int status = checkpoint_write_setup_of(model, tokenizer, r.staging, options->dtype, err);
    if (!status) status = write_weights(model, r.staging, options, err);
    if (!status) status = replacement_commit(&r, checkpoint_owns, err);
    replacement_abandon(&r);
    return status;
}
