/*
 * Text -> segments -> words.
 *
 * A text is cut at its added tokens. What is between them goes through the splitter's steps, one
 * after the other: each cuts every piece that it is given at its pattern's matches, and sees that
 * piece as if it were a whole text, with nothing before and nothing behind.
 *
 * The patterns' engine reads valid UTF-8 only. Bytes that are none are words of their own, as many
 * of them as stand in a row, and end the piece before them: no byte is lost.
 */
#include "common/text/tokenizer_internal.h"

#include "common/core/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- steps ---- */

const char *const split_behavior_names[] = {"Isolated",           "Removed",        "Contiguous",
                                            "MergedWithPrevious", "MergedWithNext", NULL};

/*
 * Of the patterns that are also loops we know that, where a space follows on an ASCII letter, a
 * word begins: none of them goes on from a letter to a space, looks ahead from behind a letter, or
 * looks back. So a text may be cut there, and its parts split by different threads, with the same
 * words as a result.
 */
static bool is_cut_at_spaces(const SplitStep *step) {
    return step->behavior == SPLIT_ISOLATED && step->pattern.known >= 0;
}

int splitter_add(Splitter *splitter, const char *pattern, SplitBehavior behavior, bool invert,
                 const char *what, Error *err) {
    if (splitter->count == MAX_PATTERNS)
        return error_set(err, "%s: more than %d patterns", what, MAX_PATTERNS);
    SplitStep step = {.behavior = behavior, .invert = invert};
    if (pattern_compile(&step.pattern, pattern, what, err)) return -1;
    if (splitter->count == 0) splitter->cuts_at_spaces = true;
    splitter->cuts_at_spaces &= is_cut_at_spaces(&step);
    splitter->steps[splitter->count++] = step;
    return 0;
}

int splitter_add_literal(Splitter *splitter, const char *text, SplitBehavior behavior, bool invert,
                         const char *what, Error *err) {
    char *pattern = must_alloc(2 * strlen(text) + 1, 1), *end = pattern;
    for (; *text; text++) {
        if (strchr("\\.+*?()|[]{}^$#&-~", *text)) *end++ = '\\';
        *end++ = *text;
    }
    *end = 0;
    int result = splitter_add(splitter, pattern, behavior, invert, what, err);
    free(pattern);
    return result;
}

void splitter_free(Splitter *splitter) {
    for (int i = 0; i < splitter->count; i++) pattern_free(&splitter->steps[i].pattern);
    splitter->count = 0;
}

/* ---- words ---- */

typedef struct Split {
    const Splitter *splitter;
    Matcher *matcher;
    WordFunction word;
    void *user;
} Split;

/* A match (or a gap) of a step in a piece. */
typedef struct Span {
    size_t start, end;
    bool match;
} Span;

typedef struct Spans {
    Span *list;
    size_t count, capacity;
} Spans;

static void split_piece(const Split *split, int stage, const char *text, size_t length);

/* Adds a span, or makes the one before it longer. */
static void add_span(Spans *spans, Span span, SplitBehavior behavior) {
    const Span *last = spans->count ? &spans->list[spans->count - 1] : NULL;
    bool joins = last && ((behavior == SPLIT_CONTIGUOUS && last->match == span.match) ||
                          (behavior == SPLIT_MERGED_WITH_PREVIOUS && span.match && !last->match) ||
                          (behavior == SPLIT_MERGED_WITH_NEXT && last->match && !span.match));
    if (joins) {
        spans->list[spans->count - 1].end = span.end;
        spans->list[spans->count - 1].match = span.match;
        return;
    }
    spans->list = grow(spans->list, &spans->capacity, spans->count + 1, sizeof *spans->list);
    spans->list[spans->count++] = span;
}

