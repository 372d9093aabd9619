/*
 * Weights in one file or several, and their numbers as F32.
 */
#include "10_full_model/checkpoint/weight_files.h"

#include "common/core/memory.h"
#include "common/files/files.h"
#include "common/files/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the index ---- */

typedef struct Place {
    const char *name; /* of a tensor */
    const char *file_name;
    int file; /* its number in the list of files */
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

static int compare_files(const void *a, const void *b) {
    return strcmp(((const Place *)a)->file_name, ((const Place *)b)->file_name);
}

/* Sorted by their files the places of one file lie together, and get its number. */
static void number_files(Index *index) {
    qsort(index->places, (size_t)index->count, sizeof *index->places, compare_files);
    for (int i = 0; i < index->count; i++) {
        Place *place = &index->places[i];
        if (i == 0 || compare_files(place, place - 1))
            index->files[index->file_count++] = place->file_name;
        place->file = index->file_count - 1;
    }
    qsort(index->places, (size_t)index->count, sizeof *index->places, compare_places);
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
        index->places[index->count++] = (Place){.name = item->string, .file_name = file};
    }
    number_files(index);
    return 0;
}

/* ---- opening ---- */

/* Does each file hold what the index says, and nothing else? */
static int check_index(const WeightFiles *weights, const Index *index, const char *path,
                       Error *err) {
    for (int i = 0; i < index->count; i++) {
        const Place *place = &index->places[i];
        if (!safetensors_find(weights->files[place->file], place->name))
            return error_set(err, "%s: '%s' should be in %s, but is not", path,
                             name_text(place->name).text, name_text(place->file_name).text);
    }
    for (int f = 0; f < weights->count; f++)
        for (int i = 0; i < safetensors_count(weights->files[f]); i++) {
            Place key = {.name = safetensors_at(weights->files[f], i)->name};
            const Place *place = bsearch(&key, index->places, (size_t)index->count,
                                         sizeof *index->places, compare_places);
            if (!place || place->file != f)
                return error_set(err, "%s: '%s' is in %s, but the index says %s%s", path,
                                 name_text(key.name).text, name_text(index->files[f]).text,
                                 place ? "it is in " : "nothing of it",
                                 place ? name_text(place->file_name).text : "");
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

static int compare_found(const void *a, const void *b) {
    return strcmp(((const FoundWeight *)a)->tensor->name, ((const FoundWeight *)b)->tensor->name);
}

/* All tensors of all files, sorted by name. */
static void list_tensors(WeightFiles *weights) {
    size_t room = 0;
    for (int f = 0; f < weights->count; f++) {
        SafeTensors *file = weights->files[f];
        for (int i = 0; i < safetensors_count(file); i++) {
            weights->found = grow(weights->found, &room, (size_t)weights->found_count + 1,
                                  sizeof *weights->found);
            weights->found[weights->found_count++] =
                (FoundWeight){safetensors_at(file, i), safetensors_path(file)};
        }
    }
    if (weights->found_count)
        qsort(weights->found, (size_t)weights->found_count, sizeof *weights->found, compare_found);
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
    list_tensors(weights);
    if (status) weight_files_close(weights);
    return status;
}

void weight_files_close(WeightFiles *weights) {
    for (int i = 0; i < weights->count; i++) safetensors_close(weights->files[i]);
    free(weights->files);
    free(weights->found);
    *weights = (WeightFiles){0};
}

const Tensor *weight_files_find(const WeightFiles *weights, const char *name, const char **path) {
    Tensor wanted = {.name = name};
    FoundWeight key = {.tensor = &wanted};
    if (!weights->found_count) return NULL;
    const FoundWeight *found = bsearch(&key, weights->found, (size_t)weights->found_count,
                                       sizeof *weights->found, compare_found);
    if (found && path) *path = found->path;
    return found ? found->tensor : NULL;
}

bool weight_file_owned(const char *name) {
    int part, parts, end = 0;
    if (!strcmp(name, WEIGHTS_FILE) || !strcmp(name, WEIGHTS_INDEX)) return true;
    if (!strncmp(name, "model-", 6))
        name += 6;
    else if (!strncmp(name, "weights-", 8))
        name += 8;
    else
        return false;
    return strspn(name, "0123456789") == 5 &&
           sscanf(name, "%5d-of-%5d.safetensors%n", &part, &parts, &end) == 2 && end && !name[end];
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
