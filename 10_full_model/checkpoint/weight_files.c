/*
 * Weights in one file or several, and their numbers as F32.
 */
#include "10_full_model/checkpoint/weight_files.h"

#include "common/core/memory.h"
#include "common/files/files.h"
#include "common/files/json.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the index ---- */

typedef struct Place {
    const char *name; /* of a tensor */
    int file;
} Place;

typedef struct Index {
    cJSON *json; /* owns the names */
    const char **files;
    int file_count;
    Place *places; /* sorted by name */
    int count;
} Index;

static void index_free(Index *index) {
    cJSON_Delete(index->json);
    free(index->files);
    free(index->places);
    *index = (Index){0};
}

static int compare_places(const void *a, const void *b) {
    return strcmp(((const Place *)a)->name, ((const Place *)b)->name);
}

/* The number of a file, a new one at the end of the list. Entries of one file follow each other
 * as a rule. */
static int file_number(Index *index, const char *file) {
    for (int i = index->file_count - 1; i >= 0; i--)
        if (!strcmp(index->files[i], file)) return i;
    index->files[index->file_count] = file;
    return index->file_count++;
}

static int index_read(Index *index, const char *path, Error *err) {
    *index = (Index){.json = json_load(path, err)};
    if (!index->json) return -1;
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(index->json, "weight_map"), *item;
    if (!cJSON_IsObject(map) || !map->child)
        return error_set(err, "%s: there is no weight_map, or it is empty", path);
    size_t entries = (size_t)cJSON_GetArraySize(map);
    index->places = must_alloc(entries, sizeof *index->places);
    index->files = must_alloc(entries, sizeof *index->files);
    cJSON_ArrayForEach(item, map) {
        const char *file = cJSON_GetStringValue(item);
        if (!file || !*file)
            return error_set(err, "%s: '%s' has no file name", path, name_text(item->string).text);
        if (strchr(file, '/'))
            return error_set(err, "%s: '%s' is in '%s', but files of a model lie beside the index",
                             path, name_text(item->string).text, name_text(file).text);
        index->places[index->count++] =
            (Place){.name = item->string, .file = file_number(index, file)};
    }
    qsort(index->places, (size_t)index->count, sizeof *index->places, compare_places);
    return 0;
}

int weight_index_files(const char *path, char ***names, int *count, Error *err) {
    Index index;
    int status = index_read(&index, path, err);
    *names = NULL;
    *count = 0;
    if (!status) {
        *names = must_alloc((size_t)index.file_count, sizeof **names);
        for (int i = 0; i < index.file_count; i++)
            (*names)[(*count)++] = must_strdup(index.files[i]);
    }
    index_free(&index);
    return status;
}

/* ---- opening ---- */

/* Does each file hold what the index says, and nothing else? */
static int check_index(const WeightFiles *weights, const Index *index, const char *path,
                       Error *err) {
    for (int i = 0; i < index->count; i++) {
        const Place *place = &index->places[i];
        if (!safetensors_find(weights->files[place->file], place->name))
            return error_set(err, "%s: '%s' should be in %s, but is not", path,
                             name_text(place->name).text, index->files[place->file]);
    }
    for (int f = 0; f < weights->count; f++)
        for (int i = 0; i < safetensors_count(weights->files[f]); i++) {
            Place key = {.name = safetensors_at(weights->files[f], i)->name};
            const Place *place = bsearch(&key, index->places, (size_t)index->count,
                                         sizeof *index->places, compare_places);
            if (!place || place->file != f)
                return error_set(err, "%s: '%s' is in %s, but the index says %s%s", path,
                                 name_text(key.name).text, index->files[f],
                                 place ? "it is in " : "nothing of it",
                                 place ? index->files[place->file] : "");
        }
    return 0;
}

static int open_shards(WeightFiles *weights, const char *directory, const char *index_path,
                       Error *err) {
    Index index;
    int status = index_read(&index, index_path, err);
    if (!status) weights->files = must_alloc((size_t)index.file_count, sizeof *weights->files);
    for (int i = 0; i < index.file_count && !status; i++) {
        PathText path = file_path(directory, index.files[i]);
        if (access(path.text, F_OK)) {
            status = error_set(err,
                               "%s names %s, but there is no such file: part of the model is "
                               "missing",
                               index_path, name_text(index.files[i]).text);
        } else {
            weights->files[i] = safetensors_open(path.text, err);
            status = weights->files[i] ? 0 : -1;
            weights->count += !status;
        }
    }
    if (!status) status = check_index(weights, &index, index_path, err);
    index_free(&index);
    return status;
}

int weight_files_open(WeightFiles *weights, const char *directory, Error *err) {
    PathText path = file_path(directory, WEIGHTS_FILE), index = file_path(directory, WEIGHTS_INDEX);
    *weights = (WeightFiles){0};
    int status = 0;
    if (access(path.text, F_OK) && !access(index.text, F_OK)) {
        status = open_shards(weights, directory, index.text, err);
    } else {
        weights->files = must_alloc(1, sizeof *weights->files);
        weights->files[0] = safetensors_open(path.text, err);
        status = weights->files[0] ? 0 : -1;
        weights->count = !status;
    }
    if (status) weight_files_close(weights);
    return status;
}

void weight_files_close(WeightFiles *weights) {
    for (int i = 0; i < weights->count; i++) safetensors_close(weights->files[i]);
    free(weights->files);
    *weights = (WeightFiles){0};
}

const Tensor *weight_files_find(const WeightFiles *weights, const char *name, const char **path) {
    for (int i = 0; i < weights->count; i++) {
        const Tensor *t = safetensors_find(weights->files[i], name);
        if (path) *path = safetensors_path(weights->files[i]);
        if (t) return t;
    }
    return NULL;
}

/* ---- numbers ---- */

bool weight_readable(const Tensor *t) {
    return t->dtype == F32 || t->dtype == BF16 || t->dtype == F16;
}

void weight_read(float *out, const Tensor *t, int64_t offset, int64_t count) {
    CHECK(weight_readable(t) && offset >= 0 && offset + count <= tensor_count(t),
          "weight_read: %lld numbers from %lld of %s %s %s", (long long)count, (long long)offset,
          dtype_name(t->dtype), t->name, shape_text(t).text);
    const float *wide = (const float *)t->data + offset;
    const uint16_t *half = (const uint16_t *)t->data + offset;
    if (t->dtype == F32) {
        memcpy(out, wide, (size_t)count * sizeof *out);
        return;
    }
    bool bf16 = t->dtype == BF16;
#pragma omp parallel for if (count > 1 << 16)
    for (int64_t i = 0; i < count; i++)
        out[i] = bf16 ? bf16_to_float(half[i]) : f16_to_float(half[i]);
}
