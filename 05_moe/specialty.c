/*
 * Counting, and the mutual information I(kind; expert) of the counts, divided by the entropy of the
 * experts. Characters are summed up to kinds here; all sums are in double.
 */
#include "05_moe/specialty.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

const char *const specialty_kind_names[KIND_COUNT] = {"space", "vowel", "consonant", "capital",
                                                      "other"};

CharKind specialty_kind(uint8_t byte) {
    if (byte == ' ') return SPACE;
    if (byte >= 'A' && byte <= 'Z') return CAPITAL;
    if (byte < 'a' || byte > 'z') return OTHER;
    return strchr("aeiou", byte) ? VOWEL : CONSONANT;
}

void specialty_add(Specialty *s, uint8_t byte, const int32_t *experts, int k) {
    for (int j = 0; j < k; j++) s->chosen[byte][experts[j]] += 1;
}

/* All choices of a character. */
static double total_of(const Specialty *s, int byte) {
    double total = 0;
    for (int e = 0; e < s->experts; e++) total += s->chosen[byte][e];
    return total;
}

double specialty_share(const Specialty *s, int e) {
    double mine = 0, total = 0;
    for (int c = 0; c < 256; c++) mine += s->chosen[c][e], total += total_of(s, c);
    return total > 0 ? mine / total : 0;
}

/* Choices of each kind and expert, and of each kind. */
static void count_kinds(const Specialty *s, double count[KIND_COUNT][SPECIALTY_MAX_EXPERTS],
                        double total[KIND_COUNT]) {
    memset(count, 0, sizeof(double) * KIND_COUNT * SPECIALTY_MAX_EXPERTS);
    memset(total, 0, sizeof(double) * KIND_COUNT);
    for (int c = 0; c < 256; c++) {
        CharKind kind = specialty_kind((uint8_t)c);
        for (int e = 0; e < s->experts; e++) count[kind][e] += s->chosen[c][e];
        total[kind] += total_of(s, c);
    }
}

double specialty_choices(const Specialty *s, CharKind kind) {
    double count[KIND_COUNT][SPECIALTY_MAX_EXPERTS], total[KIND_COUNT];
    count_kinds(s, count, total);
    return total[kind];
}

void specialty_kinds(const Specialty *s, double share[KIND_COUNT][SPECIALTY_MAX_EXPERTS]) {
    double total[KIND_COUNT];
    count_kinds(s, share, total);
    for (int k = 0; k < KIND_COUNT; k++)
        for (int e = 0; e < s->experts; e++) share[k][e] /= total[k] > 0 ? total[k] : 1;
}

int specialty_favourites(const Specialty *s, int e, uint8_t *bytes, int most, int least) {
    bool taken[256] = {false};
    int count = 0;
    while (count < most) {
        double best_share = 1.5 / s->experts;
        int best = -1;
        for (int c = 0; c < 256; c++) {
            double total = total_of(s, c);
            if (taken[c] || total < least || total == 0) continue;
            double share = s->chosen[c][e] / total;
            if (share > best_share) best_share = share, best = c;
        }
        if (best < 0) break;
        taken[best] = true;
        bytes[count++] = (uint8_t)best;
    }
    return count;
}

/* I = sum p(k, e) log(p(k, e) / (p(k) p(e))),  H = - sum p(e) log p(e) */
double specialty_information(const Specialty *s) {
    double count[KIND_COUNT][SPECIALTY_MAX_EXPERTS], of_kind[KIND_COUNT], all = 0;
    double information = 0, entropy = 0;
    count_kinds(s, count, of_kind);
    for (int k = 0; k < KIND_COUNT; k++) all += of_kind[k];
    for (int e = 0; e < s->experts; e++) {
        double mine = 0;
        for (int k = 0; k < KIND_COUNT; k++) mine += count[k][e];
        if (mine == 0) continue;
        entropy -= mine / all * log(mine / all);
        for (int k = 0; k < KIND_COUNT; k++)
            if (count[k][e] > 0)
                information += count[k][e] / all * log(count[k][e] * all / (of_kind[k] * mine));
    }
    return entropy > 0 ? information / entropy : 0;
}
