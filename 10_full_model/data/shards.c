/*
 * Opening and reading. Every shard is mapped; its head, its size and the index must agree, and with
 * `verify` its hash and the places of the end-of-text tokens, too. A position counts tokens over
 * all shards of a part; the shard that holds it is found by bisection. The order of an epoch's
 * windows is computed, not stored: shuffled() is one to one.
 */
#include "10_full_model/data/shards.h"

#include "10_full_model/data/shards_format.h"
#include "common/core/memory.h"
#include "common/core/rng.h"
#include "common/files/replacement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Streams that no operation of a model takes: those count up from 0. */
static const uint64_t EPOCH_STREAM = 3ull << 62;

static const char FORMAT[] = "deepseek shards"; /* of the index */

/* ---- one shard ---- */

/* The size that the counts ask for; they are below 2^48, so nothing overflows. */
static size_t shard_size(int64_t tokens, int64_t documents, int token_bytes) {
    size_t ids = ((size_t)tokens * (size_t)token_bytes + 7) / 8 * 8;
    return sizeof(ShardHeader) + ids + (size_t)documents * sizeof(uint64_t);
}

static int map_shard(const Shards *s, ShardFile *shard, const char *path, Error *err) {
    if (file_map(&shard->file, path, err)) return -1;
    const MappedFile *file = &shard->file;
    ShardHeader header;
    if (file->size < sizeof header)
        return error_set(err, "%s: %zu bytes, not even a shard's head of %zu", path, file->size,
                         sizeof header);
    memcpy(&header, file->data, sizeof header);
    if (memcmp(header.magic, SHARD_MAGIC, sizeof header.magic))
        return error_set(err, "%s is no shard of this version: it does not begin with %s", path,
                         SHARD_MAGIC);
    if (header.token_bytes != (uint32_t)s->token_bytes)
        return error_set(err, "%s: tokens of %u bytes; a vocabulary of %d has %d", path,
                         header.token_bytes, s->vocab_size, s->token_bytes);
    if (header.tokens != (uint64_t)shard->tokens || header.documents != (uint64_t)shard->documents)
        return error_set(
            err, "%s: %llu tokens in %llu documents by its head, but %lld in %lld by " SHARD_INDEX,
            path, (unsigned long long)header.tokens, (unsigned long long)header.documents,
            (long long)shard->tokens, (long long)shard->documents);
    size_t size = shard_size(shard->tokens, shard->documents, s->token_bytes);
    if (file->size != size)
        return error_set(err, "%s: %zu bytes; its tokens and documents need %zu", path, file->size,
                         size);
    shard->ids = file->data + sizeof header;
    shard->starts = (const uint64_t *)(file->data + size) - shard->documents;
    return 0;
}

static int32_t id_at(const void *ids, int token_bytes, int64_t i) {
    return token_bytes == 2 ? ((const uint16_t *)ids)[i] : ((const int32_t *)ids)[i];
}

/* Documents follow each other without gaps, and the end-of-text token stands at their ends only. */
static int verify_shard(const Shards *s, const ShardFile *shard, const char *path, const char *hash,
                        Error *err) {
    HashText is = hash128_text(hash128(shard->file.data, shard->file.size, 0));
    if (strcmp(is.text, hash))
        return error_set(err,
                         "%s was changed after it was written: its hash is %s, not %s; run "
                         "`deepseek data` again",
                         path, is.text, hash);
    int64_t documents = 0;
    uint64_t start = 0;
    for (int64_t i = 0; i < shard->tokens; i++) {
        int32_t id = id_at(shard->ids, s->token_bytes, i);
        if (id < 0 || id >= s->vocab_size)
            return error_set(err, "%s: token %lld has id %d; the vocabulary ends at %d", path,
                             (long long)i, id, s->vocab_size - 1);
        if (id != s->end_of_text) continue;
        if (documents == shard->documents || shard->starts[documents] != start)
            return error_set(err, "%s: document %lld does not begin where the one before ends",
                             path, (long long)documents);
        documents++;
        start = (uint64_t)i + 1;
    }
    if (documents != shard->documents || start != (uint64_t)shard->tokens)
        return error_set(err, "%s: %lld documents end in it, not %lld", path, (long long)documents,
                         (long long)shard->documents);
    return 0;
}

/* ---- the index ---- */

enum { COUNT_BITS = 48 };
static const int64_t MOST = (int64_t)1 << COUNT_BITS;

static int index_number(const cJSON *object, const char *path, const char *key, int64_t low,
                        int64_t high, int64_t *value, Error *err) {
    if (json_integer(cJSON_GetObjectItemCaseSensitive(object, key), low, high, value)) return 0;
    return error_set(err, "%s: \"%s\" should be a whole number from %lld to %lld", path, key,
                     (long long)low, (long long)high);
}

