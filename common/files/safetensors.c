/*
 * Reading safetensors.
 *
 * Three passes: (1) each entry of the header becomes an Entry whose bytes lie inside the data and
 * whose size is shape x dtype; (2) sorted by offset, the entries must tile the data without hole or
 * overlap; (3) sorted by name, no two are equal. Only then is data looked at.
 */
#include "common/files/safetensors.h"

#include "common/core/memory.h"
#include "common/files/files.h"
#include "common/files/json.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, MAX_HEADER = 100000000 };

typedef struct Entry {
    Tensor tensor; /* data is set last */
    int64_t begin, end;
    bool copied; /* data is our own memory, not the file's */
} Entry;

struct SafeTensors {
    MappedFile file;
    char *path;
    cJSON *header;  /* owns the names */
    Entry *entries; /* in order of offsets */
    Entry **by_name;
    int count;
};

/* ---- pass 1: one entry ---- */

/* All that the format has; those of dtype.h can be read. */
static bool is_of_the_format(const char *dtype) {
    static const char *const names[] = {"F64",  "I16", "U16", "U32",     "U64",
                                        "BOOL", "C64", "F4",  "F6_E2M3", "F6_E3M2"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(dtype, names[i])) return true;
    return false;
}

static int read_dtype(const SafeTensors *file, const cJSON *item, Entry *entry, Error *err) {
    const char *text = cJSON_GetStringValue(item);
    if (!text)
        return error_set(err, "%s: tensor '%s' has no dtype", file->path,
                         name_text(entry->tensor.name).text);
    for (int d = 0; d < DTYPE_COUNT; d++) {
        if (d == I4 || strcmp(text, dtype_name((DType)d)) != 0) continue; /* I4: no file's */
        entry->tensor.dtype = (DType)d;
        return 0;
    }
    return error_set(err, "%s: tensor '%s' has dtype %s, which %s", file->path,
                     name_text(entry->tensor.name).text, name_text(text).text,
                     is_of_the_format(text) ? "is not one that can be read here"
                                            : "safetensors does not know");
}

/* Fills the shape; *bytes = product of the sizes x bytes of one element. */
static int read_shape(const SafeTensors *file, const cJSON *item, Entry *entry, int64_t *bytes,
                      Error *err) {
    Tensor *t = &entry->tensor;
    NameText name = name_text(t->name);
    if (!cJSON_IsArray(item))
        return error_set(err, "%s: tensor '%s' has no shape", file->path, name.text);
    *bytes = (int64_t)dtype_size(t->dtype);
    for (int i = 0; i < MAX_DIMS; i++) t->shape[i] = 1;
    const cJSON *size;
    cJSON_ArrayForEach(size, item) {
        if (t->ndim == MAX_DIMS)
            return error_set(err, "%s: tensor '%s' has more than %d dimensions", file->path,
                             name.text, MAX_DIMS);
        int64_t n;
        if (!json_integer(size, 0, INT64_MAX, &n))
            return error_set(err, "%s: size %d of tensor '%s' is not a whole number in 0 .. 2^53",
                             file->path, t->ndim, name.text);
        if (__builtin_mul_overflow(*bytes, n, bytes))
            return error_set(err, "%s: tensor '%s' would have more than 2^63 bytes", file->path,
                             name.text);
        t->shape[t->ndim++] = n;
    }
    return 0;
}

static int read_offsets(const SafeTensors *file, const cJSON *item, Entry *entry, int64_t bytes,
                        int64_t data_size, Error *err) {
    NameText name = name_text(entry->tensor.name);
    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != 2 ||
        !json_integer(item->child, 0, INT64_MAX, &entry->begin) ||
        !json_integer(item->child->next, 0, INT64_MAX, &entry->end))
        return error_set(err, "%s: data_offsets of tensor '%s' are not two whole numbers",
                         file->path, name.text);
    if (entry->begin > entry->end)
        return error_set(err, "%s: tensor '%s' ends (%lld) before it begins (%lld)", file->path,
                         name.text, (long long)entry->end, (long long)entry->begin);
    if (entry->end - entry->begin != bytes)
        return error_set(err, "%s: tensor '%s' is %s %s, which is %lld bytes, but has %lld",
                         file->path, name.text, dtype_name(entry->tensor.dtype),
                         shape_text(&entry->tensor).text, (long long)bytes,
                         (long long)(entry->end - entry->begin));
    if (entry->end > data_size)
        return error_set(err,
                         "%s: tensor '%s' ends at byte %lld of the data, but the file has only "
                         "%lld: it is incomplete",
                         file->path, name.text, (long long)entry->end, (long long)data_size);
    return 0;
}

