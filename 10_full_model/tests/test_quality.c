/*
 * Each rule on documents small enough to count by hand.
 */
#include "10_full_model/data/quality.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static double measure(const char *text, QualityRule rule) {
    QualityScratch scratch = {0};
    double values[QUALITY_RULES];
    for (int i = 0; i < QUALITY_RULES; i++) values[i] = NAN;
    quality_measure(text, strlen(text), &scratch, values);
    for (int i = 0; i < QUALITY_RULES; i++)
        cr_assert(isfinite(values[i]), "%s of '%s' is %g", quality_rules[i].name, text, values[i]);
    return values[rule];
}

Test(quality, measures) {
    static const struct {
        QualityRule rule;
        const char *text;
        double expected;
    } cases[] = {
        {QUALITY_WORDS, "one two\tthree\n four", 4},
        {QUALITY_WORDS, "", 0},
        {QUALITY_WORDS, " \n ", 0},
        {QUALITY_WORD_LENGTH, "aa bbbb", 3},
        {QUALITY_WORD_LENGTH, "\xC3\xA9\xC3\xA9 \xE2\x82\xAC", 1.5}, /* characters, not bytes */
        {QUALITY_WORD_LENGTH, "", 0},
        {QUALITY_SYMBOLS, "#a b# ## c", 1},
        {QUALITY_SYMBOLS, "wait... what\xE2\x80\xA6 no .. no", 2.0 / 5},
        {QUALITY_LETTERS, "a 1 b2 -- \xC3\xA9 \xE2\x80\x94", 3.0 / 6},
        {QUALITY_STOP_WORDS, "The cat, \"and\" the dog (with) them.", 3},
        {QUALITY_STOP_WORDS, "theory bet oft android", 0},
        {QUALITY_BULLETS, "- a\n* b\n\n  \xE2\x80\xA2 c\nd", 3.0 / 4},
        {QUALITY_BULLETS, "*a* b\n**NAME** c\n-d\n\xE2\x80\xA2\n-\n", 0}, /* emphasis, a dash */
        {QUALITY_ELLIPSES, "a...\nb\xE2\x80\xA6\nc\nd.", 2.0 / 4},
        {QUALITY_REPEATED_LINES, "abcd\nabcd\nab\n  abcd", 8.0 / 14},
        {QUALITY_REPEATED_LINES, "a\nb\nc", 0},
        {QUALITY_TOP_PAIR, "a b c a b d", 4.0 / 6},
        {QUALITY_TOP_PAIR, "a b c d", 0},
        {QUALITY_TOP_PAIR, "ha ha ha ha", 1}, /* 3 pairs, which overlap: no more than all */
        {QUALITY_TOP_PAIR, "a", 0},
        {QUALITY_REPEATED_PHRASES, "a b c d e x a b c d e y", 5.0 / 12},
        {QUALITY_REPEATED_PHRASES, "a b c d e a b c d", 0},
        /* the phrases at 1 .. 4 are new ones ("b c d e a", ...), those at 5 and 10 are not */
        {QUALITY_REPEATED_PHRASES, "a b c d e a b c d e a b c d e", 10.0 / 15},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value = measure(cases[i].text, cases[i].rule);
        cr_expect(fabs(value - cases[i].expected) < 1e-12, "%s of '%s': %g, not %g",
                  quality_rules[cases[i].rule].name, cases[i].text, value, cases[i].expected);
    }
}

/* The same scratch for large and small documents, one after the other: nothing stays from the one
 * before. */
Test(quality, documents_do_not_touch_each_other) {
    QualityScratch scratch = {0};
    double first[QUALITY_RULES], again[QUALITY_RULES], ignored[QUALITY_RULES];
    char large[20000];
    for (int i = 0; i < 9999; i++) memcpy(large + 2 * i, i % 7 ? "a " : "b\n", 2);
    const char *small = "the cat sat on the mat\nthe cat sat on the mat";
    quality_measure(small, strlen(small), &scratch, first);
    quality_measure(large, 19998, &scratch, ignored);
    quality_measure(small, strlen(small), &scratch, again);
    for (int i = 0; i < QUALITY_RULES; i++)
        cr_expect(first[i] == again[i], "%s: %g, then %g", quality_rules[i].name, first[i],
                  again[i]);
}

