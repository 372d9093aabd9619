/*
 * Hashes, MinHash and the index of documents.
 */
#include "10_full_model/data/duplicates.h"

#include "common/program/testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Values of the reference implementation (MurmurHash3_x64_128, its two halves as big-endian
 * numbers). */
Test(hash128, known_values) {
    static const struct {
        const char *text, *hash;
    } cases[] = {
        {"", "00000000000000000000000000000000"},
        {"The quick brown fox jumps over the lazy dog", "e34bbc7bbc071b6c7a433ca9c49a9347"},
        {"hello", "cbd8a7b341bd9b025b1e906a48ae1d19"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        HashText text = hash128_text(hash128(cases[i].text, strlen(cases[i].text), 0));
        cr_expect_str_eq(text.text, cases[i].hash, "'%s': %s", cases[i].text, text.text);
    }
}

/* All lengths around the block size, and every single bit: no two alike. */
Test(hash128, every_byte_counts) {
    unsigned char data[40] = {0};
    Hash128 seen[40 + 40 * 8];
    int count = 0;
    for (size_t n = 0; n < 40; n++) seen[count++] = hash128(data, n, 7);
    for (size_t bit = 0; bit < 39 * 8; bit++) {
        data[bit / 8] ^= (unsigned char)(1 << bit % 8);
        seen[count++] = hash128(data, 39, 7);
        data[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    for (int i = 0; i < count; i++)
        for (int j = 0; j < i; j++)
            cr_assert(seen[i].low != seen[j].low && seen[i].high != seen[j].high, "%d, %d", i, j);
}

/* ---- MinHash ---- */

/* `count` words, numbers first .. : with shingles of one word a set whose overlaps are exact. */
static char *numbers(int first, int count) {
    char *text = malloc((size_t)count * 12 + 1), *end = text;
    for (int i = 0; i < count; i++) end += sprintf(end, "w%d ", first + i);
    return text;
}

static double estimate(const MinHash *m, const char *a, const char *b) {
    uint16_t x[MINHASH_MOST], y[MINHASH_MOST];
    minhash_signature(m, a, strlen(a), x);
    minhash_signature(m, b, strlen(b), y);
    return minhash_similarity(m, x, y);
}

/*
 * Sets of n words that share s have J = s / (2n - s). The mean error over 50 pairs is within 4 of
 * its standard errors (sqrt(J (1 - J) / 128 / 50)), and the spread of single estimates is the
 * theory's to a third (a standard deviation from 50 is known to 10 %).
 */
Test(minhash, estimates_jaccard_within_its_standard_error) {
    MinHash m;
    minhash_init(&m, 16, 8, 1);
    static const int shared[] = {0, 40, 134, 200, 267, 330, 364, 390};
    enum { N = 400, PAIRS = 50 };
    for (size_t c = 0; c < sizeof shared / sizeof *shared; c++) {
        double truth = (double)shared[c] / (2 * N - shared[c]), sum = 0, squares = 0;
        for (int pair = 0; pair < PAIRS; pair++) {
            int first = 10000 * (int)(c * PAIRS + (size_t)pair);
            char *a = numbers(first, N), *b = numbers(first + N - shared[c], N);
            double error = estimate(&m, a, b) - truth;
            sum += error, squares += error * error;
        }
        double one = sqrt(truth * (1 - truth) / 128), spread = sqrt(squares / PAIRS);
        cr_expect(fabs(sum / PAIRS) <= 4 * one / sqrt(PAIRS) + 1e-4, "J %g: mean error %g", truth,
                  sum / PAIRS);
        if (truth > 0)
            cr_expect(fabs(spread - one) < one / 3, "J %g: spread %g, theory %g", truth, spread,
                      one);
    }
}

Test(minhash, case_spaces_and_punctuation_do_not_count) {
    MinHash m;
    minhash_init(&m, 16, 8, 5);
    const char *a = "The cat sat on the mat, and slept; nobody came that day.";
    cr_expect(
        estimate(&m, a,
                 "the CAT  sat on \"the\" mat and\nslept \xE2\x80\x94 nobody came that day") == 1);
    cr_expect(estimate(&m, a, "the cat sat on the mats and slept nobody came that day") < 0.9);
    cr_expect(estimate(&m, a, "day that came nobody slept and mat the on sat cat the") < 0.1,
              "order");
}

Test(minhash, few_words) {
    MinHash m;
    minhash_init(&m, 16, 8, 5);
    cr_expect(estimate(&m, "one two", "one two") == 1);
    cr_expect(estimate(&m, "one two", "one three") < 0.1);
    cr_expect(estimate(&m, "", "...") == 1, "both are empty sets");
    cr_expect(estimate(&m, "", "one") < 0.1);
    /* Chinese has no spaces: each character is a word. One of 30 is another: 5 of 26 shingles
     * are, so J = 21 / 31. */
    char a[200] = "", b[200] = "";
    for (int i = 0; i < 30; i++) {
        sprintf(a + strlen(a), "\xE4%c%c", 0xB8 + i / 16, 0x80 + i % 16);
        sprintf(b + strlen(b), "\xE4%c%c", 0xB8 + i / 16, 0x80 + i % 16 + (i == 15 ? 32 : 0));
    }
    cr_expect(fabs(estimate(&m, a, b) - 21.0 / 31) < 4 * sqrt(0.22 / 128), "%g",
              estimate(&m, a, b));
    cr_expect(estimate(&m, "\xE4\xB8", "\xE4") <= 1, "half a character at the end is no harm");
}

/* The signature of a text is a function of its set of shingles: doubling the text adds four
 * across the seam. */
Test(minhash, is_of_a_set) {
    MinHash m;
    minhash_init(&m, 64, 8, 1);
    char *a = numbers(0, 700), *b = malloc(2 * strlen(a) + 1);
    sprintf(b, "%s%s", a, a);
    cr_expect(estimate(&m, a, b) == 1);
}

Test(lsh, probability) {
    check_all(minhash_probability(0, 16, 8) == 0, minhash_probability(1, 16, 8) == 1);
    cr_expect(fabs(minhash_probability(0.5, 1, 1) - 0.5) < 1e-12);
    cr_expect(fabs(minhash_probability(0.5, 2, 1) - 0.75) < 1e-12);
    cr_expect(fabs(minhash_probability(0.5, 1, 3) - 0.125) < 1e-12);
    cr_expect(fabs(minhash_probability(0.8, 16, 8) - 0.9471) < 1e-3);
}

/* Of 200 pairs of each similarity, as many meet in a band as the S-curve says: within 4 standard
 * deviations of a binomial. */
Test(lsh, pairs_meet_as_the_curve_says) {
    enum { N = 100, PAIRS = 200 };
    MinHash m;
    minhash_init(&m, 8, 4, 1);
    static const int shared[] = {50, 67, 75, 82, 92};
    for (size_t c = 0; c < sizeof shared / sizeof *shared; c++) {
        double p = minhash_probability((double)shared[c] / (2 * N - shared[c]), 8, 4);
        int met = 0;
        for (int pair = 0; pair < PAIRS; pair++) {
            int first = 1000 * (int)(c * PAIRS + (size_t)pair);
            char *a = numbers(first, N), *b = numbers(first + N - shared[c], N);
            uint16_t x[32], y[32];
            minhash_signature(&m, a, strlen(a), x);
            minhash_signature(&m, b, strlen(b), y);
            bool meet = false;
            for (int band = 0; band < 8; band++)
                meet |= minhash_band(&m, x, band) == minhash_band(&m, y, band);
            met += meet;
        }
        cr_expect(fabs(met - p * PAIRS) <= 4 * sqrt(PAIRS * p * (1 - p)) + 1,
                  "%d of %d met, not %g", met, (int)PAIRS, p * PAIRS);
    }
}

/* ---- the index ---- */

Test(duplicates, exact) {
    Duplicates d;
    duplicates_init(&d, 0.8, 16, 8, 5);
    enum { COUNT = 20000 }; /* several times as many as there is room for at first */
    for (int pass = 0; pass < 2; pass++)
        for (uint64_t i = 0; i < COUNT; i++) {
            bool seen = duplicates_exact(&d, hash128(&i, sizeof i, 0));
            cr_assert(seen == (pass == 1), "%llu in pass %d", (unsigned long long)i, pass);
        }
    cr_expect(!duplicates_exact(&d, (Hash128){0, 0}));
    cr_expect(duplicates_exact(&d, (Hash128){0, 0}));
    cr_expect(!duplicates_exact(&d, (Hash128){0, 5}));
    cr_expect(!duplicates_exact(&d, (Hash128){5, 0}));
    cr_expect(duplicates_bytes(&d) <= 64 * COUNT * 2);
}

static int64_t ask(Duplicates *d, const char *text) {
    uint16_t signature[MINHASH_MOST];
    minhash_signature(&d->minhash, text, strlen(text), signature);
    return duplicates_near(d, signature);
}

Test(duplicates, the_first_of_similar_ones_stays) {
    Duplicates d;
    duplicates_init(&d, 0.8, 16, 8, 1);
    char *a = numbers(0, 1000), *b = numbers(20, 1000), *c = numbers(600, 1000);
    cr_expect_eq(ask(&d, a), -1); /* document 0 */
    cr_expect_eq(ask(&d, a), 0);
    cr_expect_eq(ask(&d, b), 0, "J = 0.96");
    cr_expect_eq(ask(&d, c), -1, "J = 0.25: document 1");
    cr_expect_eq(ask(&d, c), 1);
    /* A threshold above the similarity of the pair: they may meet, but both stay. */
    duplicates_init(&d, 1, 16, 8, 1);
    cr_expect_eq(ask(&d, a), -1);
    cr_expect_eq(ask(&d, b), -1);
    cr_expect_eq(ask(&d, a), 0);
}

/* Thousands of different ones, and each found again: growing the table loses none. */
Test(duplicates, grows) {
    enum { COUNT = 3000 };
    Duplicates d;
    duplicates_init(&d, 0.8, 16, 8, 2);
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < COUNT; i++) {
            char *text = numbers(i * 50, 50);
            int64_t found = ask(&d, text);
            cr_assert(found == (pass ? i : -1), "%d: %lld", i, (long long)found);
        }
    cr_expect_eq(d.kept, COUNT);
    cr_expect(duplicates_bytes(&d) / COUNT < 1200, "%zu bytes a document, right after growing",
              duplicates_bytes(&d) / COUNT);
}
