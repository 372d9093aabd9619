/*
 * MinHash: how similar two documents are, from 256 bytes of each (Broder 1997).
 *
 * A document is the set of its shingles: every run of `shingle` words in a row, letters in lower
 * case and without punctuation. The similarity of two is Jaccard's: J = |A and B| / |A or B|.
 * Take a random order of all possible shingles: the first one of A is also the first one of B
 * exactly when the first one of (A or B) lies in both, that is with probability J. So do it k
 * times, with k orders, and keep of each only the first shingle's place, the minimum of a hash:
 * the share of equal minima estimates J, with a standard error of sqrt(J (1 - J) / k).
 *
 * To find the similar ones among millions without comparing all pairs, the k minima are cut into
 * `bands` of `rows` (locality-sensitive hashing, Indyk & Motwani 1998): two documents meet when
 * all rows of one band agree, which happens with probability 1 - (1 - J^rows)^bands. As a
 * function of J that is an S: nearly 0 below (1 / bands)^(1 / rows), nearly 1 above.
 */
#ifndef MINHASH_H
#define MINHASH_H

#include <stddef.h>
#include <stdint.h>

enum { MINHASH_MOST = 512 /* bands * rows */, SHINGLE_MOST = 64 };

typedef struct MinHash {
    int bands, rows, shingle;
    uint32_t seeds[MINHASH_MOST]; /* one order of all shingles each */
} MinHash;

/* The orders are a function of nothing but their number: signatures of different runs can be
 * compared. */
void minhash_init(MinHash *minhash, int bands, int rows, int shingle);

/* bands * rows minima, of which 16 bits are enough: two that differ agree in them once in 65,536.
 * A text of fewer words than a shingle is one shingle; a text without words is the empty set,
 * similar only to another one. */
void minhash_signature(const MinHash *minhash, const char *text, size_t bytes, uint16_t *signature);

/* The estimate of J. */
double minhash_similarity(const MinHash *minhash, const uint16_t *a, const uint16_t *b);

/* What one band's rows say, as one number. */
uint64_t minhash_band(const MinHash *minhash, const uint16_t *signature, int band);

/* The S-curve: the probability that two documents of similarity J meet in a band. */
double minhash_probability(double similarity, int bands, int rows);

#endif
