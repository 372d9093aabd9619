/*
 * What the tokenizer's source files share.
 *
 *     tokenizer.c         the tables below, tokens, decoding
 *     tokenizer_pattern.c one pattern: where it matches next (Oniguruma)
 *     tokenizer_split.c   text -> added tokens and words
 *     tokenizer_encode.c  words -> ids: merging, the cache, threads
 *     tokenizer_train.c   text -> merges
 *     tokenizer_json.c    tokenizer.json -> Tokenizer and back
 *     tokenizer_folder.c  what lies beside tokenizer.json
 */
#ifndef COMMON_TOKENIZER_INTERNAL_H
#define COMMON_TOKENIZER_INTERNAL_H

#include "common/text/tokenizer.h"

#include "common/core/memory.h"

#include <cjson/cJSON.h>
#include <oniguruma.h>
#include <stdbool.h>
#include <time.h>

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

typedef struct Pattern {
    regex_t *regex; /* Oniguruma's */
    int known;      /* which of those that are also written as loops; -1: none */
} Pattern;

/* What becomes of the matches and of the gaps between them: pieces of their own; nothing (of
 * matches); one piece where several matches, or gaps, stand in a row; one piece with the gap before
 * the match, or with the one behind it. The names are the file's. */
typedef enum SplitBehavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_CONTIGUOUS,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT
} SplitBehavior;
extern const char *const split_behavior_names[]; /* "Isolated" ...; NULL behind the last */

typedef struct SplitStep {
    Pattern pattern;
    SplitBehavior behavior;
    bool invert; /* matches are gaps, and gaps matches */
} SplitStep;

enum { MAX_PATTERNS = 16, MAX_ENDS = 32 };

/* How text becomes words: each step in turn cuts what the one before left. */
typedef struct Splitter {
    SplitStep steps[MAX_PATTERNS];
    int count;
    bool cuts_at_spaces; /* a space behind an ASCII letter always begins a word */
} Splitter;

typedef struct KeptFile {
    const char *name; /* one of tokenizer_folder_files */
    char *bytes;      /* owned */
    size_t size;
} KeptFile;

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
    bool adds_space;   /* before a text, and behind an added token, unless one is there */
    AddedToken *added; /* those not normalized, then the others; each kind sorted by text */
    size_t added_first, added_count, added_capacity; /* added_first: how many are not normalized */
    bool added_begins[2][256]; /* [normalized]: bytes that such a token begins with */
    int bos;            /* what a text begins with, as its folder says; -1: it says nothing */
    int ends[MAX_ENDS]; /* what ends a text; the first is what our own texts end with */
    int end_count;
    bool ends_changed; /* since they were read */

    struct KeptFile *kept; /* what lay beside it (tokenizer_folder.c) */
    int kept_count;

    cJSON *shell; /* the tokenizer.json without vocab and merges: what saving starts from */
};

Tokenizer *tokenizer_new(void);
void tokenizer_set_token(Tokenizer *tokenizer, int32_t id, const char *bytes, size_t length,
                         TokenKind kind);
void tokenizer_add_merge(Tokenizer *tokenizer, int32_t left, int32_t right, int32_t result);

/* GPT-2's alphabet: each byte is written as one printable character. */
uint32_t byte_to_character(unsigned char byte);
int character_to_byte(uint32_t character); /* -1: not in the alphabet */

/* ---- tokenizer_pattern.c ---- */

/* What one thread needs to match. */
typedef struct Matcher {
    OnigRegion *region;
    OnigMatchParam *param;
    double seconds_allowed, started; /* of this thread's time, for one text */
    time_t second;                   /* when that was last looked at; 0: not yet */
} Matcher;

void matcher_init(Matcher *matcher);
void matcher_free(Matcher *matcher);
void matcher_begin(Matcher *matcher, size_t length); /* a text of so many bytes */

/* `what` names the pattern in messages. */
int pattern_compile(Pattern *pattern, const char *text, const char *what, Error *err);
void pattern_free(Pattern *pattern);
const char *pattern_of_gpt2(void);

/* The first match that starts at `from` or later. The text is valid UTF-8. */
bool pattern_find(const Pattern *pattern, Matcher *matcher, const char *text, size_t length,
                  size_t from, size_t *start, size_t *end);

/* ---- tokenizer_split.c ---- */

/* Adds a step; its pattern is in the syntax of tokenizer.json. */
int splitter_add(Splitter *splitter, const char *pattern, SplitBehavior behavior, bool invert,
                 const char *what, Error *err);
int splitter_add_literal(Splitter *splitter, const char *text, SplitBehavior behavior, bool invert,
                         const char *what, Error *err);
void splitter_free(Splitter *splitter);

/* Registers a text that is one token wherever it stands; then, once, after the last of them: */
void added_token(Tokenizer *tokenizer, const char *text, int32_t id, bool normalized);
void added_tokens_sort(Tokenizer *tokenizer);

/* A piece of text: an added token (id >= 0), or what is to be split into words (id -1). */
typedef struct Segment {
    const char *text;
    size_t length;
    int32_t id;
    char *owned; /* the text, where a space was put before it */
} Segment;

/* The text cut at its added tokens and, where it may be, into parts of about `limit` bytes.
 * segments_free() the result. */
Segment *segments_of(const Tokenizer *tokenizer, const char *text, size_t length, size_t limit,
                     size_t *count);
void segments_free(Segment *segments, size_t count);

typedef void (*WordFunction)(void *user, const char *word, size_t length);

/* Calls word() for each word of text, in order; together they are the text, unless a step removes
 * what it matches. */
void split_words(const Splitter *splitter, Matcher *matcher, const char *text, size_t length,
                 WordFunction word, void *user);

/* ---- tokenizer_json.c ---- */

/* The shell of a tokenizer that was trained here: GPT-2's pattern, and END_OF_TEXT. */
void shell_for_training(Tokenizer *tokenizer);

#endif
