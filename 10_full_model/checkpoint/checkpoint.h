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
 * Each file is replaced by renaming, so whatever stops a save (a full disk, a signal) leaves a
 * whole file of before. Weights in several files are all written under new names before the
 * index, by whose renaming the new ones count; then the old ones go.
 */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "10_full_model/model/model.h"

#include "common/text/tokenizer.h"

/* ---- saving ---- */

typedef struct SaveOptions {
    DType dtype; /* of the weights in the file: F32, or BF16. Routers' biases are always F32 */
    int64_t shard_size; /* bytes of tensors in one file; 0: 5 GB, transformers' default */
    int64_t step;       /* goes into the metadata */
} SaveOptions;

/* DIRECTORY/model.safetensors, or shards. The folder must be there. */
int checkpoint_write_weights(Model *model, const char *directory, const SaveOptions *options,
                             Error *err);

/* The usual: F32. */
int checkpoint_save_weights(Model *model, const char *directory, int64_t step, Error *err);

/*
 * What does not change while training: config.json and, if there is a tokenizer, its files
 * (common/text/tokenizer_folder.h), generation_config.json among them. Creates the folder.
 * config.json says `dtype` of the weights, which is what transformers loads them as.
 */
int checkpoint_write_setup(const ModelConfig *cfg, const Tokenizer *tokenizer,
                           const char *directory, DType dtype, Error *err);
int checkpoint_save_setup(const ModelConfig *cfg, const Tokenizer *tokenizer, const char *directory,
                          Error *err); /* F32 */

/* ---- loading ---- */

/*
 * Opens a folder: fills model (for inference) and *tokenizer. Every weight must be there with
 * its shape, and no tensor that the model does not have (but layers for multi-token prediction,
 * which are left out, with a line on stderr); the tokenizer's ids must be among the model's. On
 * error nothing is left allocated.
 */
int checkpoint_load(Model *model, Tokenizer **tokenizer, Context *ctx, const char *directory,
                    Error *err);

/* config_load for a model's folder, with a hint if it is none. */
int checkpoint_load_config(ModelConfig *cfg, const char *directory, Error *err);

/*
 * The model alone; training: with gradients and moments. cfg: NULL, or settings to be used instead
 * of the folder's (another context, say); the shapes of the weights must come out the same.
 */
int checkpoint_load_model(Model *model, Context *ctx, const char *directory, const ModelConfig *cfg,
                          bool training, Error *err);

/* The tokenizer alone, for a model of these settings. NULL and a message. */
Tokenizer *checkpoint_load_tokenizer(const ModelConfig *cfg, const char *directory, Error *err);

#endif