static int open_part(Shards *s, ShardPart part, const cJSON *index, const char *path, bool verify,
                     Error *err) {
    const char *name = shard_part_names[part];
    const cJSON *object = cJSON_GetObjectItemCaseSensitive(index, name);
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "shards"), *item;
    ShardRow *row = &s->parts[part];
    int64_t tokens, documents;
    if (!cJSON_IsArray(list)) return error_set(err, "%s: \"%s\" has no \"shards\"", path, name);
    if (index_number(object, path, "tokens", 0, MOST, &tokens, err) ||
        index_number(object, path, "documents", 0, MOST, &documents, err) ||
        index_number(object, path, "text_bytes", 0, MOST, &row->bytes, err))
        return error_prefix(err, "part %s of ", name);
    row->files = must_alloc((size_t)cJSON_GetArraySize(list), sizeof *row->files);
    cJSON_ArrayForEach(item, list) {
        char file[40];
        snprintf(file, sizeof file, "%s-%05d.shard", name, row->count);
        PathText full = file_path(s->directory, file);
        const cJSON *named = cJSON_GetObjectItemCaseSensitive(item, "file");
        const cJSON *hash = cJSON_GetObjectItemCaseSensitive(item, "hash");
        ShardFile *shard = &row->files[row->count++];
        shard->first = row->tokens;
        shard->first_document = row->documents;
        if (!cJSON_IsString(named) || strcmp(named->valuestring, file) || !cJSON_IsString(hash))
            return error_set(err,
                             "%s: shard %d of \"%s\" should have \"file\": \"%s\" and a \"hash\"",
                             path, row->count - 1, name, file);
        if (index_number(item, path, "tokens", 1, MOST, &shard->tokens, err) ||
            index_number(item, path, "documents", 1, shard->tokens, &shard->documents, err) ||
            map_shard(s, shard, full.text, err) ||
            (verify && verify_shard(s, shard, full.text, hash->valuestring, err)))
            return -1;
        row->tokens += shard->tokens;
        row->documents += shard->documents;
    }
    if (row->tokens == tokens && row->documents == documents) return 0;
    return error_set(err,
                     "%s: \"%s\" has %lld tokens in %lld documents, but its shards %lld in %lld",
                     path, name, (long long)tokens, (long long)documents, (long long)row->tokens,
                     (long long)row->documents);
}

static int check_tokenizer(const Shards *s, const cJSON *index, const char *path, Error *err) {
    PathText tokenizer_path = file_path(s->directory, "tokenizer.json");
    const cJSON *hash = cJSON_GetObjectItemCaseSensitive(index, "tokenizer_hash");
    if (!cJSON_IsString(hash)) return error_set(err, "%s: no \"tokenizer_hash\"", path);
    MappedFile file;
    if (file_map(&file, tokenizer_path.text, err)) return -1;
    HashText is = hash128_text(hash128(file.data, file.size, 0));
    file_unmap(&file);
    if (!strcmp(is.text, hash->valuestring)) return 0;
    return error_set(err, "%s is not the tokenizer that made these shards (by the hash in %s)",
                     tokenizer_path.text, path);
}

static int open_index(Shards *s, const cJSON *index, const char *path, bool verify, Error *err) {
    int64_t vocab, end, version;
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(index, "format");
    if (!cJSON_IsString(format) || strcmp(format->valuestring, FORMAT))
        return error_set(err, "%s: \"format\" is not \"%s\"", path, FORMAT);
    if (index_number(index, path, "version", 1, 1, &version, err) ||
        index_number(index, path, "vocab_size", 1, INT32_MAX, &vocab, err) ||
        index_number(index, path, "end_of_text", 0, vocab - 1, &end, err))
        return -1;
    s->vocab_size = (int)vocab;
    s->end_of_text = (int)end;
    s->token_bytes = vocab <= 65536 ? 2 : 4;
    if (check_tokenizer(s, index, path, err)) return -1;
    for (int part = 0; part < SHARD_PARTS; part++)
        if (open_part(s, part, index, path, verify, err)) return -1;
    return 0;
}

int shards_open(Shards *s, const char *directory, bool verify, Error *err) {
    *s = (Shards){0};
    if (strlen(directory) >= sizeof s->directory)
        return error_set(err, "the path %.80s... is too long", directory);
    strcpy(s->directory, directory);
    if (replacement_finish(directory, err)) return -1;
    PathText path = file_path(directory, SHARD_INDEX);
    cJSON *index = json_load(path.text, err);
    if (!index)
        return error_prefix(
            err, "%s holds no finished shards (`deepseek data` makes them): ", directory);
    int status = open_index(s, index, path.text, verify, err);
    cJSON_Delete(index);
    if (status) shards_close(s);
    return status;
}

bool shards_are_there(const char *directory) {
    cJSON *index = json_load(file_path(directory, SHARD_INDEX).text, NULL);
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(index, "format");
    bool are = cJSON_IsString(format) && !strcmp(format->valuestring, FORMAT);
    cJSON_Delete(index);
    return are;
}

void shards_close(Shards *s) {
    for (int part = 0; part < SHARD_PARTS; part++) {
        for (int i = 0; i < s->parts[part].count; i++) file_unmap(&s->parts[part].files[i].file);
        free(s->parts[part].files);
    }
    *s = (Shards){0};
}