static const char *const prose =
    "The lighthouse keeper climbed the stairs every evening before sunset, carrying a small can "
    "of oil and a clean cloth. He wiped the salt from the glass, filled the lamp, and waited "
    "until the first ships appeared beyond the reef. Some nights nobody passed at all, but he "
    "kept the light burning, because that was what he had promised to do.";

static int verdict(const char *text) {
    QualityScratch scratch = {0};
    double values[QUALITY_RULES];
    QualityLimits limits = quality_defaults();
    quality_measure(text, strlen(text), &scratch, values);
    return quality_judge(&limits, values);
}

/* What each rule is for. All texts but the first have enough words. */
Test(quality, verdicts) {
    char text[4000] = "";
    cr_expect_eq(verdict(prose), -1);
    cr_expect_eq(verdict("Home | About | Contact"), QUALITY_WORDS);
    for (int i = 0; i < 60; i++) strcat(text, "a b ");
    cr_expect_eq(verdict(text), QUALITY_WORD_LENGTH);
    *text = 0;
    for (int i = 0; i < 60; i++) sprintf(text + strlen(text), "#tag%d ", i);
    cr_expect_eq(verdict(text), QUALITY_SYMBOLS);
    *text = 0;
    for (int i = 0; i < 60; i++) sprintf(text + strlen(text), "%d,%d ", i * 37, i * i);
    cr_expect_eq(verdict(text), QUALITY_LETTERS);
    *text = 0;
    for (int i = 0; i < 60; i++)
        sprintf(text + strlen(text), "cheap%c shoes%c ", 'a' + i % 26, 'a' + i % 24);
    cr_expect_eq(verdict(text), QUALITY_STOP_WORDS);
    *text = 0;
    for (int i = 0; i < 30; i++)
        sprintf(text + strlen(text), "- because the lantern %c belongs with nobody\n",
                'a' + i % 26);
    cr_expect_eq(verdict(text), QUALITY_BULLETS);
    snprintf(text, sizeof text, "%s\n%s\n", prose, prose);
    cr_expect_eq(verdict(text), QUALITY_REPEATED_LINES);
    snprintf(text, sizeof text, "%s Once more: %s", prose, prose);
    cr_expect_eq(verdict(text), QUALITY_REPEATED_PHRASES);
}

Test(quality, limits_as_text) {
    QualityLimits limits = quality_defaults();
    cr_assert_eq(quality_set(&limits, "words=3..7", &err), 0);
    check_all(limits.low[QUALITY_WORDS] == 3, limits.high[QUALITY_WORDS] == 7);
    cr_assert_eq(quality_set(&limits, "symbols=..0.5", &err), 0);
    check_all(limits.low[QUALITY_SYMBOLS] == -INFINITY, limits.high[QUALITY_SYMBOLS] == 0.5);
    cr_assert_eq(quality_set(&limits, "letters=0.5..", &err), 0);
    check_all(limits.low[QUALITY_LETTERS] == 0.5, limits.high[QUALITY_LETTERS] == INFINITY);
    cr_assert_eq(quality_set(&limits, "stop-words=off", &err), 0);
    cr_expect(limits.low[QUALITY_STOP_WORDS] == -INFINITY);
    const char *const wrong[] = {"words",       "word=1..2",
                                 "words=",      "words=1",
                                 "words=2..1",  "words=a..b",
                                 "words=1..2x", "words=nan..",
                                 "words= 1..2", "words=1...2x",
                                 "=1..2",       "words=inf..inf",
                                 "words=OFF",   ""};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        err.text[0] = 0;
        cr_expect(quality_set(&limits, wrong[i], &err) == -1, "'%s' was taken", wrong[i]);
        cr_expect(strstr(err.text, "repeated-phrases"), "the names are not listed: %s", err.text);
    }
    cr_expect(limits.low[QUALITY_WORDS] == 3 && limits.high[QUALITY_WORDS] == 7, "not untouched");
}

/* Both ends are inside; a number that is none is outside. */
Test(quality, limits_are_inclusive) {
    QualityLimits limits = quality_off();
    double values[QUALITY_RULES] = {0};
    limits.low[QUALITY_WORDS] = limits.high[QUALITY_WORDS] = 5;
    values[QUALITY_WORDS] = 5;
    cr_expect_eq(quality_judge(&limits, values), -1);
    values[QUALITY_WORDS] = 4.999;
    cr_expect_eq(quality_judge(&limits, values), QUALITY_WORDS);
    values[QUALITY_WORDS] = NAN;
    cr_expect_eq(quality_judge(&limits, values), QUALITY_WORDS);
}
