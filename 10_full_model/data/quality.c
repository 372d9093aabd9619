/*
 * The rules and how they are measured. One pass cuts the text into words and looks at each; lines,
 * pairs and phrases are then counted by their hashes, in a table that is kept from document to
 * document. All measures are always made; quality_judge() names the first that is out of its
 * limits.
 */
#include "10_full_model/data/quality.h"

#include "10_full_model/data/hash128.h"
#include "common/core/memory.h"

#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* [rules] */
const QualityRuleText quality_rules[QUALITY_RULES] = {
    {"words", 50, 100000, "words"},
    {"word-length", 3, 10, "mean characters of a word"},
    {"symbols", 0, 0.1, "# and ellipses, for each word"},
    {"letters", 0.8, 1, "share of the words that have a letter"},
    {"stop-words", 2, 8, "how many of: the be to of and that have with"},
    {"bullets", 0, 0.9, "share of the lines that begin with a bullet"},
    {"ellipses", 0, 0.3, "share of the lines that end with an ellipsis"},
    {"repeated-lines", 0, 0.2, "share of the text in lines that stood before"},
    {"top-pair", 0, 0.2, "share of the text in its commonest pair of words"},
    {"repeated-phrases", 0, 0.15, "share of the text in five words seen before"},
};
/* [/rules] */

QualityLimits quality_defaults(void) {
    QualityLimits limits;
    for (int i = 0; i < QUALITY_RULES; i++) {
        limits.low[i] = quality_rules[i].low;
        limits.high[i] = quality_rules[i].high;
    }
    return limits;
}

QualityLimits quality_off(void) {
    QualityLimits limits;
    for (int i = 0; i < QUALITY_RULES; i++) limits.low[i] = -INFINITY, limits.high[i] = INFINITY;
    return limits;
}

/* ---- limits as text ---- */

static int unknown_rule(const char *text, Error *err) {
    char names[300] = "";
    for (int i = 0; i < QUALITY_RULES; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", quality_rules[i].name);
    }
    return error_set(err, "'%.80s' is no limit: NAME=LOW..HIGH or NAME=off, NAME one of: %s", text,
                     names);
}

/* A number up to `end`, or `missing` where there is none; false if it is something else. */
static bool limit_number(const char *text, const char *end, double missing, double *value) {
    char *behind;
    *value = missing;
    if (text == end) return true;
    if (isspace((unsigned char)*text)) return false;
    *value = strtod(text, &behind);
    return behind == end && isfinite(*value);
}

int quality_set(QualityLimits *limits, const char *text, Error *err) {
    const char *equals = strchr(text, '=');
    for (int i = 0; equals && i < QUALITY_RULES; i++) {
        const char *name = quality_rules[i].name, *value = equals + 1;
        if (strlen(name) != (size_t)(equals - text) || strncmp(name, text, strlen(name))) continue;
        double low = -INFINITY, high = INFINITY;
        if (strcmp(value, "off")) {
            /* "1...5" is "1." and ".5" to strtod: a number ends at the first two dots. */
            const char *dots = strstr(value, "..");
            char first[40] = "";
            if (!dots || dots - value >= (int)sizeof first) return unknown_rule(text, err);
            memcpy(first, value, (size_t)(dots - value));
            const char *last = dots + 2;
            if (!limit_number(first, first + strlen(first), low, &low) ||
                !limit_number(last, last + strlen(last), high, &high) || low > high)
                return unknown_rule(text, err);
        }
        limits->low[i] = low;
        limits->high[i] = high;
        return 0;
    }
    return unknown_rule(text, err);
}

int quality_judge(const QualityLimits *limits, const double values[QUALITY_RULES]) {
    for (int i = 0; i < QUALITY_RULES; i++)
        if (!(values[i] >= limits->low[i] && values[i] <= limits->high[i])) return i;
    return -1;
}

/* ---- words ---- */

typedef struct Word {
    uint64_t hash;
    uint32_t bytes;
} Word;

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t'; }

