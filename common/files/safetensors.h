/*
 * safetensors: the file format of Hugging Face's weights.
 *
 *     u64 N (little-endian) | N bytes of JSON | data
 *
 *     {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
 *      "__metadata__": {"key": "value", ...}}           offsets count from the start of the data
 *
 * Reading maps the file: tensors point into it, nothing is copied (except a tensor that does not
 * begin at a multiple of its element's size, which C could not read in place).
 *
 * What opens is what Hugging Face's library opens (compared with its version 0.8.0), but for names
 * that are there twice, of which it silently takes the last; names with a zero character; and what
 * Tensor cannot describe (see below).
 *
 * The reader trusts nothing. A header longer than the file or than 100,000,000 bytes, duplicate
 * names, sizes that do not match shape and dtype, holes, overlaps and trailing bytes are refused
 * with a message that names the file and the tensor. What opens is therefore safe to use: every
 * byte of every tensor is there, and belongs to it alone.
 *
 * Writing goes through an AtomicFile (files.h): the old file or the new one, never half of one.
 */
#ifndef COMMON_SAFETENSORS_H
#define COMMON_SAFETENSORS_H

#include "common/core/error.h"
#include "common/core/tensor.h"

typedef struct SafeTensors SafeTensors;

/*
 * NULL and a message if the file cannot be read or breaks the format, or holds what Tensor cannot
 * describe: more than four dimensions, or a dtype that tensor.h does not know (F64, BOOL, ...).
 */
SafeTensors *safetensors_open(const char *path, Error *err);
void safetensors_close(SafeTensors *file); /* all its tensors and texts go with it; NULL is fine */

/* The tensors are on the CPU and read-only: writing to their data ends the program. */
int safetensors_count(const SafeTensors *file);
const Tensor *safetensors_at(const SafeTensors *file, int i); /* in order of their offsets */
const Tensor *safetensors_find(const SafeTensors *file, const char *name); /* NULL if absent */

/* Like find, but an absent name or another shape (-1 matches any size) is an error. */
const Tensor *safetensors_get(const SafeTensors *file, const char *name, const int64_t *shape,
                              int ndim, Error *err);

const char *safetensors_metadata(const SafeTensors *file, const char *key); /* NULL if absent */
const char *safetensors_path(const SafeTensors *file);

typedef struct KeyValue {
    const char *key, *value;
} KeyValue;

/*
 * Writes `count` tensors (CPU memory) and the metadata pairs; {"format": "pt"} is added unless they
 * say otherwise. In the file, wider dtypes come first, so that every tensor is aligned; tensors of
 * one width keep their order. Returns 0, or -1 and a message; then `path` is untouched and no
 * temporary file is left.
 */
int safetensors_write(const char *path, const Tensor *tensors, int count, const KeyValue *metadata,
                      int metadata_count, Error *err);

#endif