/* A span goes on to the next step at once, or, where its neighbours matter, onto the list. */
static void found(const Split *split, int stage, const char *text, Spans *spans, size_t start,
                  size_t end, bool match) {
    const SplitStep *step = &split->splitter->steps[stage];
    match ^= step->invert;
    if (step->behavior > SPLIT_REMOVED)
        add_span(spans, (Span){start, end, match}, step->behavior);
    else if (!(match && step->behavior == SPLIT_REMOVED))
        split_piece(split, stage + 1, text + start, end - start);
}

static size_t next_character(const char *text, size_t length, size_t i) {
    for (i++; i < length && ((unsigned char)text[i] & 0xC0) == 0x80; i++) {}
    return i;
}

/* Cuts a piece by step `stage`, and what it leaves by those after it. */
static void split_piece(const Split *split, int stage, const char *text, size_t length) {
    if (length == 0) return;
    if (stage == split->splitter->count) {
        split->word(split->user, text, length);
        return;
    }
    Spans spans = {0};
    size_t done = 0, from = 0, start, end;
    bool matched = false; /* the last match ended at `done` */
    while (from <= length && pattern_find(&split->splitter->steps[stage].pattern, split->matcher,
                                          text, length, from, &start, &end)) {
        /* As everywhere, an empty match may not follow directly on a match: look further on. */
        if (start == end && matched && start == done) {
            from = next_character(text, length, from);
            continue;
        }
        if (start > done) found(split, stage, text, &spans, done, start, false);
        found(split, stage, text, &spans, start, end, true);
        done = from = end;
        matched = true;
    }
    if (length > done) found(split, stage, text, &spans, done, length, false);
    for (size_t i = 0; i < spans.count; i++)
        split_piece(split, stage + 1, text + spans.list[i].start,
                    spans.list[i].end - spans.list[i].start);
    free(spans.list);
}

/* How many bytes from here on are valid UTF-8; *invalid: how many behind them are not. */
static size_t valid_bytes(const char *text, size_t length, size_t *invalid) {
    size_t valid = 0;
    int step = 1;
    while (valid < length && step > 0) {
        uint64_t eight;
        while (valid + 8 <= length && /* ASCII, mostly */
               (memcpy(&eight, text + valid, 8), !(eight & 0x8080808080808080u)))
            valid += 8;
        if (valid == length) break;
        step = utf8_character(text + valid, length - valid);
        if (step > 0) valid += (size_t)step;
    }
    *invalid = 0;
    while (valid + *invalid < length &&
           (step = utf8_character(text + valid + *invalid, length - valid - *invalid)) < 0)
        *invalid += (size_t)-step;
    return valid;
}

void split_words(const Splitter *splitter, Matcher *matcher, const char *text, size_t length,
                 WordFunction word, void *user) {
    Split split = {splitter, matcher, word, user};
    matcher_begin(matcher, length);
    for (size_t valid, invalid; length; text += valid + invalid, length -= valid + invalid) {
        valid = valid_bytes(text, length, &invalid);
        split_piece(&split, 0, text, valid);
        if (invalid) word(user, text + valid, invalid);
    }
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
    segments->list[segments->count++] = (Segment){.text = text, .length = length, .id = id};
}

void segments_free(Segment *segments, size_t count) {
    for (size_t i = 0; i < count; i++) free(segments[i].owned);
    free(segments);
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

static void put_space_before(Segment *segment) {
    segment->owned = must_alloc(segment->length + 1, 1);
    segment->owned[0] = ' ';
    memcpy(segment->owned + 1, segment->text, segment->length);
    segment->text = segment->owned;
    segment->length++;
}

/* First those tokens that the file does not call normalized, then, in between, the others. */
static void add_found(Segments *segments, const Tokenizer *tokenizer, int pass, const char *text,
                      size_t length, size_t limit) {
    if (pass == 2) {
        size_t first = segments->count;
        add_parts(segments, &tokenizer->splitter, text, length, limit);
        if (tokenizer->adds_space && length && *text != ' ')
            put_space_before(&segments->list[first]);
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