static uint64_t hash_bytes(const char *text, size_t bytes) {
    uint64_t h = bytes, k = 0;
    for (; bytes >= 8; text += 8, bytes -= 8) {
        memcpy(&k, text, 8);
        h = mix64(h ^ k);
    }
    k = 0;
    memcpy(&k, text, bytes);
    return mix64(h ^ k);
}

/* "…" */
static bool is_ellipsis(const char *text, size_t bytes) {
    return bytes >= 3 && (!memcmp(text, "...", 3) || !memcmp(text, "\xE2\x80\xA6", 3));
}

static size_t count_symbols(const char *word, size_t bytes) {
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (word[i] == '#') count++;
        if (word[i] != '.' && word[i] != '\xE2') continue; /* nearly always */
        if (!is_ellipsis(word + i, bytes - i)) continue;
        count++;
        i += 2;
    }
    return count;
}

/* ASCII letters, and all beyond ASCII but the punctuation of U+2000 .. U+206F (E2 80 xx, E2 81
 * xx). */
static bool has_letter(const char *word, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)word[i];
        if (isalpha(c)) return true;
        if (c < 0xC2) continue;
        if (c == 0xE2 && i + 1 < bytes && ((unsigned char)word[i + 1] & 0xFE) == 0x80)
            i += 2;
        else
            return true;
    }
    return false;
}

/* The bit of a stop word, whatever its case and the punctuation around it; 0 for all others. */
static unsigned stop_word(const char *word, size_t bytes) {
    static const char stops[8][5] = {"the", "be", "to", "of", "and", "that", "have", "with"};
    if (bytes > 12) return 0; /* four letters and some quotes and brackets */
    while (bytes && ispunct((unsigned char)word[bytes - 1])) bytes--;
    while (bytes && ispunct((unsigned char)*word)) word++, bytes--;
    if (bytes < 2 || bytes > 4) return 0;
    char lower[4] = "";
    for (size_t i = 0; i < bytes; i++) lower[i] = (char)tolower((unsigned char)word[i]);
    for (unsigned i = 0; i < 8; i++)
        if (!memcmp(lower, stops[i], 4)) return 1u << i;
    return 0;
}

/* ---- tables of hashes ---- */

typedef struct Slot {
    uint64_t hash;
    size_t count;
} Slot;

/* Empty, with room for `entries`. */
static Slot *table_for(QualityScratch *scratch, size_t entries, size_t *mask) {
    size_t slots = 64;
    while (slots < 2 * entries) slots *= 2;
    if (slots > scratch->table_slots) {
        free(scratch->table);
        scratch->table = must_alloc(slots, sizeof(Slot));
        scratch->table_slots = slots;
    }
    memset(scratch->table, 0, slots * sizeof(Slot));
    *mask = slots - 1;
    return scratch->table;
}

/* How often it has been seen, this time included. */
static size_t table_count(Slot *table, size_t mask, uint64_t hash) {
    size_t i = hash & mask;
    while (table[i].count && table[i].hash != hash) i = (i + 1) & mask;
    table[i].hash = hash;
    return ++table[i].count;
}

static uint64_t phrase_hash(const Word *words, size_t count) {
    uint64_t hash = count;
    for (size_t i = 0; i < count; i++) hash = (hash + words[i].hash) * 0x9E3779B97F4A7C15ull;
    return mix64(hash);
}

static size_t phrase_bytes(const Word *words, size_t count) {
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) bytes += words[i].bytes;
    return bytes;
}

/* ---- measures ---- */

/* -, * or a bullet, and a space behind it: a line may also begin with *emphasis*. */
static bool is_bullet(const char *line, size_t bytes) {
    size_t mark = *line == '-' || *line == '*' ? 1 : 3;
    if (bytes <= mark || !is_space(line[mark])) return false;
    return mark == 1 || !memcmp(line, "\xE2\x80\xA2", 3);
}

