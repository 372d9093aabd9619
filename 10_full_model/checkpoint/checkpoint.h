/*
 * A model as a folder, the one that transformers reads and writes:
 *
 *     config.json               sizes and settings (config.h)
 *     model.safetensors         weights, or several files and an index (weight_files.h)
 *     tokenizer.json            text to ids (common/text/tokenizer.h)
 *     tokenizer_config.json, generation_config.json: what transformers wants to know beside them
 *
 * and training.safetensors, which only `deepseek train --resume` reads.
 *
 * They belong together, so they are replaced together (common/files/replacement.h): whatever stops
 * a save, a full disk, a signal or a power cut, who opens the folder next finds the old model,
 * whole, or the new one. Old files go when the new model has none of their name; other names than
 * those that this program writes are never touched, whatever an index may say.
 */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "10_full_model/model/model.h"

#include "common/text/tokenizer.h"

/* ---- saving ---- */

typedef struct SaveOptions {
    /* of the plain weights in the file: F32, or BF16. Routers' biases are always F32; quantised
     * weights are written as what they are */
    DType dtype;
    int64_t shard_size; /* bytes of tensors in one file; 0: 5 GB, transformers' default */
    int64_t step;       /* goes into the metadata */
    /* A folder, or NULL, into which the same weights have just been saved in the same way: their
     * files get a second name in place of a second copy (where the file system has hard links; no
     * file of a model is ever written in place, so neither folder can change the other). */
    const char *same_as;
} SaveOptions;

/*
 * A whole model: weights, settings and, if there is one, the tokenizer. The folder is created if
 * need be; a model that was there is replaced. -1 and a message: it is as it was.
 */
int checkpoint_save(Model *model, const Tokenizer *tokenizer, const char *directory,
                    const SaveOptions *options, Error *err);

/* Does the name belong to a model's folder: would a save write, replace or remove it? */
bool checkpoint_owns(const char *name);

/* The weights alone, in the same way. */
int checkpoint_write_weights(Model *model, const char *directory, const SaveOptions *options,
                             Error *err);

/*
 * What is beside them, file by file: config.json and, if there is a tokenizer, its files
 * (common/text/tokenizer_folder.h), generation_config.json among them. Creates the folder.
 * config.json says `dtype` of the weights, which is what transformers loads them as.
 */
int checkpoint_write_setup(const ModelConfig *cfg, const Tokenizer *tokenizer,
                           const char *directory, DType dtype, Error *err);

/* The same for a model that is there: quantization_config, if there is one, lists what is plain. */
int checkpoint_write_setup_of(const Model *model, const Tokenizer *tokenizer, const char *directory,
                              DType dtype, Error *err);

/* ---- loading ---- */

/* What a folder's weights become. Where they are plain, all but the second are one. */
typedef enum LoadKind {
    LOAD_TO_RUN,      /* quantised ones stay so, and are multiplied as fast as can be */
    LOAD_TO_TRAIN,    /* plain numbers, with gradients and moments */
    LOAD_WEIGHT_ONLY, /* quantised ones stay so, what they are multiplied with is not rounded */
    LOAD_PLAIN,       /* plain numbers */
} LoadKind;

/*
 * Opens a folder: fills model (for inference) and *tokenizer. Every weight must be there with
 * its shape, and no tensor that the model does not have; the tokenizer's ids must be among the
 * model's. On error nothing is left allocated.
 */
int checkpoint_load(Model *model, Tokenizer **tokenizer, Context *ctx, const char *directory,
                    Error *err);

/*
 * config_load for a model's folder, with a hint if it is none. num_nextn_predict_layers becomes
 * 0 where no file holds any of these modules' weights: transformers counts them and writes none. If
 * the files hold more of them than config.json counts, that is an error.
 */
int checkpoint_load_config(ModelConfig *cfg, const char *directory, Error *err);

/*
 * The model alone. cfg: NULL, or settings to be used instead
 * of the folder's (another context, say); the shapes of the weights must come out the same. Only of
 * modules for multi-token prediction cfg may have fewer, the last of which are then not read; or
 * some where the folder has none: they begin with random numbers to train, and else are left out.
 * And cfg may be deepseek_v32 where the folder is deepseek_v3: then the indexers' numbers are
 * random.
 */
int checkpoint_load_model(Model *model, Context *ctx, const char *directory, const ModelConfig *cfg,
                          LoadKind kind, Error *err);

/* The same to train, after indexers_train() of a sparse model. */
int checkpoint_load_to_train(Model *model, Context *ctx, const char *directory,
                             const ModelConfig *cfg, IndexerStage stage, float index_rate,
                             Error *err);

/* The tokenizer alone, for a model of these settings. NULL and a message. */
Tokenizer *checkpoint_load_tokenizer(const ModelConfig *cfg, const char *directory, Error *err);

#endif
