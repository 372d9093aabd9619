/*
 * Text -> segments -> words.
 *
 * Two regular-expression engines must agree: the tokenizers library uses Oniguruma, we use PCRE2
 * (UTF and UCP). Both are backtracking engines with the same syntax for all that published
 * tokenizers use, but for two things. PCRE2's \s takes U+180E (Mongolian vowel separator) for a
 * space, which Unicode does not since version 6.3: so \s is spelled out before compiling. And ^ and
 * $ are the ends of a line, as in Ruby. (What is left are characters newer than an engine's Unicode
 * tables; PCRE2 10.42 knows Unicode 14.)
 *
 * PCRE2_MATCH_INVALID_UTF makes bytes that are not UTF-8 match nothing: they fall into the gaps
 * between matches, and a gap is a word like any other. No byte is lost.
 */
#include "common/text/tokenizer_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- patterns ---- */

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/*
 * Patterns of which we know that, where a space follows on an ASCII letter, a word begins: none of
 * them goes on from a letter to a space, looks ahead from behind a letter, or looks back. So a text
 * may be cut there, and its parts split by different threads, with the same words as a result.
 */
static const char *const patterns_cut_at_spaces[] = {
    gpt2_pattern,
    /* DeepSeek-V3: at most three digits; Chinese and Japanese; the rest */
    "\\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./"
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]"
    "+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    /* Llama 3 */
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+"
    "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
};

static bool is_cut_at_spaces(const char *pattern) {
    size_t count = sizeof patterns_cut_at_spaces / sizeof *patterns_cut_at_spaces;
    for (size_t i = 0; i < count; i++)
        if (strcmp(pattern, patterns_cut_at_spaces[i]) == 0) return true;
    return false;
}

/* The pattern with \s and \S spelled out, inside and outside of [...]. free() it. */
static char *spell_out_spaces(const char *pattern) {
    static const char spaces[] = "\\t-\\r \\x{85}\\p{Z}"; /* White_Space, Unicode 15 */
    char *out = must_alloc(strlen(pattern) + 1, sizeof spaces), *end = out;
    bool in_class = false;
    for (const char *s = pattern; *s; s++) {
        if (*s == '\\' && s[1]) {
            s++;
            if (*s == 's')
                end += sprintf(end, in_class ? "%s" : "[%s]", spaces);
            else if (*s == 'S' && in_class)
                end += sprintf(end, "\\S\\x{180e}");
            else if (*s == 'S')
                end += sprintf(end, "[^%s]", spaces);
            else
                end += sprintf(end, "\\%c", *s);
            continue;
        }
        *end++ = *s;
        if (*s == '[' && !in_class) {
            in_class = true;
            if (s[1] == '^') *end++ = *++s;
            if (s[1] == ']') *end++ = *++s; /* a ] that comes first is a character */
        } else if (*s == ']') {
            in_class = false;
        }
    }
    *end = 0;
    return out;
}

static pcre2_code *compile(const char *pattern, uint32_t options, const char *what, Error *err) {
    int code;
    PCRE2_SIZE where;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) fatal("not enough memory for a pattern");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF); /* the default depends on how PCRE2 was built */
    pcre2_code *compiled =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &code, &where, context);
    pcre2_compile_context_free(context);
    if (!compiled) {
        PCRE2_UCHAR message[120];
        pcre2_get_error_message(code, message, sizeof message);
        error_set(err, "%s: the pattern %.200s is wrong at byte %zu: %s", what, pattern, where,
                  (const char *)message);
        return NULL;
    }
    pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE); /* without it, matching is slow but right */
    return compiled;
}

int splitter_add(Splitter *splitter, const char *pattern, const char *what, Error *err) {
    if (splitter->count == MAX_PATTERNS)
        return error_set(err, "%s: more than %d patterns", what, MAX_PATTERNS);
    char *spelled = spell_out_spaces(pattern);
    pcre2_code *code = compile(spelled,
                               PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | PCRE2_MULTILINE |
                                   PCRE2_NEVER_BACKSLASH_C,
                               what, err);
    free(spelled);
    if (!code) return -1;
    if (splitter->count == 0) splitter->cuts_at_spaces = true;
    splitter->cuts_at_spaces &= is_cut_at_spaces(pattern);
    splitter->patterns[splitter->count++] = code;
    return 0;
}

