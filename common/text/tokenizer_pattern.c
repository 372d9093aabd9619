/*
 * One pattern of a tokenizer: where does it match next?
 *
 * Patterns are written for the engine of the tokenizers library, Oniguruma, in its own syntax and
 * with no options (^ and $ are the ends of a line, [a&&b] is an intersection, a++ is possessive,
 * a{2}+ is not). We use the same engine, so that a pattern means the same here. What may differ are
 * characters newer than an engine's Unicode tables (6.9.8 knows Unicode 14).
 *
 * The patterns that most texts go through (GPT-2's, DeepSeek-V3's three, Llama 3's, Qwen 2's) are
 * also written out below as loops over characters: the same words in a quarter of the time. They
 * are known by their text, take the classes of characters out of the engine's own tables, and are
 * tested against it.
 *
 * Limits. A backtracking engine can take years for a short text. As in the library, a match gives
 * up after ten million steps back (and some for long texts); all searches in a text together may
 * take a minute, and a second more for every 10,000 bytes, of this thread's time.
 */
#define _GNU_SOURCE /* CLOCK_MONOTONIC_COARSE */
#include "common/text/tokenizer_internal.h"

#include "common/files/json.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- classes of characters ---- */

enum {
    CLASS_L = 1,
    CLASS_M = 2,
    CLASS_N = 4,
    CLASS_PS = 8,
    CLASS_SPACE = 16,
    CHARACTERS = 0x110000
};

static unsigned char classes[CHARACTERS]; /* zero pages until a character of them is met */

static void add_class(const char *property, unsigned char bit) {
    OnigCodePoint out;
    const OnigCodePoint *ranges; /* how many, then from, to, from, to, ... */
    const OnigEncoding utf8 = ONIG_ENCODING_UTF8;
    int ctype = utf8->property_name_to_ctype(utf8, (OnigUChar *)property,
                                             (OnigUChar *)property + strlen(property));
    CHECK(ctype >= 0 && utf8->get_ctype_code_range((OnigCtype)ctype, &out, &ranges) == 0,
          "Oniguruma has no table for %s", property);
    for (OnigCodePoint r = 0; r < ranges[0]; r++)
        for (OnigCodePoint c = ranges[2 * r + 1]; c <= ranges[2 * r + 2] && c < CHARACTERS; c++)
            classes[c] |= bit;
}

static void open_engine(void) {
    OnigEncoding utf8 = ONIG_ENCODING_UTF8;
    CHECK(onig_initialize(&utf8, 1) == ONIG_NORMAL, "Oniguruma does not start");
    add_class("L", CLASS_L);
    add_class("M", CLASS_M);
    add_class("N", CLASS_N);
    add_class("P", CLASS_PS);
    add_class("S", CLASS_PS);
    add_class("Space", CLASS_SPACE);
}

/* A text that is being looked through; it is valid UTF-8. */
typedef struct Reading {
    const unsigned char *text;
    size_t length;
} Reading;

