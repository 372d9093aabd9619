/*
 * What does an expert see? Choices counted by character, and by kind of character.
 *
 * An expert is not told what it is for. Whether it came to be for something can be measured: if
 * knowing a token's kind says something about which expert it goes to, then experts differ by kind.
 * The mutual information of the two, over the largest it could be (the entropy of the experts), is
 * 0 when it says nothing and 1 when it says everything.
 */
#ifndef SPECIALTY_H
#define SPECIALTY_H

#include <stdint.h>

enum { SPECIALTY_MAX_EXPERTS = 64 };

typedef enum CharKind { SPACE, VOWEL, CONSONANT, CAPITAL, OTHER, KIND_COUNT } CharKind;

/* "space", "vowel", ... */
extern const char *const specialty_kind_names[KIND_COUNT];
CharKind specialty_kind(uint8_t byte);

typedef struct Specialty {
    int experts;
    double chosen[256][SPECIALTY_MAX_EXPERTS]; /* [byte][expert]: choices */
} Specialty;

/* One token: the character and its k experts. */
void specialty_add(Specialty *s, uint8_t byte, const int32_t *experts, int k);

/* Of all choices, the part that is expert e. */
double specialty_share(const Specialty *s, int e);

/* How many choices are of this kind of character. */
double specialty_choices(const Specialty *s, CharKind kind);

/* share[k][e]: of the choices of kind k, the part that is expert e. A kind without tokens:
 * zeros. */
void specialty_kinds(const Specialty *s, double share[KIND_COUNT][SPECIALTY_MAX_EXPERTS]);

/*
 * The characters that give expert e the largest part of their choices, best first, into
 * bytes[most]; only those seen at least `least` times whose part is over 1.5 / experts. Returns how
 * many.
 */
int specialty_favourites(const Specialty *s, int e, uint8_t *bytes, int most, int least);

/* Mutual information of kind and expert over the entropy of the experts: 0 to 1. */
double specialty_information(const Specialty *s);

#endif
