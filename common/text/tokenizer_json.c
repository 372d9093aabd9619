/*
 * tokenizer.json <-> Tokenizer.
 *
 * A file is a small frame (what splits the text, what decodes it, the added tokens) around two
 * large tables, model.vocab and model.merges. Loading moves the tables into the Tokenizer and keeps
 * the rest as it is, the "shell"; saving puts the tables back. So what we do not use, such as a
 * post_processor, is not lost.
 */
#include "common/files/json.h"
#include "common/text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_ID = (1 << 24) - 1, /* a file must not make us allocate gigabytes for one large id */
    MAX_ADDED = 1024        /* bytes of an added token */
};

/* What the loading functions share. */
typedef struct Loader {
    Tokenizer *tokenizer;
    const char *path;
    const cJSON *root, *model;
    StringMap ids;   /* token as the file spells it -> id */
    StringMap added; /* added tokens met so far -> id */
    bool *merged;    /* by id of the vocabulary: does a merge make it? */
    Error *err;
} Loader;

static const cJSON *member(const cJSON *object, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

/* Is it absent, null, false, 0, "" or []: does it ask for nothing? */
static bool is_nothing(const cJSON *item) {
    return !item || cJSON_IsNull(item) || cJSON_IsFalse(item) ||
           (cJSON_IsNumber(item) && item->valuedouble == 0) ||
           (cJSON_IsString(item) && !*item->valuestring) ||
           (cJSON_IsArray(item) && cJSON_GetArraySize(item) == 0);
}

static bool is_string(const cJSON *item, const char *text) {
    return cJSON_IsString(item) && strcmp(item->valuestring, text) == 0;
}

/* ---- model ---- */

static int check_model(const Loader *loader) {
    const char *path = loader->path;
    if (!cJSON_IsObject(loader->root) || !cJSON_IsObject(loader->model))
        return error_set(loader->err, "%s: there is no model in it; is it a tokenizer.json?", path);
    const char *twice = json_duplicate(loader->root);
    if (!twice) twice = json_duplicate(loader->model);
    if (twice)
        return error_set(loader->err, "%s: '%s' is there twice", path, name_text(twice).text);

    const cJSON *type = member(loader->model, "type"); /* the oldest files have none */
    if (type && !is_string(type, "BPE"))
        return error_set(loader->err, "%s: the model is %s, only BPE is supported", path,
                         cJSON_IsString(type) ? name_text(type->valuestring).text : "unknown");
    const char *const unsupported[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix",
                                       "byte_fallback"};
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++)
        if (!is_nothing(member(loader->model, unsupported[i])))
            return error_set(loader->err, "%s: the model's %s is not supported", path,
                             unsupported[i]);
    const cJSON *normalizer = member(loader->root, "normalizer");
    if (!is_nothing(normalizer) && !(is_string(member(normalizer, "type"), "Sequence") &&
                                     is_nothing(member(normalizer, "normalizers"))))
        return error_set(loader->err, "%s: a normalizer is not supported", path);
    return 0;
}

/* The bytes that a token spells in GPT-2's alphabet, or -1. `bytes` has room for strlen(text). */
static int spelled_bytes(const char *text, char *bytes) {
    int length = 0;
    for (const unsigned char *s = (const unsigned char *)text; *s; length++) {
        /* The alphabet ends at U+0143, so a character has one byte or two. */
        uint32_t character = *s++;
        if (character >= 0xE0) return -1;
        if (character >= 0x80) character = (character & 0x1F) << 6 | (*s++ & 0x3F);
        int byte = character_to_byte(character);
        if (byte < 0) return -1;
        bytes[length] = (char)byte;
    }
    return length;
}

static bool is_taken(const Tokenizer *tokenizer, int64_t id) {
    return (size_t)id < tokenizer->vocab_size && tokenizer->tokens[id].kind != TOKEN_ABSENT;
}

