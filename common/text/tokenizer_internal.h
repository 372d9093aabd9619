/*
 * What the tokenizer's source files share.
 *
 *     tokenizer.c         the tables below, tokens, decoding
 *     tokenizer_split.c   text -> added tokens and words (PCRE2)
 *     tokenizer_encode.c  words -> ids: merging, the cache, threads
 *     tokenizer_train.c   text -> merges
 *     tokenizer_json.c    tokenizer.json -> Tokenizer and back
 */
#ifndef COMMON_TOKENIZER_INTERNAL_H
#define COMMON_TOKENIZER_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8

#include "common/text/tokenizer.h"

#include "common/core/memory.h"

#include <cjson/cJSON.h>
#include <pcre2.h>
#include <stdbool.h>

#define END_OF_TEXT "<|endoftext|>"

/* ---- tables (tokenizer.c); they grow as needed, and fatal() when memory runs out ---- */

/* Bytes -> number >= 0. The keys belong to the caller. */
typedef struct StringMap {
    struct StringSlot *slots;
    size_t capacity, count; /* capacity is 0 or a power of two; at most half of it is used */
} StringMap;

int32_t string_map_find(const StringMap *map, const char *key, size_t length); /* -1: absent */
void string_map_put(StringMap *map, const char *key, size_t length, int32_t value);
uint64_t hash_bytes(const char *bytes, size_t length);

/* A pair of ids -> number >= 0. */
typedef struct PairMap {
    struct PairSlot *slots;
    size_t capacity, count;
} PairMap;

int32_t pair_map_find(const PairMap *map, int32_t left, int32_t right); /* -1: absent */
void pair_map_put(PairMap *map, int32_t left, int32_t right, int32_t value);

/* A heap with the smallest (key, value) on top. */
typedef struct HeapItem {
    uint64_t key, value;
} HeapItem;

typedef struct Heap {
    HeapItem *items;
    size_t count, capacity;
} Heap;

void heap_push(Heap *heap, uint64_t key, uint64_t value);
HeapItem heap_pop(Heap *heap); /* there must be one */

/* ---- the tokenizer ---- */

typedef enum TokenKind {
    TOKEN_ABSENT, /* a hole in the ids */
    TOKEN_BYTES,  /* in the model's vocabulary, spelled in GPT-2's alphabet of bytes */
    TOKEN_TEXT,   /* in the model's vocabulary, spelled as it is */
    TOKEN_ADDED   /* only among the added tokens */
} TokenKind;

typedef struct Token {
    char *bytes; /* owned; zero-terminated for messages, but may contain zeros */
    size_t length;
    TokenKind kind;
} Token;

typedef struct Merge {
    int32_t left, right, result;
} Merge;

typedef struct AddedToken {
    char *text; /* owned */
    size_t length;
    int32_t id;
    bool normalized; /* looked for after the others */
} AddedToken;

enum { MAX_PATTERNS = 16 };

/* How text becomes words: each pattern in turn cuts what the one before left into matches and the
 * gaps between them. */
typedef struct Splitter {
    pcre2_code *patterns[MAX_PATTERNS];
    int count;
    bool cuts_at_spaces; /* a space behind an ASCII letter always begins a word */
} Splitter;

struct Tokenizer {
    Token *tokens; /* by id */
    size_t vocab_size, token_capacity;
    int32_t byte_ids[256];

    Merge *merges; /* in order of rank */
    size_t merge_count, merge_capacity;
    PairMap ranks;      /* pair of ids -> index of its merge */
    bool ignore_merges; /* a word that is a token needs no merging (Llama 3) */
    StringMap words;    /* bytes -> id, only if ignore_merges */

    Splitter splitter;
    AddedToken *added; /* those not normalized, then the others; each kind sorted by text */
    size_t added_first, added_count, added_capacity; /* added_first: how many are not normalized */
    bool added_begins[2][256]; /* [normalized]: bytes that such a token begins with */
    int eot;

    cJSON *shell; /* the tokenizer.json without vocab and merges: what saving starts from */
};

Tokenizer *tokenizer_new(void);
void tokenizer_set_token(Tokenizer *tokenizer, int32_t id, const char *bytes, size_t length,
                         TokenKind kind);
void tokenizer_add_merge(Tokenizer *tokenizer, int32_t left, int32_t right, int32_t result);

/* GPT-2's alphabet: each byte is written as one printable character. */
uint32_t byte_to_character(unsigned char byte);
int character_to_byte(uint32_t character); /* -1: not in the alphabet */

/* ---- tokenizer_split.c ---- */

/* Adds a pattern in the syntax of tokenizer.json; `what` names it in messages. */
int splitter_add(Splitter *splitter, const char *pattern, const char *what, Error *err);
int splitter_add_literal(Splitter *splitter, const char *text, const char *what, Error *err);
int splitter_add_gpt2(Splitter *splitter, const char *what, Error *err);
void splitter_free(Splitter *splitter);

/* Registers a text that is one token wherever it stands; then, once, after the last of them: */
void added_token(Tokenizer *tokenizer, const char *text, int32_t id, bool normalized);
void added_tokens_sort(Tokenizer *tokenizer);

/* A piece of text: an added token (id >= 0), or what is to be split into words (id -1). */
typedef struct Segment {
    const char *text;
    size_t length;
    int32_t id;
} Segment;

/* The text cut at its added tokens and, where it may be, into parts of about `limit` bytes. */
Segment *segments_of(const Tokenizer *tokenizer, const char *text, size_t length, size_t limit,
                     size_t *count);

/* What one thread needs to match. */
typedef struct Matcher {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack; /* NULL until a match needs it */
} Matcher;

void matcher_init(Matcher *matcher);
void matcher_free(Matcher *matcher);

typedef void (*WordFunction)(void *user, const char *word, size_t length);

/* Calls word() for each word of text, in order; together they are the text. */
void split_words(const Splitter *splitter, Matcher *matcher, const char *text, size_t length,
                 WordFunction word, void *user);

/* ---- tokenizer_json.c ---- */

/* The shell of a tokenizer that was trained here: GPT-2's pattern, and END_OF_TEXT with id eot. */
void shell_for_training(Tokenizer *tokenizer);

#endif
