/*
 * Solution 10.7. The share of equal minima, the band's hash, and the S-curve. The tempting mistake
 * is to hash a band without its number: then equal minima in different bands would meet.
 */
#include "10_full_model/data/minhash.h"

#include "10_full_model/data/hash128.h"

#include <math.h>

double minhash_similarity(const MinHash *m, const uint16_t *a, const uint16_t *b) {
    int count = m->bands * m->rows, equal = 0;
    for (int i = 0; i < count; i++) equal += a[i] == b[i];
    return (double)equal / count;
}

uint64_t minhash_band(const MinHash *m, const uint16_t *signature, int band) {
    const uint16_t *minima = signature + band * m->rows;
    return hash128(minima, (size_t)m->rows * sizeof *minima, (uint32_t)band).low;
}

double minhash_probability(double similarity, int bands, int rows) {
    double one_band = pow(similarity, rows), none = pow(1 - one_band, bands);
    return 1 - none;
}
