/*
 * Shards: a tokenised text on the disk, in a folder, larger than the memory if need be.
 *
 *     index.json              what the rest is; written last: a folder without one is not finished
 *     tokenizer.json          what made the tokens
 *     train-00000.shard ...   validation-00000.shard ...
 *
 * A shard (all numbers little-endian):
 *     char     magic[8]       "DSSHARD1"
 *     uint32_t token_bytes    2 if every id of the vocabulary fits into 16 bits, else 4
 *     uint32_t zero
 *     uint64_t tokens, documents
 *     token    ids[tokens]    each document ends with the end-of-text token, found nowhere else
 *     (zeros up to a multiple of 8)
 *     uint64_t starts[documents]   where in ids each document begins
 *
 * The index holds each shard's counts and the 128-bit hash of its bytes. The shards of a part,
 * one after the other, are one long row of tokens.
 */
#ifndef SHARDS_H
#define SHARDS_H

#include "10_full_model/data/hash128.h"

#include "common/core/error.h"
#include "common/files/files.h"
#include "common/files/json.h"
#include "common/text/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum ShardPart { SHARD_TRAIN, SHARD_VALIDATION, SHARD_PARTS } ShardPart;
extern const char *const shard_part_names[SHARD_PARTS]; /* "train", "validation" */

#define SHARD_INDEX "index.json"

/* ---- writing ---- */

typedef struct ShardWriter {
    char directory[400];
    ShardPart part;
    int token_bytes;
    int64_t shard_tokens; /* a shard is closed when it has that many */
    AtomicFile file;
    int64_t tokens, documents; /* of the open shard */
    uint64_t *starts;
    size_t starts_capacity;
    cJSON *list; /* of the closed ones, for the index */
    int count;
    int64_t total_tokens, total_documents, total_bytes;
} ShardWriter;

void shard_writer_init(ShardWriter *writer, const char *directory, ShardPart part, int vocab_size,
                       int64_t shard_tokens);
/* A whole document, its end-of-text token included. -1 if the disk is full, and the like. */
int shard_write(ShardWriter *writer, const int32_t *ids, size_t count, int64_t text_bytes,
                Error *err);
/* Closes the last shard. Returns the part's object for the index, or NULL and a message. */
cJSON *shard_writer_finish(ShardWriter *writer, Error *err);
/* Frees all; with `remove`, takes away the shards it has written, too. */
void shard_writer_free(ShardWriter *writer, bool remove);

/* Is it a name that `deepseek data` gives: of a shard, "train-00000.shard"; or of any file in its
 * folder that belongs to the shards? */
bool shard_file_owned(const char *name);
bool shards_owns(const char *name);

/* Are there finished shards, by the folder's index.json? */
bool shards_are_there(const char *directory);

/* ---- reading ---- */

typedef struct ShardFile {
    MappedFile file;
    const void *ids;
    const uint64_t *starts;
    int64_t tokens, documents;
    int64_t first, first_document; /* of the part's */
} ShardFile;

typedef struct ShardRow {
    ShardFile *files;
    int count;
    int64_t tokens, documents, bytes; /* bytes: of text */
} ShardRow;

typedef struct Shards {
    char directory[400];
    int vocab_size, end_of_text, token_bytes;
    ShardRow parts[SHARD_PARTS];
} Shards;

/*
 * Opens a folder that `deepseek data` wrote. Everything that the index says is compared with what
 * is there: sizes, counts, headers. With `verify` all bytes are read, too: hashes, ids within the
 * vocabulary, documents that begin and end where they should. New shards that a kill has left half
 * moved into the folder are moved first (replacement.h).
 */
int shards_open(Shards *shards, const char *directory, bool verify, Error *err);
void shards_close(Shards *shards);

/* The folder's tokenizer, which must have as many tokens as the index says: then every id is one
 * of its own. NULL and a message. */
Tokenizer *shards_tokenizer(const Shards *shards, Error *err);

/* Tokens first .. first + count - 1 of a part. An id beyond the vocabulary (a file changed since
 * it was verified) is fatal. */
void shards_read(const Shards *shards, ShardPart part, int64_t first, int64_t count, int32_t *ids);

/* Where document i of a part begins, and how many tokens it has. None within the shard (a file
 * changed since it was verified) is fatal. */
void shards_document(const Shards *shards, ShardPart part, int64_t i, int64_t *first,
                     int64_t *count);

/*
 * The windows of `length` + 1 tokens that training sees, in a shuffled order: an epoch cuts the
 * part into windows that follow each other, from an offset of its own, and takes each of them
 * once. Returns where window number `index` of a run begins.
 */
int64_t shards_window(const Shards *shards, uint64_t seed, uint64_t index, int length);

/* i -> a place in 0 .. n - 1, one to one: a permutation that needs no memory. n >= 1 */
uint64_t shards_shuffled(uint64_t seed, uint64_t epoch, uint64_t i, uint64_t n);

#endif