static int read_entry(const SafeTensors *file, const cJSON *item, Entry *entry, int64_t data_size,
                      Error *err) {
    NameText name = name_text(item->string);
    entry->tensor.name = item->string;
    entry->tensor.device = CPU;
    if (!cJSON_IsObject(item))
        return error_set(err, "%s: the entry of tensor '%s' is not an object", file->path,
                         name.text);
    const char *twice = json_duplicate(item);
    if (twice)
        return error_set(err, "%s: tensor '%s' has '%s' twice", file->path, name.text,
                         name_text(twice).text);
    int64_t bytes = 0;
    if (read_dtype(file, cJSON_GetObjectItemCaseSensitive(item, "dtype"), entry, err) < 0 ||
        read_shape(file, cJSON_GetObjectItemCaseSensitive(item, "shape"), entry, &bytes, err) < 0)
        return -1;
    return read_offsets(file, cJSON_GetObjectItemCaseSensitive(item, "data_offsets"), entry, bytes,
                        data_size, err);
}

static int check_metadata(const SafeTensors *file, const cJSON *metadata, Error *err) {
    if (cJSON_IsNull(metadata)) return 0; /* as if there were none */
    if (!cJSON_IsObject(metadata))
        return error_set(err, "%s: __metadata__ is not an object", file->path);
    const cJSON *item;
    cJSON_ArrayForEach(item, metadata) {
        if (!cJSON_IsString(item))
            return error_set(err, "%s: '%s' in __metadata__ is not a string", file->path,
                             name_text(item->string).text);
    }
    const char *twice = json_duplicate(metadata);
    if (twice)
        return error_set(err, "%s: __metadata__ has '%s' twice", file->path, name_text(twice).text);
    return 0;
}

/* ---- pass 2 and 3: all entries together ---- */

/* Empty tensors come before the one that begins at the same byte. */
static int compare_offsets(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name);
}

static int check_tiling(const SafeTensors *file, int64_t data_size, Error *err) {
    int64_t covered = 0;
    for (int i = 0; i < file->count; i++) {
        const Entry *entry = &file->entries[i];
        NameText name = name_text(entry->tensor.name);
        if (entry->begin < covered)
            return error_set(err, "%s: tensors '%s' and '%s' overlap", file->path,
                             name_text(file->entries[i - 1].tensor.name).text, name.text);
        if (entry->begin > covered)
            return error_set(err, "%s: %lld bytes before tensor '%s' belong to no tensor",
                             file->path, (long long)(entry->begin - covered), name.text);
        covered = entry->end;
    }
    if (covered < data_size)
        return error_set(err, "%s: %lld bytes at the end belong to no tensor", file->path,
                         (long long)(data_size - covered));
    return 0;
}

static int compare_entry_names(const void *a, const void *b) {
    return strcmp((*(Entry *const *)a)->tensor.name, (*(Entry *const *)b)->tensor.name);
}

static int check_names(SafeTensors *file, Error *err) {
    for (int i = 0; i < file->count; i++) file->by_name[i] = &file->entries[i];
    qsort(file->by_name, (size_t)file->count, sizeof *file->by_name, compare_entry_names);
    for (int i = 1; i < file->count; i++)
        if (compare_entry_names(&file->by_name[i - 1], &file->by_name[i]) == 0)
            return error_set(err, "%s: there are two tensors '%s'", file->path,
                             name_text(file->by_name[i]->tensor.name).text);
    return 0;
}

/* ---- the file ---- */

/*
 * What cJSON lets pass and the library does not: raw control characters in names; and numbers that
 * are not written as whole ones, 1.0 or 1e0 or -0 or 01. NULL, or what is wrong at *where.
 */
static const char *check_spelling(const char *text, size_t size, size_t *where) {
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i], before = i ? (unsigned char)text[i - 1] : 0;
        bool number = c >= '0' && c <= '9', inside = before >= '0' && before <= '9';
        *where = i;
        if (quoted && c < 0x20) return "a control character in a name";
        if (quoted && c == '\\')
            i++;
        else if (c == '"')
            quoted = !quoted;
        else if (!quoted &&
                 ((inside && (c == '.' || c == 'e' || c == 'E')) || (c == '0' && before == '-') ||
                  (number && before == '0' && !(i > 1 && isdigit((unsigned char)text[i - 2])))))
            return "a number that is not written as a whole one";
    }
    return NULL;
}

