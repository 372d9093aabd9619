/*
 * From text to shards:
 *
 *     read -> normalise -> drop exact duplicates -> judge -> drop near duplicates
 *          -> split -> tokenise -> write
 *
 * A batch of documents at a time. Within a batch the threads share the documents where each can
 * be treated alone (normalise, judge, sign, tokenise); what depends on the order (who was first?)
 * is one thread's, and cheap. So the shards are the same bytes for any number of threads, and
 * only hashes and signatures stay in memory from batch to batch.
 *
 * Which part a document falls to is a function of its text and the seed: it stays there when
 * files are added or come in another order. Or files say so: held_out.
 */
#ifndef PREPARE_H
#define PREPARE_H

#include "10_full_model/data/documents.h"
#include "10_full_model/data/duplicates.h"
#include "10_full_model/data/quality.h"
#include "10_full_model/data/shards.h"

#include "common/text/tokenizer.h"

typedef struct PrepareOptions {
    const char *const *paths;
    int path_count;
    /* files whose documents are the validation part, and the others' none of it; 0: `validation`
     * decides. They come last: what is like a document of the others is left out here */
    const char *const *held_out;
    int held_out_count;
    DocumentOptions documents;
    bool skip_bad_lines; /* else the first one ends the work */
    bool drop_invalid;   /* documents with invalid UTF-8; else U+FFFD takes its place */
    QualityLimits limits;
    bool exact;  /* drop exact duplicates */
    double near; /* drop documents at least this similar to an earlier one; 0: none */
    int bands, rows, shingle;
    double validation; /* share of the documents, without held-out files */
    uint64_t seed;
    const char *tokenizer;   /* tokenizer.json, or a folder with one; NULL: learn one */
    const char *end_of_text; /* its token; NULL: <|endoftext|> */
    int vocab;               /* learned tokens */
    size_t sample_bytes;     /* of text to learn them from */
    int64_t shard_tokens;
    const char *out;
    bool overwrite;
    bool quiet; /* no progress line */
} PrepareOptions;

PrepareOptions prepare_defaults(void);

/* What became of a document. */
typedef enum Outcome {
    OUTCOME_TRAIN,
    OUTCOME_VALIDATION,
    OUTCOME_BAD_LINE,
    OUTCOME_INVALID,
    OUTCOME_EMPTY,
    OUTCOME_EXACT,
    OUTCOME_NEAR,
    OUTCOME_RULE, /* and the next ones: by which rule */
    OUTCOMES = OUTCOME_RULE + QUALITY_RULES
} Outcome;
const char *prepare_outcome_name(int outcome);

typedef enum Stage {
    STAGE_READ,
    STAGE_NORMALISE, /* JSON, too */
    STAGE_EXACT,
    STAGE_JUDGE,
    STAGE_SIGN,
    STAGE_NEAR,
    STAGE_ENCODE,
    STAGE_WRITE,
    STAGES
} Stage;
extern const char *const prepare_stage_names[STAGES];

enum { LENGTH_BINS = 32 }; /* bin b: 2^b .. 2^(b + 1) - 1 tokens, the end-of-text token included */

typedef struct PrepareReport {
    int64_t documents[OUTCOMES], bytes[OUTCOMES]; /* bytes as read */
    int64_t input_bytes, replaced;                /* replaced: pieces of invalid UTF-8 */
    int64_t lengths[LENGTH_BINS];                 /* kept documents by their tokens */
    int64_t tokens[SHARD_PARTS], text_bytes[SHARD_PARTS];
    int shards[SHARD_PARTS];
    int vocab_size;
    size_t memory_bytes; /* what grew with the number of documents */
    double seconds, tokenizer_seconds;
    /* time summed over threads; text that passed */
    double core_seconds[STAGES], stage_bytes[STAGES];
    char first_bad_line[256]; /* skipped, and why */
} PrepareReport;

/* -1 and a message leaves no index behind, and no shards. */
int prepare_run(const PrepareOptions *options, PrepareReport *report, Error *err);

/* ---- prepare_report.c ---- */

/* The settings that decide what is in the shards, as an object. */
cJSON *prepare_settings(const PrepareOptions *options);

/* The report as an object, for report.json. */
cJSON *prepare_report_json(const PrepareOptions *options, const PrepareReport *report);

/* "12 documents, and none is left: 9 by words, 3 exact duplicates" */
int prepare_report_nothing(const PrepareReport *report, const char *what, Error *err);

/* Tables and a text chart on stdout; lengths.csv and, with gnuplot, lengths.svg in the folder. */
int prepare_report_show(const PrepareOptions *options, const PrepareReport *report, Error *err);

#endif
