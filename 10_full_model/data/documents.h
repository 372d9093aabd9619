/*
 * Files as a stream of documents.
 *
 * JSON lines (*.jsonl, *.ndjson, *.json, in any case): each line is an object, and its field `text`
 * is a document. Everything else is raw text: a file is a document, or each of its paragraphs
 * (between blank lines), or each line. In raw text, the end-of-text marker ends a document wherever
 * it stands, and documents longer than `cut` bytes are cut: at the last blank line before that
 * many, else at the last line end, space or character; each piece is a document then.
 *
 * Files are mapped, not read: they may be larger than the memory. A Piece points into the
 * mapping; what it holds as text is found by document_text(), which any thread may call. What is
 * behind us is given back to the system by documents_release().
 */
#ifndef DOCUMENTS_H
#define DOCUMENTS_H

#include "common/core/error.h"
#include "common/files/files.h"
#include "common/files/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum FileFormat { FORMAT_BY_NAME, FORMAT_TEXT, FORMAT_JSONL } FileFormat;
typedef enum TextSplit { SPLIT_FILE, SPLIT_PARAGRAPHS, SPLIT_LINES } TextSplit;

typedef struct DocumentOptions {
    FileFormat format;
    TextSplit split;    /* of raw text */
    size_t cut;         /* longest document of raw text, bytes */
    size_t longest;     /* longest line of JSON lines, bytes: past it, it is no such file */
    const char *field;  /* of JSON lines: "text" */
    const char *marker; /* "<|endoftext|>"; NULL: none */
} DocumentOptions;

DocumentOptions documents_defaults(void);

typedef struct DocumentReader {
    DocumentOptions options;
    const char *const *paths; /* not copied */
    MappedFile *files;
    int count;
    size_t total; /* bytes of all files */
    /* where the next piece begins */
    int file;
    size_t offset;
    int64_t line;  /* of it, from 1; only in JSON lines */
    size_t passed; /* bytes of the files before this one */
    int released_file;
    size_t released; /* in released_file: bytes given back */
} DocumentReader;

typedef struct Piece {
    const char *text; /* in the mapping */
    size_t bytes;
    int file;
    int64_t line; /* 0: raw text */
} Piece;

/* Are JSON lines to be expected, by the file's name? */
bool documents_named_json(const char *path);

/* Opens all files at once: a missing one is known before the work, not after hours. Compressed
 * files and UTF-16 are refused by name (common/text/text_file.h). */
int documents_open(DocumentReader *reader, const char *const *paths, int count,
                   const DocumentOptions *options, Error *err);
void documents_close(DocumentReader *reader);

/* 1: *piece is the next one (blank ones are passed over); 0: no more; -1: a line that is too
 * long. */
int documents_next(DocumentReader *reader, Piece *piece, Error *err);

/* How far we are, of reader->total. */
size_t documents_position(const DocumentReader *reader);

/* Goes to the first line that begins at or after byte `position` of all files together. Lines are
 * numbered from there: for samples only. */
void documents_seek(DocumentReader *reader, size_t position);

/* The pieces handed out so far are not needed any more: their pages may go. */
void documents_release(DocumentReader *reader);

typedef struct DocumentText {
    const char *text;
    size_t bytes;
    size_t replaced; /* of a JSON line: what is no character, and is U+FFFD now */
    cJSON *owner;    /* holds the text of a JSON line */
} DocumentText;

/* The text of a piece, in any encoding it came in; -1 and FILE:LINE: what is wrong, for a line
 * that is no JSON object with the field. */
int document_text(const DocumentReader *reader, const Piece *piece, DocumentText *text, Error *err);
void document_text_free(DocumentText *text);

/* One of several fields of a JSON line. */
typedef struct DocumentField {
    const char *name;
    bool may_miss;   /* or be null: then text is NULL */
    char *text;      /* in *owner, zero-terminated */
    size_t replaced; /* as in DocumentText */
} DocumentField;

/* The same for several fields of a JSON line; cJSON_Delete(*owner) in the end. */
int document_fields(const DocumentReader *reader, const Piece *piece, DocumentField *fields,
                    int count, cJSON **owner, Error *err);

#endif