static int read_token(Loader *loader, const cJSON *item) {
    Tokenizer *tokenizer = loader->tokenizer;
    const char *text = item->string;
    int64_t id;
    if (!json_integer(item, 0, MAX_ID, &id))
        return error_set(loader->err, "%s: the id of token '%s' is not a whole number in 0 .. %d",
                         loader->path, name_text(text).text, MAX_ID);
    if (string_map_find(&loader->ids, text, strlen(text)) >= 0)
        return error_set(loader->err, "%s: token '%s' is in the vocabulary twice", loader->path,
                         name_text(text).text);
    if (is_taken(tokenizer, id))
        return error_set(loader->err, "%s: two tokens have the id %d, one of them '%s'",
                         loader->path, (int)id, name_text(text).text);
    string_map_put(&loader->ids, text, strlen(text), (int32_t)id);

    char *bytes = must_alloc(strlen(text) + 1, 1);
    int length = spelled_bytes(text, bytes);
    if (length < 0)
        tokenizer_set_token(tokenizer, (int32_t)id, text, strlen(text), TOKEN_TEXT);
    else
        tokenizer_set_token(tokenizer, (int32_t)id, bytes, (size_t)length, TOKEN_BYTES);
    if (length == 1) tokenizer->byte_ids[(unsigned char)*bytes] = (int32_t)id;
    free(bytes);
    return 0;
}

static int read_vocab(Loader *loader) {
    const cJSON *vocab = member(loader->model, "vocab"), *item;
    if (!cJSON_IsObject(vocab))
        return error_set(loader->err, "%s: the model has no vocab", loader->path);
    cJSON_ArrayForEach(item, vocab) if (read_token(loader, item) < 0) return -1;
    for (int byte = 0; byte < 256; byte++)
        if (loader->tokenizer->byte_ids[byte] < 0)
            return error_set(loader->err,
                             "%s: no token for the byte 0x%02X: only byte-level BPE, with all 256 "
                             "bytes in the vocabulary, is supported",
                             loader->path, (unsigned)byte);
    return 0;
}

/* ---- merges ---- */

/* The two names of a merge: ["a", "b"] or "a b". *joined (free() it) is "a", a zero, "b". */
static bool merge_names(const cJSON *item, char **joined, size_t *left, size_t *right) {
    const char *a = NULL, *b = NULL;
    if (cJSON_IsString(item)) {
        a = item->valuestring;
        const char *space = strchr(a, ' ');
        if (!space || strchr(space + 1, ' ')) return false;
        *left = (size_t)(space - a);
        b = space + 1;
    } else if (cJSON_IsArray(item) && cJSON_GetArraySize(item) == 2) {
        a = cJSON_GetStringValue(item->child);
        b = cJSON_GetStringValue(item->child->next);
        if (!a || !b) return false;
        *left = strlen(a);
    } else {
        return false;
    }
    *right = strlen(b);
    *joined = must_alloc(*left + *right + 1, 1);
    memcpy(*joined, a, *left);
    memcpy(*joined + *left, b, *right + 1);
    return true;
}

static int read_merge(Loader *loader, const cJSON *item, int number) {
    char *joined;
    size_t left, right;
    if (!merge_names(item, &joined, &left, &right))
        return error_set(loader->err, "%s: merge %d is neither [\"a\", \"b\"] nor \"a b\"",
                         loader->path, number);
    int32_t a = string_map_find(&loader->ids, joined, left);
    int32_t b = string_map_find(&loader->ids, joined + left, right);
    int32_t both = string_map_find(&loader->ids, joined, left + right);
    NameText name = name_text(joined);
    free(joined);
    if (a < 0 || b < 0 || both < 0)
        return error_set(loader->err, "%s: merge %d makes '%s', but %s is not in the vocabulary",
                         loader->path, number, name.text,
                         a < 0   ? "its left part"
                         : b < 0 ? "its right part"
                                 : "that");
    if (pair_map_find(&loader->tokenizer->ranks, a, b) >= 0)
        return error_set(loader->err, "%s: merge %d ('%s') is there twice", loader->path, number,
                         name.text);
    tokenizer_add_merge(loader->tokenizer, a, b, both);
    loader->merged[both] = true;
    return 0;
}

static int read_merges(Loader *loader) {
    const cJSON *merges = member(loader->model, "merges"), *item;
    if (!cJSON_IsArray(merges))
        return error_set(loader->err, "%s: the model has no merges", loader->path);
    int number = 0;
    loader->merged = must_alloc(loader->tokenizer->vocab_size, sizeof *loader->merged);
    cJSON_ArrayForEach(item, merges) {
        if (cJSON_IsString(item) && strncmp(item->valuestring, "#version", 8) == 0) continue;
        if (read_merge(loader, item, number++) < 0) return -1;
    }
    return 0;
}

