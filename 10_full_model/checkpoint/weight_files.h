/*
 * The weights of a folder as one set, in however many files they lie:
 *
 *     model.safetensors                   or, for large models,
 *     model.safetensors.index.json        {"metadata": {...}, "weight_map": {NAME: FILE, ...}}
 *     model-00001-of-00002.safetensors    and so on: the FILEs
 *
 * If both are there, model.safetensors counts, as in transformers. What opens keeps its
 * promises: every file that the index names is there, and holds just the tensors that the index
 * says it holds.
 */
#ifndef WEIGHT_FILES_H
#define WEIGHT_FILES_H

#include "common/files/safetensors.h"

#define WEIGHTS_FILE  "model.safetensors"
#define WEIGHTS_INDEX "model.safetensors.index.json"

typedef struct FoundWeight {
    const Tensor *tensor;
    const char *path; /* of its file */
} FoundWeight;

typedef struct WeightFiles {
    SafeTensors **files;
    int count;
    FoundWeight *found; /* all tensors, sorted by name */
    int found_count;
} WeightFiles;

int weight_files_open(WeightFiles *weights, const char *directory, Error *err);
void weight_files_close(WeightFiles *weights); /* zeros, or closed before: fine */

/* The tensor, and the path of its file if path is not NULL; NULL if there is none of this name. */
const Tensor *weight_files_find(const WeightFiles *weights, const char *name, const char **path);

/*
 * out[i] = the i-th of `count` numbers of t from `offset` on, as F32. t's dtype must be one that
 * weight_readable() names: F32, BF16 or F16.
 */
bool weight_readable(const Tensor *t);
void weight_read(float *out, const Tensor *t, int64_t offset, int64_t count);

/*
 * Is it a name under which this program writes weights: one of the two above, or
 * "model-00001-of-00002.safetensors"? (And "weights-...", as some of its versions did.)
 */
bool weight_file_owned(const char *name);

#endif
