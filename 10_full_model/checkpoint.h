/*
 * A model as a folder: config.json, model.safetensors, tokenizer.json.
 *
 * Each file is replaced by renaming, so whatever stops a save (a full disk, a signal) leaves a whole file of before.
 */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "model.h"

#include "../common/tokenizer.h"

/* The weights, as F32, to DIRECTORY/model.safetensors; `step` goes into the metadata. */
int checkpoint_save_weights(Model *model, const char *directory, int64_t step, Error *err);

/* What does not change while training: config.json and tokenizer.json. Creates the folder. */
int checkpoint_save_setup(const ModelConfig *cfg, const Tokenizer *tokenizer, const char *directory,
                          Error *err);

/*
 * Opens a folder: fills model (for inference) and *tokenizer. Every weight must be there with its shape; tokenizer and
 * model must agree on the size of the vocabulary. On error nothing is left allocated.
 */
int checkpoint_load(Model *model, Tokenizer **tokenizer, Context *ctx, const char *directory,
                    Error *err);

#endif