/* A word that is a token is that token (Llama 3), and needs a way to be found by its bytes. */
static void index_words(Tokenizer *tokenizer) {
    tokenizer->ignore_merges = true;
    for (size_t id = 0; id < tokenizer->vocab_size; id++) {
        const Token *token = &tokenizer->tokens[id];
        if (token->kind == TOKEN_BYTES)
            string_map_put(&tokenizer->words, token->bytes, token->length, (int32_t)id);
    }
}

/* ---- added tokens ---- */

/* Can the token with this id come out of bytes and their merging? */
static bool is_made_of_bytes(const Loader *loader, int32_t id) {
    return loader->tokenizer->tokens[id].length == 1 || loader->merged[id];
}

static int check_added_token(const Loader *loader, const cJSON *item, const char *text,
                             int64_t id) {
    NameText name = name_text(text);
    const char *const unsupported[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++)
        if (!is_nothing(member(item, unsupported[i])))
            return error_set(loader->err, "%s: added token '%s': %s is not supported", loader->path,
                             name.text, unsupported[i]);
    if (strlen(text) > MAX_ADDED) /* looking for them takes as long at every place of a text */
        return error_set(loader->err,
                         "%s: added token '%s' has %zu bytes; at most %d are "
                         "supported",
                         loader->path, name.text, strlen(text), MAX_ADDED);
    if (string_map_find(&loader->added, text, strlen(text)) >= 0)
        return error_set(loader->err, "%s: added token '%s' is there twice", loader->path,
                         name.text);
    int32_t known = string_map_find(&loader->ids, text, strlen(text));
    if (known >= 0 ? known != id : is_taken(loader->tokenizer, id))
        return error_set(loader->err,
                         "%s: added token '%s' has the id %d, but the vocabulary says otherwise",
                         loader->path, name.text, (int)id);
    return 0;
}

static int read_added_token(Loader *loader, const cJSON *item) {
    Tokenizer *tokenizer = loader->tokenizer;
    const char *text = cJSON_GetStringValue(member(item, "content"));
    int64_t id;
    if (!text || !json_integer(member(item, "id"), 0, MAX_ID, &id))
        return error_set(loader->err, "%s: an added token lacks its content, or an id in 0 .. %d",
                         loader->path, MAX_ID);
    if (check_added_token(loader, item, text, id) < 0) return -1;
    string_map_put(&loader->added, text, strlen(text), (int32_t)id);

    /* An added token means its own text. The model's entry may have been read as bytes spelled in
     * the alphabet; what "<|endoftext|>" spells is itself, but "<é>" spells other bytes. */
    bool known = is_taken(tokenizer, id);
    const Token *token = known ? &tokenizer->tokens[id] : NULL;
    if (!known || token->length != strlen(text) || memcmp(token->bytes, text, token->length)) {
        if (known && is_made_of_bytes(loader, (int32_t)id))
            return error_set(loader->err,
                             "%s: added token '%s' is also made of bytes, and others than its own",
                             loader->path, name_text(text).text);
        tokenizer_set_token(tokenizer, (int32_t)id, text, strlen(text),
                            known ? TOKEN_TEXT : TOKEN_ADDED);
    }
    added_token(tokenizer, text, (int32_t)id, cJSON_IsTrue(member(item, "normalized")));
    if (strcmp(text, END_OF_TEXT) == 0) tokenizer_set_end(tokenizer, (int32_t)id);
    return 0;
}

static int read_added_tokens(Loader *loader) {
    const cJSON *list = member(loader->root, "added_tokens"), *item;
    if (is_nothing(list)) return 0;
    if (!cJSON_IsArray(list))
        return error_set(loader->err, "%s: added_tokens is not a list", loader->path);
    cJSON_ArrayForEach(item, list) if (read_added_token(loader, item) < 0) return -1;
    added_tokens_sort(loader->tokenizer);
    return 0;
}

/* ---- pre-tokenizer ---- */

static int choice(const cJSON *item, const char *const names[]) {
    for (int i = 0; names[i]; i++)
        if (is_string(item, names[i])) return i;
    return -1;
}

