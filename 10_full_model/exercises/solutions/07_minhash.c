/*
 * Solution 10.7. The share of equal minima, the band's hash, and the S-curve 1 - (1 -
 * J^rows)^bands: a band agrees with J^5, 1/32 at J = 0.5, and of twenty such chances one comes
 * with 0.47; at 0.2 it is 0.0064. (Tempting: to hash a band without its number: then equal minima
 * in different bands would meet. And for the guess 20 / 32 = 0.63, as if no two bands could agree
 * at once.)
 */
#include "10_full_model/data/minhash.h"

#include "10_full_model/data/hash128.h"

#include <math.h>

extern const double meet_at_half, meet_at_a_fifth;

const double meet_at_half = 0.47;
const double meet_at_a_fifth = 0.0064;

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