/* The header's JSON; *data is where it ends and the data begins. */
static int read_header(SafeTensors *file, size_t *data, Error *err) {
    const unsigned char *bytes = (const unsigned char *)file->file.data;
    if (file->file.size < LENGTH_BYTES)
        return error_set(err, "%s: only %zu bytes, too short for a safetensors file", file->path,
                         file->file.size);
    uint64_t length = 0;
    for (int i = 0; i < LENGTH_BYTES; i++) length |= (uint64_t)bytes[i] << (8 * i);
    if (length > MAX_HEADER)
        return error_set(err,
                         "%s: a header of %llu bytes is longer than the %d allowed: this is not a "
                         "safetensors file",
                         file->path, (unsigned long long)length, MAX_HEADER);
    if (length > file->file.size - LENGTH_BYTES)
        return error_set(err, "%s: the header should have %llu bytes, but the file has only %zu",
                         file->path, (unsigned long long)length, file->file.size - LENGTH_BYTES);
    const char *header = file->file.data + LENGTH_BYTES;
    size_t first = 0;
    while (first < length && header[first] && strchr(" \t\r\n", header[first])) first++;
    if (first == length || header[first] != '{')
        return error_set(err, "%s: the header does not begin with '{'", file->path);
    char what[600];
    snprintf(what, sizeof what, "%.560s: header", file->path);
    file->header = json_parse(what, header, (size_t)length, err);
    if (!file->header) return -1;
    size_t where;
    const char *problem = check_spelling(header, (size_t)length, &where);
    if (problem) return error_set(err, "%s: %s at byte %zu", what, problem, where + 1);
    *data = LENGTH_BYTES + (size_t)length;
    return 0;
}

static int read_entries(SafeTensors *file, int64_t data_size, Error *err) {
    size_t room = (size_t)cJSON_GetArraySize(file->header);
    file->entries = must_alloc(room, sizeof *file->entries);
    file->by_name = must_alloc(room, sizeof *file->by_name);
    bool metadata = false;
    const cJSON *item;
    cJSON_ArrayForEach(item, file->header) {
        if (strcmp(item->string, "__metadata__") == 0) {
            if (metadata) return error_set(err, "%s: __metadata__ is there twice", file->path);
            metadata = true;
            if (check_metadata(file, item, err) < 0) return -1;
        } else {
            if (read_entry(file, item, &file->entries[file->count], data_size, err) < 0) return -1;
            file->count++;
        }
    }
    qsort(file->entries, (size_t)file->count, sizeof *file->entries, compare_offsets);
    if (check_names(file, err) < 0) return -1;
    return check_tiling(file, data_size, err);
}

/* Points each tensor at its bytes. A float at an odd address is undefined in C: such get a copy. */
static void attach_data(SafeTensors *file, const char *data) {
    for (int i = 0; i < file->count; i++) {
        Entry *entry = &file->entries[i];
        const char *bytes = data + entry->begin;
        size_t size = (size_t)(entry->end - entry->begin);
        if ((uintptr_t)bytes % dtype_size(entry->tensor.dtype) != 0) {
            bytes = memcpy(must_alloc(size, 1), bytes, size);
            entry->copied = true;
        }
        entry->tensor.data = (void *)bytes;
    }
}

SafeTensors *safetensors_open(const char *path, Error *err) {
    SafeTensors *file = must_alloc(1, sizeof *file);
    file->path = must_strdup(path);
    size_t data;
    if (file_map(&file->file, path, err) < 0 || read_header(file, &data, err) < 0 ||
        read_entries(file, (int64_t)(file->file.size - data), err) < 0) {
        safetensors_close(file);
        return NULL;
    }
    attach_data(file, file->file.data + data);
    return file;
}

void safetensors_close(SafeTensors *file) {
    if (!file) return;
    for (int i = 0; i < file->count; i++)
        if (file->entries[i].copied) free(file->entries[i].tensor.data);
    free(file->entries);
    free(file->by_name);
    cJSON_Delete(file->header);
    file_unmap(&file->file);
    free(file->path);
    free(file);
}

int safetensors_count(const SafeTensors *file) { return file->count; }

const Tensor *safetensors_at(const SafeTensors *file, int i) {
    CHECK(i >= 0 && i < file->count, "%s has %d tensors, no tensor %d", file->path, file->count, i);
    return &file->entries[i].tensor;
}

const Tensor *safetensors_find(const SafeTensors *file, const char *name) {
    Entry wanted = {.tensor.name = name}, *key = &wanted;
    Entry **found = bsearch(&key, file->by_name, (size_t)file->count, sizeof *file->by_name,
                            compare_entry_names);
    return found ? &(*found)->tensor : NULL;
}

const Tensor *safetensors_get(const SafeTensors *file, const char *name, const int64_t *shape,
                              int ndim, Error *err) {
    const Tensor *t = safetensors_find(file, name);
    if (!t) {
        error_set(err, "%s: there is no tensor '%s'", file->path, name);
        return NULL;
    }
    bool fits = t->ndim == ndim;
    for (int i = 0; fits && i < ndim; i++) fits = shape[i] < 0 || shape[i] == t->shape[i];
    if (fits) return t;
    Tensor wanted = {.ndim = ndim};
    memcpy(wanted.shape, shape, (size_t)ndim * sizeof *shape);
    error_set(err, "%s: tensor '%s' has shape %s, but %s is needed", file->path, name,
              shape_text(t).text, shape_text(&wanted).text);
    return NULL;
}

const char *safetensors_metadata(const SafeTensors *file, const char *key) {
    const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(file->header, "__metadata__");
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(metadata, key));
}

const char *safetensors_path(const SafeTensors *file) { return file->path; }