static int read_split(Loader *loader, const cJSON *item) {
    Splitter *splitter = &loader->tokenizer->splitter;
    const cJSON *pattern = member(item, "pattern"), *behavior = member(item, "behavior");
    const char *regex = cJSON_GetStringValue(member(pattern, "Regex"));
    const char *literal = cJSON_GetStringValue(member(pattern, "String"));
    bool invert = cJSON_IsTrue(member(item, "invert"));
    int kind = choice(behavior, split_behavior_names);
    if (kind < 0)
        return error_set(
            loader->err, "%s: a Split's behavior is %s, and not one of the five", loader->path,
            cJSON_IsString(behavior) ? name_text(behavior->valuestring).text : "missing");
    if (regex)
        return splitter_add(splitter, regex, (SplitBehavior)kind, invert, loader->path,
                            loader->err);
    if (literal && *literal)
        return splitter_add_literal(splitter, literal, (SplitBehavior)kind, invert, loader->path,
                                    loader->err);
    return error_set(loader->err, "%s: a Split has no pattern", loader->path);
}

/* Steps that are a Split by another name. Their classes are those of Rust, whose words have letters
 * of enclosed kinds and joiners, too. */
static const struct {
    const char *type, *pattern;
    SplitBehavior behavior;
    bool invert;
} named_splits[] = {
    {"Digits", "\\p{N}", SPLIT_CONTIGUOUS, false},
    {"Punctuation", "[\\p{P}!-/:-@\\[-`{-~]", SPLIT_ISOLATED, false},
    {"Whitespace",
     "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]+|"
     "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}\\p{White_Space}]+",
     SPLIT_REMOVED, true},
    {"WhitespaceSplit", "\\p{White_Space}", SPLIT_REMOVED, false},
};

/* 1: it was one of them; 0: it is none; -1: an error */
static int read_named_split(Loader *loader, const cJSON *item) {
    const cJSON *type = member(item, "type"), *behavior = member(item, "behavior");
    for (size_t i = 0; i < sizeof named_splits / sizeof *named_splits; i++) {
        if (!is_string(type, named_splits[i].type)) continue;
        SplitBehavior kind = named_splits[i].behavior;
        if (cJSON_IsTrue(member(item, "individual_digits"))) kind = SPLIT_ISOLATED;
        int given = choice(behavior, split_behavior_names);
        if (given >= 0 && kind == SPLIT_ISOLATED) kind = (SplitBehavior)given; /* Punctuation's */
        return splitter_add(&loader->tokenizer->splitter, named_splits[i].pattern, kind,
                            named_splits[i].invert, loader->path, loader->err)
                   ? -1
                   : 1;
    }
    return 0;
}

static int read_byte_level(Loader *loader, const cJSON *item) {
    if (!cJSON_IsFalse(member(item, "add_prefix_space"))) { /* the library's default is true */
        if (loader->tokenizer->splitter.count)
            return error_set(loader->err,
                             "%s: add_prefix_space behind another pre_tokenizer is "
                             "not supported",
                             loader->path);
        loader->tokenizer->adds_space = true;
    }
    /* Absent means true: files older than the option. */
    if (cJSON_IsFalse(member(item, "use_regex"))) return 0;
    return splitter_add(&loader->tokenizer->splitter, pattern_of_gpt2(), SPLIT_ISOLATED, false,
                        loader->path, loader->err);
}

/* *byte_level is set when the step that turns bytes into GPT-2's alphabet is met. */
static int read_pre_tokenizer(Loader *loader, const cJSON *item, bool *byte_level, int depth) {
    enum { DEEPEST = 8 };
    const cJSON *type = member(item, "type"), *step;
    if (is_string(type, "Sequence") && depth < DEEPEST) {
        cJSON_ArrayForEach(step, member(item, "pretokenizers")) {
            if (read_pre_tokenizer(loader, step, byte_level, depth + 1) < 0) return -1;
        }
        return 0;
    }
    /* What stands there sees letters of the alphabet and no text: "\u00b2" for a byte, say. */
    if (*byte_level)
        return error_set(loader->err, "%s: a pre_tokenizer after ByteLevel is not supported",
                         loader->path);
    if (is_string(type, "Split")) return read_split(loader, item);
    int named = read_named_split(loader, item);
    if (named) return named < 0 ? -1 : 0;
    if (!is_string(type, "ByteLevel"))
        return error_set(loader->err, "%s: the pre_tokenizer '%s' is not supported", loader->path,
                         cJSON_IsString(type) ? name_text(type->valuestring).text : "unknown");
    *byte_level = true;
    return read_byte_level(loader, item);
}

/* ---- loading ---- */

