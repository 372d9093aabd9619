/*
 * A document in one pass: words are hashed (FNV-1a over lower-cased bytes), a shingle's hash rolls
 * on from word to word (a polynomial whose digits are the words), and blocks of 256 shingles meet
 * all orders. An order of all shingles is "xor a seed, then Murmur's finalizer", a one-to-one map
 * of 32 bits, so that a minimum is a choice; 16 orders at a time stay in a vector register. Kept
 * are the lower 16 bits of each minimum.
 */
#include "10_full_model/data/minhash.h"

#include "10_full_model/data/hash128.h"

#include "common/core/error.h"
#include "common/core/rng.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static const uint64_t MINHASH_STREAM = 0x4d696e; /* Philox's stream for the orders */

void minhash_init(MinHash *m, int bands, int rows, int shingle) {
    CHECK(bands > 0 && rows > 0 && bands * rows <= MINHASH_MOST && shingle > 0 &&
              shingle <= SHINGLE_MOST,
          "minhash: %d bands of %d rows, shingles of %d", bands, rows, shingle);
    *m = (MinHash){.bands = bands, .rows = rows, .shingle = shingle};
    for (int i = 0; i < MINHASH_MOST; i++)
        m->seeds[i] = philox(0, MINHASH_STREAM, (uint64_t)i / 4).word[i % 4];
}

/* ---- shingles ---- */

enum { OUTSIDE, IN_WORD, A_WORD };

/*
 * What a UTF-8 character's first byte says: ASCII letters and digits, and characters beyond
 * ASCII, are in words. From U+3000 on (Chinese, Japanese, Korean) each is a word, for there are
 * no spaces. U+2000 .. U+2FFF is mostly punctuation and symbols.
 */
static const unsigned char kind_of[256] = {
    ['0' ... '9'] = IN_WORD,   ['A' ... 'Z'] = IN_WORD,  ['a' ... 'z'] = IN_WORD,
    [0xC2 ... 0xE1] = IN_WORD, [0xE3 ... 0xFF] = A_WORD,
};

static size_t character_bytes(unsigned char c) {
    return c < 0xC2 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

/* The hash of the next word from *at on; false at the end of the text. */
static bool next_word(const unsigned char *text, size_t bytes, size_t *at, uint64_t *hash) {
    size_t i = *at;
    while (i < bytes && kind_of[text[i]] == OUTSIDE) i += character_bytes(text[i]);
    if (i >= bytes) return false;
    uint64_t h = 0xcbf29ce484222325ull; /* FNV-1a */
    bool alone = kind_of[text[i]] == A_WORD;
    do {
        unsigned char c = text[i];
        size_t end = i + character_bytes(c);
        h = (h ^ (c >= 'A' && c <= 'Z' ? c + 32u : c)) * 0x100000001b3ull;
        for (i++; i < end && i < bytes; i++) h = (h ^ text[i]) * 0x100000001b3ull;
    } while (!alone && i < bytes && kind_of[text[i]] == IN_WORD);
    *at = i;
    *hash = h;
    return true;
}

/* ---- minima ---- */

/* Murmur's finalizer of 32 bits, a one-to-one map: after "xor seed" it is an order of all 2^32
 * shingles. */
static inline uint32_t mix32(uint32_t x) {
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}

enum { LANES = 16, BLOCK = 256 };

/* Sixteen orders at a time stay in one vector register while all shingles of the block pass. */
static void take_minima(const uint32_t *seeds, int count, const uint32_t *shingles, int n,
                        uint32_t *minima) {
    for (int first = 0; first < count; first += LANES) {
        uint32_t seed[LANES], low[LANES];
        memcpy(seed, seeds + first, sizeof seed);
        memcpy(low, minima + first, sizeof low);
        for (int i = 0; i < n; i++) {
            uint32_t x = shingles[i];
#pragma omp simd
            for (int lane = 0; lane < LANES; lane++) {
                uint32_t h = mix32(x ^ seed[lane]);
                low[lane] = h < low[lane] ? h : low[lane];
            }
        }
        memcpy(minima + first, low, sizeof low);
    }
}

void minhash_signature(const MinHash *m, const char *text, size_t bytes, uint16_t *signature) {
    const uint64_t base = 0x9E3779B97F4A7C15ull;
    uint64_t ring[SHINGLE_MOST] = {0}, word, hash = 0, last = 1; /* last: base^shingle */
    uint32_t shingles[BLOCK], minima[MINHASH_MOST];
    int count = m->bands * m->rows, waiting = 0, place = 0, words = 0;
    size_t at = 0;
    for (int i = 0; i < m->shingle; i++) last *= base;
    memset(minima, 0xFF, sizeof minima);
    while (next_word((const unsigned char *)text, bytes, &at, &word)) {
        /* The shingle's hash is a polynomial in base whose digits are its words: one comes, the
         * oldest goes. */
        hash = hash * base + word - ring[place] * last;
        ring[place] = word;
        if (++place == m->shingle) place = 0;
        if (words < m->shingle && ++words < m->shingle) continue;
        shingles[waiting++] = (uint32_t)(mix64(hash) >> 32);
        if (waiting < BLOCK) continue;
        take_minima(m->seeds, count, shingles, waiting, minima);
        waiting = 0;
    }
    if (words && words < m->shingle) shingles[waiting++] = (uint32_t)(mix64(hash) >> 32);
    take_minima(m->seeds, count, shingles, waiting, minima);
    for (int i = 0; i < count; i++) signature[i] = (uint16_t)minima[i];
}

double minhash_similarity(const MinHash *m, const uint16_t *a, const uint16_t *b) {
    int count = m->bands * m->rows, equal = 0;
    for (int i = 0; i < count; i++) equal += a[i] == b[i];
    return (double)equal / count;
}

uint64_t minhash_band(const MinHash *m, const uint16_t *signature, int band) {
    return hash128(signature + band * m->rows, (size_t)m->rows * sizeof *signature, (uint32_t)band)
        .low;
}

double minhash_probability(double similarity, int bands, int rows) {
    return 1 - pow(1 - pow(similarity, rows), bands);
}
