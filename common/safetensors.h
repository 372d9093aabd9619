/*
 * safetensors: the file format of Hugging Face's weights.
 *
 *     u64 N (little-endian) | N bytes of JSON, {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} | data
 *
 * Reading maps the file: tensors point into it, nothing is copied. The reader trusts nothing: a header longer than the
 * file or than 100,000,000 bytes, duplicate names, sizes that do not match shape and dtype, holes, overlaps and trailing bytes
 * are refused with a message that names the file and the tensor.
 * Writing goes to a temporary file beside the target, which is flushed to disk and then renamed: whoever opens the name sees the old file or the
 * new one, never half of one.
 */
#ifndef COMMON_SAFETENSORS_H
#define COMMON_SAFETENSORS_H

#include "error.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SafeTensors SafeTensors;

/* NULL and a message if the file cannot be read or breaks the format. */
SafeTensors *safetensors_open(const char *path, Error *err);
void safetensors_close(SafeTensors *file);

int safetensors_count(const SafeTensors *file);
const Tensor *safetensors_at(const SafeTensors *file, int i); /* in order of their offsets */
const Tensor *safetensors_find(const SafeTensors *file, const char *name); /* NULL if absent */
/* Like find, but an absent name or another shape is an error that names what was expected. */
const Tensor *safetensors_get(const SafeTensors *file, const char *name, const int64_t *shape,
                              int ndim, Error *err);
const char *safetensors_metadata(const SafeTensors *file, const char *key); /* NULL if absent */
const char *safetensors_path(const SafeTensors *file);

typedef struct KeyValue {
    const char *key, *value;
} KeyValue;

/*
 * Writes `count` tensors (CPU memory) and the metadata pairs. {"format": "pt"} is always there. Returns 0, or -1 and a
 * message; then `path` is untouched and no temporary file is left.
 */
int safetensors_write(const char *path, const Tensor *tensors, int count, const KeyValue *metadata,
                      int metadata_count, Error *err);

#ifdef __cplusplus
}
#endif
#endif