static int load(Loader *loader) {
    bool byte_level = false;
    if (check_model(loader) < 0 || read_vocab(loader) < 0 || read_merges(loader) < 0) return -1;
    if (read_added_tokens(loader) < 0 ||
        read_pre_tokenizer(loader, member(loader->root, "pre_tokenizer"), &byte_level, 0) < 0)
        return -1;
    if (!byte_level)
        return error_set(loader->err,
                         "%s: only byte-level BPE is supported, but there is no "
                         "ByteLevel pre_tokenizer",
                         loader->path);
    if (cJSON_IsTrue(member(loader->model, "ignore_merges"))) index_words(loader->tokenizer);
    return 0;
}

Tokenizer *tokenizer_load(const char *path, Error *err) {
    cJSON *root = json_load(path, err);
    if (!root) return NULL;
    Loader loader = {.tokenizer = tokenizer_new(), .path = path, .root = root, .err = err};
    loader.model = member(root, "model");
    int result = load(&loader);
    free(loader.ids.slots);
    free(loader.merged);
    free(loader.added.slots);
    cJSON *model = cJSON_GetObjectItemCaseSensitive(root, "model");
    cJSON_DeleteItemFromObjectCaseSensitive(model, "vocab");
    cJSON_DeleteItemFromObjectCaseSensitive(model, "merges");
    loader.tokenizer->shell = root;
    if (result == 0) return loader.tokenizer;
    tokenizer_free(loader.tokenizer);
    return NULL;
}

/* ---- saving ---- */

void shell_for_training(Tokenizer *tokenizer) {
    static const char frame[] =
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
        "\"normalizer\":null,"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,"
        "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
        "\"use_regex\":true},"
        "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
        "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,"
        "\"byte_fallback\":false,\"ignore_merges\":false}}";
    tokenizer->shell = cJSON_Parse(frame);
    if (!tokenizer->shell) fatal("not enough memory for the tokenizer");
    cJSON *token = cJSON_CreateObject();
    cJSON_AddNumberToObject(token, "id", tokenizer_eot(tokenizer));
    cJSON_AddStringToObject(token, "content", END_OF_TEXT);
    cJSON_AddBoolToObject(token, "single_word", 0);
    cJSON_AddBoolToObject(token, "lstrip", 0);
    cJSON_AddBoolToObject(token, "rstrip", 0);
    cJSON_AddBoolToObject(token, "normalized", 0);
    cJSON_AddBoolToObject(token, "special", 1);
    cJSON *list = cJSON_GetObjectItemCaseSensitive(tokenizer->shell, "added_tokens");
    cJSON_AddItemToArray(list, token);
}

/* The token as a tokenizer.json spells it; free() it. */
static char *spelling_of(const Token *token) {
    char *text = must_alloc(2 * token->length + 1, 1), *end = text;
    for (size_t i = 0; i < token->length; i++) {
        uint32_t character = (unsigned char)token->bytes[i];
        if (token->kind == TOKEN_BYTES) character = byte_to_character((unsigned char)character);
        if (character < 0x80 || token->kind != TOKEN_BYTES) {
            *end++ = (char)character;
        } else {
            *end++ = (char)(0xC0 | character >> 6);
            *end++ = (char)(0x80 | (character & 0x3F));
        }
    }
    *end = 0;
    return text;
}

static void add_tables(const Tokenizer *tokenizer, cJSON *model) {
    char **names = must_alloc(tokenizer->vocab_size, sizeof *names);
    cJSON *vocab = cJSON_AddObjectToObject(model, "vocab");
    for (size_t id = 0; id < tokenizer->vocab_size; id++) {
        const Token *token = &tokenizer->tokens[id];
        if (token->kind != TOKEN_BYTES && token->kind != TOKEN_TEXT) continue;
        names[id] = spelling_of(token);
        cJSON_AddNumberToObject(vocab, names[id], (double)id);
    }
    cJSON *merges = cJSON_AddArrayToObject(model, "merges");
    for (size_t i = 0; i < tokenizer->merge_count; i++) {
        const Merge *merge = &tokenizer->merges[i];
        const char *const pair[] = {names[merge->left], names[merge->right]};
        cJSON_AddItemToArray(merges, cJSON_CreateStringArray(pair, 2));
    }
    for (size_t id = 0; id < tokenizer->vocab_size; id++) free(names[id]);
    free(names);
}

int tokenizer_save(const Tokenizer *tokenizer, const char *path, Error *err) {
    cJSON *root = cJSON_Duplicate(tokenizer->shell, 1);
    add_tables(tokenizer, cJSON_GetObjectItemCaseSensitive(root, "model"));
    int result = json_save(path, root, err);
    cJSON_Delete(root);
    return result;
}
