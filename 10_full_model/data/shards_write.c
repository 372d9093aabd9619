/*
 * Shards, written one at a time, each as a whole: until it is closed it has another name, and
 * only the index, which comes last, says that they are all there.
 */
#include "10_full_model/data/shards.h"

#include "10_full_model/data/shards_format.h"
#include "common/core/memory.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const shard_part_names[SHARD_PARTS] = {"train", "validation"};

void shard_writer_init(ShardWriter *w, const char *directory, ShardPart part, int vocab_size,
                       int64_t shard_tokens) {
    *w = (ShardWriter){.part = part, .shard_tokens = shard_tokens};
    w->token_bytes = vocab_size <= 65536 ? 2 : 4;
    CHECK(strlen(directory) < sizeof w->directory, "the path %s is too long", directory);
    strcpy(w->directory, directory);
    w->list = cJSON_CreateArray();
    if (!w->list) fatal("out of memory");
}

static PathText shard_path(const ShardWriter *w, int number) {
    char name[40];
    snprintf(name, sizeof name, "%s-%05d.shard", shard_part_names[w->part], number);
    return file_path(w->directory, name);
}

/* The counts are known only at the end: close_shard() comes back and fills them in. */
static int open_shard(ShardWriter *w, Error *err) {
    if (atomic_open(&w->file, shard_path(w, w->count).text, err)) return -1;
    ShardHeader header = {0};
    fwrite(&header, sizeof header, 1, w->file.stream);
    w->tokens = w->documents = 0;
    return 0;
}

static int list_shard(ShardWriter *w, const char *path, Error *err) {
    MappedFile file;
    if (file_map(&file, path, err)) return -1;
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "file", strrchr(path, '/') + 1);
    cJSON_AddNumberToObject(item, "tokens", (double)w->tokens);
    cJSON_AddNumberToObject(item, "documents", (double)w->documents);
    cJSON_AddNumberToObject(item, "bytes", (double)file.size);
    cJSON_AddStringToObject(item, "hash", hash128_text(hash128(file.data, file.size, 0)).text);
    cJSON_AddItemToArray(w->list, item);
    file_unmap(&file);
    return 0;
}

static int close_shard(ShardWriter *w, Error *err) {
    FILE *stream = w->file.stream;
    static const char zeros[8];
    size_t padding = (size_t)(-(w->tokens * w->token_bytes) & 7);
    fwrite(zeros, 1, padding, stream);
    fwrite(w->starts, sizeof *w->starts, (size_t)w->documents, stream);
    ShardHeader header = {.magic = SHARD_MAGIC,
                          .token_bytes = (uint32_t)w->token_bytes,
                          .tokens = (uint64_t)w->tokens,
                          .documents = (uint64_t)w->documents};
    if (fseek(stream, 0, SEEK_SET) == 0) fwrite(&header, sizeof header, 1, stream);
    if (atomic_commit(&w->file, err)) return -1;
    return list_shard(w, shard_path(w, w->count++).text, err);
}

static void write_ids(ShardWriter *w, const int32_t *ids, size_t count) {
    if (w->token_bytes == 4) {
        fwrite(ids, sizeof *ids, count, w->file.stream);
        return;
    }
    uint16_t narrow[1024];
    for (size_t done = 0; done < count;) {
        size_t n = count - done < 1024 ? count - done : 1024;
        for (size_t i = 0; i < n; i++) narrow[i] = (uint16_t)ids[done + i];
        fwrite(narrow, sizeof *narrow, n, w->file.stream);
        done += n;
    }
}

int shard_write(ShardWriter *w, const int32_t *ids, size_t count, int64_t text_bytes, Error *err) {
    if (!w->file.stream && open_shard(w, err)) return -1;
    w->starts = grow(w->starts, &w->starts_capacity, (size_t)w->documents + 1, sizeof *w->starts);
    w->starts[w->documents++] = (uint64_t)w->tokens;
    write_ids(w, ids, count);
    w->tokens += (int64_t)count;
    w->total_documents++;
    w->total_tokens += (int64_t)count;
    w->total_bytes += text_bytes;
    if (ferror((FILE *)w->file.stream)) { /* now: at the shard's end errno is lost */
        int code = errno;
        atomic_abandon(&w->file);
        return error_set(err, "cannot write %s: %s", w->file.path, strerror(code));
    }
    return w->tokens >= w->shard_tokens ? close_shard(w, err) : 0;
}

cJSON *shard_writer_finish(ShardWriter *w, Error *err) {
    if (w->file.stream && close_shard(w, err)) return NULL;
    cJSON *part = cJSON_CreateObject();
    cJSON_AddNumberToObject(part, "documents", (double)w->total_documents);
    cJSON_AddNumberToObject(part, "tokens", (double)w->total_tokens);
    cJSON_AddNumberToObject(part, "text_bytes", (double)w->total_bytes);
    cJSON_AddItemToObject(part, "shards", w->list);
    w->list = NULL;
    return part;
}

void shard_writer_free(ShardWriter *w, bool remove) {
    atomic_abandon(&w->file);
    for (int i = 0; remove && i < w->count; i++) unlink(shard_path(w, i).text);
    cJSON_Delete(w->list);
    free(w->starts);
    *w = (ShardWriter){0};
}

bool shard_file_owned(const char *name) {
    for (int part = 0; part < SHARD_PARTS; part++) {
        size_t n = strlen(shard_part_names[part]);
        if (strncmp(name, shard_part_names[part], n) || name[n] != '-') continue;
        size_t digits = strspn(name + n + 1, "0123456789");
        return digits >= 5 && !strcmp(name + n + 1 + digits, ".shard");
    }
    return false;
}

bool shards_owns(const char *name) {
    return !strcmp(name, SHARD_INDEX) || !strcmp(name, "report.json") ||
           !strcmp(name, "tokenizer.json") || shard_file_owned(name);
}
