/*
 * Writing safetensors.
 *
 * The order in the file is by falling element size (stable): as the data begins at a multiple of 8,
 * every tensor is then aligned to its element without padding, which the format would call a hole.
 */
#include "common/files/files.h"

#include "common/core/memory.h"
#include "common/files/json.h"
#include "common/files/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 8, MAX_HEADER = 100000000, MAX_WIDTH = 8 };

/* Positions in `tensors`, wider elements first. */
static int *order_of(const Tensor *tensors, int count) {
    int *order = must_alloc((size_t)count + 1, sizeof *order), n = 0;
    for (size_t width = MAX_WIDTH; width > 0; width /= 2)
        for (int i = 0; i < count; i++)
            if (dtype_size(tensors[i].dtype) == width) order[n++] = i;
    CHECK(n == count, "a dtype is not 1, 2, 4 or 8 bytes wide");
    return order;
}

static void add_metadata(cJSON *header, const KeyValue *metadata, int count) {
    cJSON *object = cJSON_AddObjectToObject(header, "__metadata__");
    for (int i = 0; i < count; i++)
        cJSON_AddStringToObject(object, metadata[i].key, metadata[i].value);
    if (!cJSON_GetObjectItemCaseSensitive(object, "format"))
        cJSON_AddStringToObject(object, "format", "pt"); /* transformers refuses files without */
}

static void add_entry(cJSON *header, const Tensor *t, int64_t begin) {
    cJSON *entry = cJSON_AddObjectToObject(header, t->name);
    cJSON_AddStringToObject(entry, "dtype", dtype_name(t->dtype));
    cJSON *shape = cJSON_AddArrayToObject(entry, "shape");
    for (int i = 0; i < t->ndim; i++)
        cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)t->shape[i]));
    cJSON *offsets = cJSON_AddArrayToObject(entry, "data_offsets");
    cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)begin));
    cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)begin + (double)tensor_bytes(t)));
}

/* The header's text (cJSON_free() it), checked as a reader would. */
static char *header_text(const char *path, const Tensor *tensors, const int *order, int count,
                         const KeyValue *metadata, int metadata_count, Error *err) {
    cJSON *header = cJSON_CreateObject();
    add_metadata(header, metadata, metadata_count);
    int64_t offset = 0;
    for (int i = 0; i < count; i++) {
        const Tensor *t = &tensors[order[i]];
        CHECK(t->device == CPU, "safetensors_write: '%s' is not in CPU memory", t->name);
        add_entry(header, t, offset);
        offset += (int64_t)tensor_bytes(t);
    }
    const char *twice = json_duplicate(header);
    CHECK(!twice, "safetensors_write: two tensors are called '%s'", twice);

    /* Reading it back finds names and metadata that are not UTF-8. */
    char what[600];
    snprintf(what, sizeof what, "cannot write %.500s: its header would be broken", path);
    char *text = cJSON_PrintUnformatted(header);
    cJSON *back = text ? json_parse(what, text, strlen(text), err) : NULL;
    if (!text) error_set(err, "cannot write %s: not enough memory for its header", path);
    bool good = back && cJSON_GetArraySize(back) == count + 1;
    if (back && !good) error_set(err, "%s", what);
    cJSON_Delete(back);
    cJSON_Delete(header);
    if (!good) {
        cJSON_free(text);
        return NULL;
    }
    return text;
}

static void write_file(FILE *stream, const char *header, const Tensor *tensors, const int *order,
                       int count) {
    size_t length = strlen(header);
    size_t padded = (length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    unsigned char size[8];
    for (int i = 0; i < 8; i++) size[i] = (unsigned char)((uint64_t)padded >> (8 * i));
    fwrite(size, 1, sizeof size, stream);
    fprintf(stream, "%s%*s", header, (int)(padded - length), "");
    for (int i = 0; i < count; i++) {
        const Tensor *t = &tensors[order[i]];
        size_t bytes = tensor_bytes(t);
        if (bytes) fwrite(t->data, 1, bytes, stream);
    }
}

int safetensors_write(const char *path, const Tensor *tensors, int count, const KeyValue *metadata,
                      int metadata_count, Error *err) {
    AtomicFile file;
    int *order = order_of(tensors, count);
    char *header = header_text(path, tensors, order, count, metadata, metadata_count, err);
    int result = -1;
    if (header && strlen(header) > MAX_HEADER)
        error_set(err, "cannot write %s: its header would be longer than %d bytes", path,
                  MAX_HEADER);
    else if (header && atomic_open(&file, path, err) == 0) {
        write_file(file.stream, header, tensors, order, count);
        result = atomic_commit(&file, err);
    }
    cJSON_free(header);
    free(order);
    return result;
}