Tokenizer *shards_tokenizer(const Shards *s, Error *err) {
    PathText path = file_path(s->directory, "tokenizer.json");
    Tokenizer *tokenizer = tokenizer_load(path.text, err);
    if (!tokenizer || tokenizer_vocab_size(tokenizer) == s->vocab_size) return tokenizer;
    error_set(err, "%s/" SHARD_INDEX " speaks of %d tokens, %s has %d: run `deepseek data` again",
              s->directory, s->vocab_size, path.text, tokenizer_vocab_size(tokenizer));
    tokenizer_free(tokenizer);
    return NULL;
}

/* ---- reading ---- */

void shards_read(const Shards *s, ShardPart part, int64_t first, int64_t count, int32_t *ids) {
    const ShardRow *row = &s->parts[part];
    CHECK(first >= 0 && count >= 0 && first + count <= row->tokens, "tokens %lld .. %lld of %lld",
          (long long)first, (long long)(first + count), (long long)row->tokens);
    int low = 0, high = row->count - 1;
    while (low < high) { /* the last shard that begins at or before `first` */
        int middle = (low + high + 1) / 2;
        if (row->files[middle].first <= first)
            low = middle;
        else
            high = middle - 1;
    }
    for (; count > 0; low++) {
        const ShardFile *shard = &row->files[low];
        int64_t from = first - shard->first, n = shard->tokens - from;
        if (n > count) n = count;
        int32_t largest = 0;
        for (int64_t i = 0; i < n; i++) {
            ids[i] = id_at(shard->ids, s->token_bytes, from + i);
            uint32_t id = (uint32_t)ids[i];
            largest = id > (uint32_t)largest ? (int32_t)id : largest;
        }
        if ((uint32_t)largest >= (uint32_t)s->vocab_size)
            fatal("%s/%s-%05d.shard has the id %d, beyond the vocabulary of %d: the file was "
                  "changed; run `deepseek data` again",
                  s->directory, shard_part_names[part], low, largest, s->vocab_size);
        first += n, ids += n, count -= n;
    }
}

void shards_document(const Shards *s, ShardPart part, int64_t i, int64_t *first, int64_t *count) {
    const ShardRow *row = &s->parts[part];
    CHECK(i >= 0 && i < row->documents, "document %lld of %lld", (long long)i,
          (long long)row->documents);
    const ShardFile *shard = row->files;
    while (i >= shard->first_document + shard->documents) shard++;
    i -= shard->first_document;
    uint64_t start = shard->starts[i];
    uint64_t end = i + 1 < shard->documents ? shard->starts[i + 1] : (uint64_t)shard->tokens;
    if (start >= end || end > (uint64_t)shard->tokens)
        fatal("%s: document %lld of a shard begins at %llu and ends at %llu: the file was changed; "
              "run `deepseek data` again",
              s->directory, (long long)i, (unsigned long long)start, (unsigned long long)end);
    *first = shard->first + (int64_t)start;
    *count = (int64_t)(end - start);
}

/* ---- the order of training ---- */

/* [shuffled] */
/*
 * A Feistel network (Luby & Rackoff 1988): the number is two halves of `bits` bits; each round
 * adds (xor) a random function of one half to the other, which can be undone whatever the
 * function is, so the whole is one to one on 0 .. 2^(2 bits) - 1. A result that is n or more goes
 * round again: the cycle on which i lies comes back below n, at i at the latest.
 */
uint64_t shards_shuffled(uint64_t seed, uint64_t epoch, uint64_t i, uint64_t n) {
    int bits = 1;
    while (bits < 32 && (uint64_t)1 << 2 * bits < n) bits++;
    uint64_t mask = ((uint64_t)1 << bits) - 1;
    do {
        uint64_t left = i >> bits, right = i & mask;
        for (uint64_t round = 0; round < 6; round++) {
            Philox random = philox(seed, EPOCH_STREAM + epoch, right << 3 | round);
            uint64_t next = left ^ (random.word[0] & mask);
            left = right;
            right = next;
        }
        i = left << bits | right;
    } while (i >= n);
    return i;
}
/* [/shuffled] */

/* [window] */
int64_t shards_window(const Shards *s, uint64_t seed, uint64_t index, int length) {
    uint64_t tokens = (uint64_t)s->parts[SHARD_TRAIN].tokens, step = (uint64_t)length;
    CHECK(tokens > step, "%llu tokens are no window of %d + 1", (unsigned long long)tokens, length);
    uint64_t windows = tokens > 2 * step ? (tokens - step) / step : 1;
    uint64_t epoch = index / windows, spare = tokens - windows * step;
    /* Another offset in each epoch: windows then begin and end elsewhere. Past 2^32 windows it is
     * the same stream with a high index. */
    Philox random = philox(seed, EPOCH_STREAM + epoch, UINT64_MAX);
    uint64_t offset = random.word[0] % (spare < step ? spare : step);
    return (int64_t)(offset + step * shards_shuffled(seed, epoch, index % windows, windows));
}
/* [/window] */