static void measure_lines(const char *text, size_t bytes, QualityScratch *scratch,
                          double values[QUALITY_RULES]) {
    size_t lines = 0, bullets = 0, ellipses = 0, repeated = 0, total = 0, mask;
    for (size_t i = 0; i < bytes; i++) lines += text[i] == '\n';
    Slot *seen = table_for(scratch, lines + 1, &mask);
    lines = 0;
    for (const char *line = text, *end = text + bytes, *next; line < end; line = next + 1) {
        next = memchr(line, '\n', (size_t)(end - line));
        if (!next) next = end;
        while (line < next && is_space(*line)) line++;
        size_t n = (size_t)(next - line);
        if (!n) continue;
        lines++;
        total += n;
        bullets += is_bullet(line, n);
        if (n >= 3 && is_ellipsis(next - 3, 3)) ellipses++;
        if (table_count(seen, mask, hash_bytes(line, n)) > 1) repeated += n;
    }
    values[QUALITY_BULLETS] = lines ? (double)bullets / lines : 0;
    values[QUALITY_ELLIPSES] = lines ? (double)ellipses / lines : 0;
    values[QUALITY_REPEATED_LINES] = total ? (double)repeated / total : 0;
}

/* total: bytes of all words. */
static void measure_repetition(const Word *words, size_t count, size_t total,
                               QualityScratch *scratch, double values[QUALITY_RULES]) {
    enum { PAIR = 2, PHRASE = 5 };
    size_t mask, top = 0, repeated = 0;
    Slot *seen = table_for(scratch, count, &mask);
    for (size_t i = 0; i + PAIR <= count; i++) {
        size_t times = table_count(seen, mask, phrase_hash(words + i, PAIR));
        size_t bytes = times * phrase_bytes(words + i, PAIR);
        if (times > 1 && bytes > top) top = bytes; /* once is no repetition */
    }
    seen = table_for(scratch, count, &mask);
    for (size_t i = 0; i + PHRASE <= count;) {
        bool again = table_count(seen, mask, phrase_hash(words + i, PHRASE)) > 1;
        if (again) repeated += phrase_bytes(words + i, PHRASE);
        i += again ? PHRASE : 1; /* no byte counts twice */
    }
    if (top > total) top = total; /* "ha ha ha": its pairs overlap */
    values[QUALITY_TOP_PAIR] = total ? (double)top / total : 0;
    values[QUALITY_REPEATED_PHRASES] = total ? (double)repeated / total : 0;
}

static Word *word_room(QualityScratch *scratch, size_t count) {
    if (count > scratch->word_capacity) {
        scratch->word_capacity = count;
        scratch->words = must_realloc(scratch->words, scratch->word_capacity, sizeof(Word));
    }
    return scratch->words;
}

void quality_measure(const char *text, size_t bytes, QualityScratch *scratch,
                     double values[QUALITY_RULES]) {
    size_t count = 0, total = 0, characters = 0, symbols = 0, lettered = 0;
    unsigned stops = 0;
    Word *words = word_room(scratch, bytes / 2 + 1); /* no more words than that */
    for (size_t i = 0; i < bytes;) {
        while (i < bytes && is_space(text[i])) i++;
        size_t start = i;
        for (; i < bytes && !is_space(text[i]); i++)
            characters += ((unsigned char)text[i] & 0xC0) != 0x80;
        if (i == start) break;
        const char *word = text + start;
        size_t n = i - start;
        words[count++] = (Word){hash_bytes(word, n), (uint32_t)n};
        total += n;
        symbols += count_symbols(word, n);
        lettered += has_letter(word, n);
        stops |= stop_word(word, n);
    }
    values[QUALITY_WORDS] = (double)count;
    values[QUALITY_WORD_LENGTH] = count ? (double)characters / count : 0;
    values[QUALITY_SYMBOLS] = count ? (double)symbols / count : 0;
    values[QUALITY_LETTERS] = count ? (double)lettered / count : 0;
    values[QUALITY_STOP_WORDS] = __builtin_popcount(stops);
    measure_lines(text, bytes, scratch, values);
    measure_repetition(words, count, total, scratch, values);
}

void quality_scratch_free(QualityScratch *scratch) {
    free(scratch->table);
    free(scratch->words);
    *scratch = (QualityScratch){0};
}
