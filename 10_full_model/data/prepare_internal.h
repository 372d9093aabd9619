/*
 * A run of `deepseek data`, as its two files share it: prepare.c leads, prepare_batch.c takes one
 * batch through the stages.
 */
#ifndef PREPARE_INTERNAL_H
#define PREPARE_INTERNAL_H

#include "10_full_model/data/prepare.h"

enum {
    BATCH_BYTES = 16 << 20, /* of text in work at a time */
    BATCH_DOCUMENTS = 1 << 16,
    BLOCK_BYTES = 512 << 10, /* of text for one call of the tokenizer */
};

typedef struct Document {
    Piece piece;
    char *text; /* normalised; owned */
    size_t bytes, replaced;
    Hash128 hash;
    uint16_t *signature; /* owned; NULL until it is needed */
    int outcome;         /* OPEN until it is known */
} Document;

enum { OPEN = -1 };

typedef struct Worker { /* what each thread keeps for itself */
    QualityScratch scratch;
    char *room;
    size_t room_bytes;
    double seconds[STAGES];
} Worker;

typedef struct Preparation {
    const PrepareOptions *options;
    PrepareReport *report;
    const char *folder; /* where the files are written */
    DocumentReader reader;
    Tokenizer *tokenizer;
    int32_t end_of_text;
    Duplicates duplicates;
    ShardWriter writers[SHARD_PARTS];
    Document *documents; /* the batch */
    size_t count;
    Worker *workers;
    int worker_count;
} Preparation;

/* Reads pieces up to position `end` of the input. 1: there are some; 0: no more; -1: an error. */
int prepare_batch_fill(Preparation *p, size_t end, Error *err);

/* Gives each document of the batch its outcome. */
void prepare_batch_sift(Preparation *p);

/* The first bad line as an error, or, where they are skipped, as a note in the report. */
int prepare_batch_bad_lines(Preparation *p, Error *err);

/* Adds the batch to the report. */
void prepare_batch_count(Preparation *p);

/* The documents `from` .. `to` - 1 with this property, each with the marker behind it. free()
 * it. */
char *prepare_batch_join(const Preparation *p, size_t from, size_t to,
                         bool (*is_wanted)(const Document *), size_t *bytes);
bool prepare_is_kept(const Document *document); /* for training or for validation */

/* Tokenises what is kept and hands it to the writers, in order. */
int prepare_batch_write(Preparation *p, Error *err);

void prepare_batch_free(Preparation *p);

#endif
