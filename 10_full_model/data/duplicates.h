/*
 * The documents seen so far, and whether a new one is among them: exactly, or nearly.
 *
 * Exactly: a set of 128-bit hashes. Nearly: those that share a band of their MinHash signatures
 * with a document that was kept, and whose signatures then agree in a share of at least
 * `similarity`. The first of a group stays, so the result depends on the order of the documents,
 * but never on threads: the index is asked by one thread, in that order.
 *
 * Memory grows with the number of documents, not with their length: at 16 bands of 8 rows up to
 * 64 bytes for each different document and up to 800 for each that is kept (duplicates_bytes says
 * how much it is).
 */
#ifndef DUPLICATES_H
#define DUPLICATES_H

#include "10_full_model/data/hash128.h"
#include "10_full_model/data/minhash.h"

#include <stdbool.h>

typedef struct BandSlot {
    uint32_t tag;      /* the upper half of the band's hash */
    uint32_t document; /* its number + 1; 0: free */
} BandSlot;

typedef struct Duplicates {
    MinHash minhash;
    double similarity;
    Hash128 *exact; /* open addressing; {0, 0}: free */
    size_t exact_slots, exact_count;
    uint16_t *signatures; /* of the documents that were kept */
    size_t kept, kept_capacity;
    BandSlot *bands; /* of all bands together */
    size_t band_slots, band_count;
} Duplicates;

/* similarity in (0, 1]; rows * bands <= MINHASH_MOST */
void duplicates_init(Duplicates *duplicates, double similarity, int bands, int rows, int shingle);
void duplicates_free(Duplicates *duplicates);

/* Whether this hash was there before; from now on it is. */
bool duplicates_exact(Duplicates *duplicates, Hash128 hash);

/* The number of a kept document that is this similar, or -1; then the new one is kept, with the
 * next number, from 0. */
int64_t duplicates_near(Duplicates *duplicates, const uint16_t *signature);

size_t duplicates_bytes(const Duplicates *duplicates);

#endif