int splitter_add_literal(Splitter *splitter, const char *text, const char *what, Error *err) {
    char *pattern = must_alloc(2 * strlen(text) + 1, 1), *end = pattern;
    for (; *text; text++) {
        if ((unsigned char)*text < 0x80 && !isalnum((unsigned char)*text)) *end++ = '\\';
        *end++ = *text;
    }
    *end = 0;
    int result = splitter_add(splitter, pattern, what, err);
    free(pattern);
    return result;
}

int splitter_add_gpt2(Splitter *splitter, const char *what, Error *err) {
    return splitter_add(splitter, gpt2_pattern, what, err);
}

void splitter_free(Splitter *splitter) {
    for (int i = 0; i < splitter->count; i++) pcre2_code_free(splitter->patterns[i]);
    splitter->count = 0;
}

/* ---- matching ---- */

enum { FIRST_STACK = 64 * 1024, LARGEST_STACK = 64 * 1024 * 1024 };

void matcher_init(Matcher *matcher) {
    matcher->match = pcre2_match_data_create(1, NULL);
    matcher->context = pcre2_match_context_create(NULL);
    matcher->stack = NULL;
    if (!matcher->match || !matcher->context) fatal("not enough memory to match patterns");
    pcre2_set_match_limit(matcher->context, UINT32_MAX); /* a long run of spaces is no attack */
}

void matcher_free(Matcher *matcher) {
    pcre2_match_data_free(matcher->match);
    pcre2_match_context_free(matcher->context);
    pcre2_jit_stack_free(matcher->stack);
}

/* PCRE2 begins with 32 KB of the thread's own stack. Only a pattern that nests repeats needs more,
 * and 64 MB of address space for every short text would cost more than encoding it. */
static void enlarge_stack(Matcher *matcher) {
    matcher->stack = pcre2_jit_stack_create(FIRST_STACK, LARGEST_STACK, NULL);
    if (!matcher->stack) fatal("not enough memory to match patterns");
    pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
}

/* The first match in text that starts at `from` or later. */
static bool find(pcre2_code *pattern, Matcher *matcher, const char *text, size_t length,
                 size_t from, size_t *start, size_t *end) {
    int code =
        pcre2_match(pattern, (PCRE2_SPTR)text, length, from, 0, matcher->match, matcher->context);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT && !matcher->stack) {
        enlarge_stack(matcher);
        return find(pattern, matcher, text, length, from, start, end);
    }
    if (code == PCRE2_ERROR_NOMATCH) return false;
    if (code < 0) {
        PCRE2_UCHAR message[120];
        pcre2_get_error_message(code, message, sizeof message);
        fatal("a pattern of the tokenizer failed on this text: %s", (const char *)message);
    }
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(matcher->match);
    *start = place[0];
    *end = place[1];
    return true;
}

static size_t next_character(const char *text, size_t length, size_t i) {
    for (i++; i < length && ((unsigned char)text[i] & 0xC0) == 0x80; i++) {}
    return i;
}

/* ---- words ---- */

typedef struct Split {
    const Splitter *splitter;
    Matcher *matcher;
    WordFunction word;
    void *user;
} Split;

/* Cuts a piece by pattern `stage`, and what it leaves by those after it. Each pattern sees a piece
 * as if it were a whole text: nothing is before it and nothing after. */
static void split_piece(const Split *split, int stage, const char *text, size_t length) {
    if (length == 0) return;
    if (stage == split->splitter->count) {
        split->word(split->user, text, length);
        return;
    }
    size_t done = 0, from = 0, start, end;
    bool matched = false; /* the last match ended at `done` */
    while (from <= length && find(split->splitter->patterns[stage], split->matcher, text, length,
                                  from, &start, &end)) {
        /* As everywhere, an empty match may not follow directly on a match: look further on. */
        if (start == end && matched && start == done) {
            from = next_character(text, length, from);
            continue;
        }
        split_piece(split, stage + 1, text + done, start - done);
        split_piece(split, stage + 1, text + start, end - start);
        done = from = end;
        matched = true;
    }
    split_piece(split, stage + 1, text + done, length - done);
}

void split_words(const Splitter *splitter, Matcher *matcher, const char *text, size_t length,
                 WordFunction word, void *user) {
    Split split = {splitter, matcher, word, user};
    split_piece(&split, 0, text, length);
}

/* ---- added tokens ---- */