static inline uint32_t character_at(const Reading *r, size_t i, size_t *next) {
    const unsigned char *s = r->text + i;
    if (s[0] < 0x80) return *next = i + 1, s[0];
    if (s[0] < 0xE0) return *next = i + 2, (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    if (s[0] < 0xF0)
        return *next = i + 3, (s[0] & 0xFu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    *next = i + 4;
    return (s[0] & 7u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
}

/* The classes of the character at i, 0 behind the end. */
static inline int class_at(const Reading *r, size_t i, size_t *next) {
    if (i >= r->length) return *next = i, 0;
    return classes[character_at(r, i, next)];
}

/* Behind the characters from i on that have one of these classes. */
static inline size_t run_of(const Reading *r, size_t i, int wanted) {
    for (size_t next; class_at(r, i, &next) & wanted; i = next) {}
    return i;
}

static bool is_line_end(unsigned char c) { return c == '\r' || c == '\n'; }

/* [^\s\p{L}\p{N}]+ */
static inline size_t run_of_others(const Reading *r, size_t i) {
    for (size_t next; i < r->length && !(class_at(r, i, &next) & (CLASS_L | CLASS_N | CLASS_SPACE));
         i = next) {}
    return i;
}

/* [\r\n]* */
static size_t run_of_line_ends(const Reading *r, size_t i) {
    while (i < r->length && is_line_end(r->text[i])) i++;
    return i;
}

/* \s+(?!\S)|\s+ at i, where white space stands: all of it up to the end of the text; before other
 * text all but its last character, unless that is the only one. */
static size_t white_space(const Reading *r, size_t i) {
    size_t last = i, end = i, next;
    while (class_at(r, end, &next) & CLASS_SPACE) last = end, end = next;
    return end < r->length && last > i ? last : end;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t lines_or_space(const Reading *r, size_t i) {
    size_t lines = i, end = i;
    for (size_t next; class_at(r, end, &next) & CLASS_SPACE; end = next)
        if (is_line_end(r->text[end])) lines = next;
    return lines > i ? lines : end > i ? white_space(r, i) : i;
}

/* ---- patterns as loops: the end of the match at i, or i where there is none ---- */

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t match_gpt2(const Reading *r, size_t i) {
    const unsigned char *s = r->text + i;
    size_t left = r->length - i, next;
    if (*s == '\'' && left > 1) {
        if (strchr("stmd", s[1]) && s[1]) return i + 2;
        if (left > 2 &&
            ((s[2] == 'e' && (s[1] == 'r' || s[1] == 'v')) || (s[2] == 'l' && s[1] == 'l')))
            return i + 3;
    }
    size_t word = i + (*s == ' ');
    int class = class_at(r, word, &next);
    if (class & CLASS_L) return run_of(r, next, CLASS_L);
    if (class & CLASS_N) return run_of(r, next, CLASS_N);
    if (class & CLASS_SPACE || word == r->length) return white_space(r, i);
    return run_of_others(r, next);
}

/* \p{N}{1,3} */
static size_t match_digits(const Reading *r, size_t i) {
    size_t next;
    for (int n = 0; n < 3 && class_at(r, i, &next) & CLASS_N; n++) i = next;
    return i;
}

/* [一-龥぀-ゟ゠-ヿ]+ */
static size_t match_chinese(const Reading *r, size_t i) {
    for (size_t next; i < r->length && r->text[i] >= 0xE3; i = next) {
        uint32_t c = character_at(r, i, &next);
        if (!((c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF))) break;
    }
    return i;
}

static bool is_ascii_letter(unsigned char c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }

static bool is_ascii_punctuation(unsigned char c) {
    return c > ' ' && c < 0x7F && !is_ascii_letter(c) && !(c >= '0' && c <= '9');
}

/* Punctuation and letters; letters, behind anything but letters, punctuation and line ends;
 * punctuation; line ends; white space. Digits, say, match only before letters. */
static size_t match_deepseek(const Reading *r, size_t i) {
    const unsigned char *s = r->text + i;
    size_t next, end;
    if (is_ascii_punctuation(*s) && i + 1 < r->length && is_ascii_letter(s[1])) {
        for (end = i + 2; end < r->length && is_ascii_letter(r->text[end]); end++) {}
        return end;
    }
    int class = class_at(r, i, &next);
    if (!is_line_end(*s) && !(class & (CLASS_L | CLASS_PS))) {
        end = run_of(r, next, CLASS_L | CLASS_M);
        if (end > next) return end;
    }
    if (class & (CLASS_L | CLASS_M)) return run_of(r, next, CLASS_L | CLASS_M);
    size_t sign = i + (*s == ' ');
    end = run_of(r, sign, CLASS_PS);
    return end > sign ? run_of_line_ends(r, end) : lines_or_space(r, i);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d) at an apostrophe. Small letters are also what others become without
 * their case: the long s, U+017F, is an s. */
static size_t contraction(const Reading *r, size_t i) {
    const unsigned char *s = r->text + i;
    size_t left = r->length - i;
    int a = left > 1 ? s[1] | 0x20 : 0, b = left > 2 ? s[2] | 0x20 : 0;
    if (left > 1 && is_ascii_letter(s[1]) && strchr("stmd", a)) return i + 2;
    if (left > 2 && s[1] == 0xC5 && s[2] == 0xBF) return i + 3;
    bool two = ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l');
    return two && is_ascii_letter(s[1]) && is_ascii_letter(s[2]) ? i + 3 : i;
}

/*
 * Llama 3's, and Qwen 2's, which differ in the digits of a word: a contraction; letters, behind
 * anything but letters, digits and line ends; digits; others with line ends; line ends; white
 * space.
 */
static size_t match_llama(const Reading *r, size_t i, int digits) {
    const unsigned char *s = r->text + i;
    size_t next, end = *s == '\'' ? contraction(r, i) : i;
    if (end > i) return end;
    int class = class_at(r, i, &next);
    if (class & CLASS_L) return run_of(r, next, CLASS_L);
    if (class & CLASS_N) {
        for (end = i; digits && class_at(r, end, &next) & CLASS_N; digits--) end = next;
        return end;
    }
    if (!is_line_end(*s)) {
        end = run_of(r, next, CLASS_L);
        if (end > next) return end;
    }
    size_t other = i + (*s == ' ');
    end = run_of_others(r, other);
    return end > other ? run_of_line_ends(r, end) : lines_or_space(r, i);
}

static size_t match_llama3(const Reading *r, size_t i) { return match_llama(r, i, 3); }
static size_t match_qwen2(const Reading *r, size_t i) { return match_llama(r, i, 1); }

#define LLAMA(digits)                                                          \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *pattern;
    size_t (*match)(const Reading *r, size_t i);
} known[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     match_gpt2},
    {"\\p{N}{1,3}", match_digits},
    {"[一-龥぀-ゟ゠-ヿ]+", match_chinese},
    {"[!\"#$%&'()*+,\\-./"
     ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]"
     "+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     match_deepseek},
    {LLAMA("{1,3}"), match_llama3},
    {LLAMA(""), match_qwen2},
};

/* ---- compiling ---- */

/*
 * The library is built with a newer Oniguruma than Debian's 6.9.8. In two things they differ: newer
 * ones count symbols as [:punct:], too, and 6.9.8 does not repeat \R. Both are spelled out. free()
 * the result.
 */
static char *spell_out(const char *pattern) {
    static const struct {
        const char *from, *to;
        bool in_class;
    } spellings[] = {{"[:punct:]", "[:punct:]\\p{S}", true},
                     {"[:^punct:]", "[^\\p{P}\\p{S}]", true},
                     {"\\R", "(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])", false}};
    char *out = must_alloc(strlen(pattern) + 1, 20), *end = out; /* two bytes become 35 at most */
    int depth = 0;                                               /* of classes */
    for (const char *s = pattern; *s;) {
        size_t taken = *s == '\\' && s[1] ? 2 : 1;
        const char *to = NULL;
        for (size_t i = 0; i < sizeof spellings / sizeof *spellings && !to; i++) {
            size_t length = strlen(spellings[i].from);
            if (spellings[i].in_class != (depth > 0) || strncmp(s, spellings[i].from, length))
                continue;
            to = spellings[i].to;
            taken = length;
        }
        if (to) {
            end = stpcpy(end, to);
        } else {
            if (*s == '[') depth++;
            if (*s == '[' && s[1] == '^') taken++;
            if (*s == '[' && s[taken] == ']') taken++; /* a ] that comes first is a character */
            if (*s == ']' && depth) depth--;
            memcpy(end, s, taken);
            end += taken;
        }
        s += taken;
    }
    *end = 0;
    return out;
}

int pattern_compile(Pattern *pattern, const char *text, const char *what, Error *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_engine);
    OnigErrorInfo info;
    char *spelled = spell_out(text);
    int code = onig_new(&pattern->regex, (const OnigUChar *)spelled,
                        (const OnigUChar *)spelled + strlen(spelled), ONIG_OPTION_NONE,
                        ONIG_ENCODING_UTF8, ONIG_SYNTAX_ONIGURUMA, &info);
    if (code != ONIG_NORMAL) {
        OnigUChar message[ONIG_MAX_ERROR_MESSAGE_LEN];
        onig_error_code_to_str(message, code, &info);
        pattern->regex = NULL;
        free(spelled); /* the message quotes it: not before */
        return error_set(err, "%s: the pattern %s is wrong: %s", what, name_text(text).text,
                         name_text((const char *)message).text);
    }
    free(spelled);
    pattern->known = -1;
    for (int k = 0; k < (int)(sizeof known / sizeof *known); k++)
        if (strcmp(text, known[k].pattern) == 0) pattern->known = k;
    return 0;
}

void pattern_free(Pattern *pattern) { onig_free(pattern->regex); }

const char *pattern_of_gpt2(void) { return known[0].pattern; }

/* ---- matching ---- */

void matcher_init(Matcher *matcher) {
    *matcher = (Matcher){.region = onig_region_new(), .param = onig_new_match_param()};
    if (!matcher->region || !matcher->param) fatal("not enough memory to match patterns");
    onig_initialize_match_param(matcher->param);
}

void matcher_free(Matcher *matcher) {
    onig_region_free(matcher->region, 1);
    onig_free_match_param(matcher->param);
}

void matcher_begin(Matcher *matcher, size_t length) {
    enum { STEPS = 10000000, STACK = 1 << 24 }; /* the stack's entries have 40 bytes */
    onig_set_retry_limit_in_match_of_match_param(matcher->param, STEPS + 16 * length);
    onig_set_match_stack_limit_size_of_match_param(matcher->param, STACK);
    matcher->seconds_allowed = 60 + 1e-4 * (double)length;
    matcher->second = 0;
}

/* Looks at a clock that costs next to nothing, and when it has moved by a second, at this thread's
 * own: a busy machine, or a program that is halted for a while, is no slow pattern. */
static void check_time(Matcher *matcher) {
    struct timespec now, used;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    if (now.tv_sec == matcher->second) return;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    double seconds = (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
    if (matcher->second == 0) matcher->started = seconds;
    matcher->second = now.tv_sec;
    if (seconds - matcher->started > matcher->seconds_allowed)
        fatal("a pattern of the tokenizer has taken more than %.0f seconds for a text: it is not "
              "fit for it",
              matcher->seconds_allowed);
}

bool pattern_find(const Pattern *pattern, Matcher *matcher, const char *text, size_t length,
                  size_t from, size_t *start, size_t *end) {
    if (pattern->known >= 0) {
        Reading reading = {(const unsigned char *)text, length};
        for (size_t i = from, next; i < length; i = next) {
            *start = i;
            *end = known[pattern->known].match(&reading, i);
            if (*end > i) return true;
            character_at(&reading, i, &next);
        }
        return false;
    }
    check_time(matcher);
    const OnigUChar *s = (const OnigUChar *)text;
    int code = onig_search_with_param(pattern->regex, s, s + length, s + from, s + length,
                                      matcher->region, ONIG_OPTION_NONE, matcher->param);
    if (code == ONIG_MISMATCH) return false;
    if (code < 0) {
        OnigUChar message[ONIG_MAX_ERROR_MESSAGE_LEN];
        onig_error_code_to_str(message, code);
        fatal("a pattern of the tokenizer gives up on a text of %zu bytes: %s", length,
              (const char *)message);
    }
    *start = (size_t)matcher->region->beg[0];
    *end = (size_t)matcher->region->end[0];
    return true;
}
