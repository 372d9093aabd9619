/* What an expert sees: kinds, shares, favourites and the measure at its two ends. */
#include "05_moe/specialty.h"
#include "common/program/testing.h"

Test(specialty, kinds) {
    check_all(specialty_kind(' ') == SPACE, specialty_kind('e') == VOWEL,
              specialty_kind('z') == CONSONANT);
    check_all(specialty_kind('A') == CAPITAL, specialty_kind('Z') == CAPITAL,
              specialty_kind(',') == OTHER);
    check_all(specialty_kind('\n') == OTHER, specialty_kind(0) == OTHER,
              specialty_kind(0xc3) == OTHER);
}

/* Vowels to expert 0, all else to expert 1: half the choices are explained entirely. */
Test(specialty, an_expert_for_vowels) {
    static Specialty s = {.experts = 2};
    const char *text = "aeio bcd";
    for (int i = 0; text[i]; i++) {
        int32_t expert = specialty_kind((uint8_t)text[i]) == VOWEL ? 0 : 1;
        specialty_add(&s, (uint8_t)text[i], &expert, 1);
    }
    cr_assert_float_eq(specialty_share(&s, 0), 0.5, 1e-12);
    double share[KIND_COUNT][SPECIALTY_MAX_EXPERTS];
    specialty_kinds(&s, share);
    check_all(share[VOWEL][0] == 1, share[VOWEL][1] == 0, share[SPACE][1] == 1);
    cr_assert(share[CAPITAL][0] == 0 && share[CAPITAL][1] == 0, "there are none");
    check_all(specialty_choices(&s, VOWEL) == 4, specialty_choices(&s, CAPITAL) == 0);
    uint8_t bytes[8];
    cr_assert_eq(specialty_favourites(&s, 0, bytes, 8, 1), 4);
    check_all(bytes[0] == 'a', bytes[3] == 'o');
    cr_assert_eq(specialty_favourites(&s, 0, bytes, 2, 1), 2, "no more than asked for");
    cr_assert_eq(specialty_favourites(&s, 0, bytes, 8, 2), 0, "each is there once only");
    cr_assert_float_eq(specialty_information(&s), 1, 1e-12);
}

/* Every character to both experts: its kind says nothing. */
Test(specialty, experts_for_everything) {
    static Specialty s = {.experts = 2}, empty = {.experts = 2};
    const int32_t both[2] = {0, 1};
    for (const char *c = "some Words, and more"; *c; c++) specialty_add(&s, (uint8_t)*c, both, 2);
    uint8_t bytes[8];
    cr_assert_eq(specialty_favourites(&s, 1, bytes, 8, 1), 0);
    cr_assert_float_eq(specialty_information(&s), 0, 1e-12);
    cr_assert_eq(specialty_information(&empty), 0);
    cr_assert_eq(specialty_share(&empty, 0), 0);
}
