/*
 * Which documents are worth learning from, by counting.
 *
 * Rules that cost little and need no model, after Gopher (Rae et al. 2021, table A1) and C4
 * (Raffel et al. 2020): each measures one number, and a document outside the rule's limits goes.
 * Each rule catches one kind of web page: menus and tables of contents (length, bullets), keyword
 * lists (stop words, word length), code and log files (symbols, letters), spam (repetition). The
 * numbers are for languages written with spaces; the stop words are English. A word is what
 * stands between spaces.
 */
#ifndef QUALITY_H
#define QUALITY_H

#include "common/core/error.h"

#include <stddef.h>

typedef enum QualityRule {
    QUALITY_WORDS,
    QUALITY_WORD_LENGTH,
    QUALITY_SYMBOLS,
    QUALITY_LETTERS,
    QUALITY_STOP_WORDS,
    QUALITY_BULLETS,
    QUALITY_ELLIPSES,
    QUALITY_REPEATED_LINES,
    QUALITY_TOP_PAIR,
    QUALITY_REPEATED_PHRASES,
    QUALITY_RULES
} QualityRule;

typedef struct QualityRuleText {
    const char *name;
    double low, high; /* the default limits, both allowed; INFINITY: none */
    const char *about;
} QualityRuleText;
extern const QualityRuleText quality_rules[QUALITY_RULES];

typedef struct QualityLimits {
    double low[QUALITY_RULES], high[QUALITY_RULES];
} QualityLimits;

QualityLimits quality_defaults(void);
QualityLimits quality_off(void); /* everything passes */

/* Sets limits from "NAME=LOW..HIGH" (either may be missing) or "NAME=off"; -1 and a message that
 * lists the names. */
int quality_set(QualityLimits *limits, const char *text, Error *err);

/* Memory that measuring needs, kept from one document to the next; one for each thread. {0} to
 * begin with. */
typedef struct QualityScratch {
    void *table, *words;
    size_t table_slots, word_capacity;
} QualityScratch;
void quality_scratch_free(QualityScratch *scratch);

/* The number that each rule looks at. */
void quality_measure(const char *text, size_t bytes, QualityScratch *scratch,
                     double values[QUALITY_RULES]);

/* The first rule that the document breaks, or -1. */
int quality_judge(const QualityLimits *limits, const double values[QUALITY_RULES]);

#endif