void added_token(Tokenizer *tokenizer, const char *text, int32_t id, bool normalized) {
    if (!*text) return; /* would be everywhere */
    tokenizer->added = grow(tokenizer->added, &tokenizer->added_capacity,
                            tokenizer->added_count + 1, sizeof *tokenizer->added);
    char *copy = must_strdup(text);
    tokenizer->added[tokenizer->added_count++] =
        (AddedToken){.text = copy, .length = strlen(copy), .id = id, .normalized = normalized};
}

/* Those looked for first come first; of each kind in order of text. */
static int compare_added(const void *a, const void *b) {
    const AddedToken *x = a, *y = b;
    if (x->normalized != y->normalized) return x->normalized ? 1 : -1;
    return strcmp(x->text, y->text);
}

void added_tokens_sort(Tokenizer *tokenizer) {
    if (tokenizer->added_count == 0) return;
    qsort(tokenizer->added, tokenizer->added_count, sizeof *tokenizer->added, compare_added);
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        const AddedToken *token = &tokenizer->added[i];
        if (!token->normalized) tokenizer->added_first = i + 1;
        tokenizer->added_begins[token->normalized][(unsigned char)*token->text] = true;
    }
}

/* Of tokens low .. high, which agree before byte k, the first whose byte k is at least c. */
static size_t lower_bound(const AddedToken *added, size_t low, size_t high, size_t k, int c) {
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((unsigned char)added[middle].text[k] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/*
 * The longest added token that text begins with, or NULL. In the sorted list those that agree with
 * the first k bytes are neighbours, low .. high; one that is no longer than that comes first.
 */
static const AddedToken *added_at(const Tokenizer *tokenizer, int pass, const char *text,
                                  size_t length) {
    const AddedToken *added = tokenizer->added, *longest = NULL;
    size_t low = pass ? tokenizer->added_first : 0;
    size_t high = pass ? tokenizer->added_count : tokenizer->added_first;
    for (size_t k = 0; low < high; k++) {
        if (added[low].length == k) longest = &added[low++];
        if (k == length) break;
        int c = (unsigned char)text[k];
        low = lower_bound(added, low, high, k, c);
        high = lower_bound(added, low, high, k, c + 1);
    }
    return longest;
}

/* ---- segments ---- */

typedef struct Segments {
    Segment *list;
    size_t count, capacity;
} Segments;

static void add_segment(Segments *segments, const char *text, size_t length, int32_t id) {
    if (length == 0) return;
    segments->list =
        grow(segments->list, &segments->capacity, segments->count + 1, sizeof *segments->list);
    segments->list[segments->count++] = (Segment){text, length, id};
}

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* Adds text without added tokens, in parts of `limit` bytes or a little more. */
static void add_parts(Segments *segments, const Splitter *splitter, const char *text, size_t length,
                      size_t limit) {
    size_t begin = 0, i = limit;
    while (splitter->cuts_at_spaces && i < length) {
        if (text[i] == ' ' && is_letter(text[i - 1])) {
            add_segment(segments, text + begin, i - begin, -1);
            begin = i;
            i += limit;
        } else {
            i++;
        }
    }
    add_segment(segments, text + begin, length - begin, -1);
}

/* First those tokens that the file does not call normalized, then, in between, the others. */
static void add_found(Segments *segments, const Tokenizer *tokenizer, int pass, const char *text,
                      size_t length, size_t limit) {
    if (pass == 2) {
        add_parts(segments, &tokenizer->splitter, text, length, limit);
        return;
    }
    size_t done = 0;
    for (size_t i = 0; i < length;) {
        bool begins = tokenizer->added_begins[pass][(unsigned char)text[i]];
        const AddedToken *token = begins ? added_at(tokenizer, pass, text + i, length - i) : NULL;
        if (!token) {
            i++;
            continue;
        }
        add_found(segments, tokenizer, pass + 1, text + done, i - done, limit);
        add_segment(segments, text + i, token->length, token->id);
        i += token->length;
        done = i;
    }
    add_found(segments, tokenizer, pass + 1, text + done, length - done, limit);
}

Segment *segments_of(const Tokenizer *tokenizer, const char *text, size_t length, size_t limit,
                     size_t *count) {
    CHECK(limit > 0, "segments of no bytes");
    if (!text) text = ""; /* no text is a text of no bytes */
    Segments segments = {0};
    add_found(&segments, tokenizer, 0, text, length, limit);
    *count = segments.count;
    return segments.list;
}
