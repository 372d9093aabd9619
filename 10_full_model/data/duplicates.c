/*
 * Two hash tables with open addressing and linear probing, at most half full.
 *
 * exact: the hashes themselves. bands: of each kept document one entry a band, the document's
 * number and 32 bits of the band's hash as a tag; a lookup compares the signatures of those whose
 * tag agrees. When a table grows, the hashes of the first are moved; those of the second are not
 * stored, so all documents are entered anew.
 */
#include "10_full_model/data/duplicates.h"

#include "common/core/memory.h"

#include <stdlib.h>
#include <string.h>

/*
 * Where many texts share a band and are still different, that band is boilerplate (a licence, a
 * page's frame). Only the first few stay findable by it, or each new one would be compared with
 * all.
 */
enum { MOST_IN_A_BAND = 8, FIRST_SLOTS = 1024 };

void duplicates_init(Duplicates *d, double similarity, int bands, int rows, int shingle) {
    *d = (Duplicates){.similarity = similarity};
    minhash_init(&d->minhash, bands, rows, shingle);
}

void duplicates_free(Duplicates *d) {
    free(d->exact);
    free(d->signatures);
    free(d->bands);
    *d = (Duplicates){0};
}

static void *room_for(size_t count, size_t size) {
    void *room = calloc(count, size);
    if (!room)
        fatal("out of memory: the hashes of the documents seen so far need %zu MiB; prepare the "
              "files in several parts, or turn the search for near duplicates off",
              count * size >> 20);
    return room;
}

/* ---- exact ---- */

static bool is_free(Hash128 hash) { return !hash.low && !hash.high; }

/* The slot of the hash, or the free one where it belongs. */
static Hash128 *exact_slot(const Duplicates *d, Hash128 hash) {
    size_t mask = d->exact_slots - 1, i = hash.low & mask;
    while (!is_free(d->exact[i]) && (d->exact[i].low != hash.low || d->exact[i].high != hash.high))
        i = (i + 1) & mask;
    return &d->exact[i];
}

static void exact_grow(Duplicates *d) {
    Hash128 *old = d->exact;
    size_t slots = d->exact_slots;
    d->exact_slots = slots ? 2 * slots : FIRST_SLOTS;
    d->exact = room_for(d->exact_slots, sizeof *d->exact);
    for (size_t i = 0; i < slots; i++)
        if (!is_free(old[i])) *exact_slot(d, old[i]) = old[i];
    free(old);
}

bool duplicates_exact(Duplicates *d, Hash128 hash) {
    if (is_free(hash)) hash.high = 1; /* that one means a free slot */
    if (2 * d->exact_count >= d->exact_slots) exact_grow(d);
    Hash128 *slot = exact_slot(d, hash);
    if (!is_free(*slot)) return true;
    *slot = hash;
    d->exact_count++;
    return false;
}

/* ---- near ---- */

static const uint16_t *signature_of(const Duplicates *d, size_t document) {
    return d->signatures + document * (size_t)(d->minhash.bands * d->minhash.rows);
}

/* Makes the document findable by the band with this hash. */
static void band_insert(Duplicates *d, uint64_t hash, size_t document) {
    size_t mask = d->band_slots - 1, i = hash & mask;
    int same = 0;
    for (; d->bands[i].document; i = (i + 1) & mask)
        if (d->bands[i].tag == (uint32_t)(hash >> 32) && ++same == MOST_IN_A_BAND) return;
    d->bands[i] = (BandSlot){(uint32_t)(hash >> 32), (uint32_t)document + 1};
    d->band_count++;
}

static void insert_all(Duplicates *d, size_t document) {
    for (int band = 0; band < d->minhash.bands; band++)
        band_insert(d, minhash_band(&d->minhash, signature_of(d, document), band), document);
}

/* Slots are numbered by the low bits of hashes that they do not hold: all documents are entered
 * anew. */
static void bands_grow(Duplicates *d) {
    free(d->bands);
    d->band_slots = d->band_slots ? 2 * d->band_slots : FIRST_SLOTS;
    d->bands = room_for(d->band_slots, sizeof *d->bands);
    d->band_count = 0;
    for (size_t i = 0; i < d->kept; i++) insert_all(d, i);
}

static void keep(Duplicates *d, const uint16_t *signature) {
    size_t length = (size_t)(d->minhash.bands * d->minhash.rows);
    if (d->kept >= UINT32_MAX - 1) fatal("more than 4 billion documents; prepare them in parts");
    if (d->kept == d->kept_capacity) {
        d->kept_capacity = d->kept_capacity ? d->kept_capacity + d->kept_capacity / 2 : 1024;
        d->signatures =
            must_realloc(d->signatures, d->kept_capacity * length, sizeof *d->signatures);
    }
    memcpy(d->signatures + d->kept * length, signature, length * sizeof *signature);
    d->kept++;
    if (2 * (d->band_count + (size_t)d->minhash.bands) >= d->band_slots)
        bands_grow(d);
    else
        insert_all(d, d->kept - 1);
}

int64_t duplicates_near(Duplicates *d, const uint16_t *signature) {
    for (int band = 0; band < d->minhash.bands && d->band_slots; band++) {
        uint64_t hash = minhash_band(&d->minhash, signature, band);
        size_t mask = d->band_slots - 1;
        for (size_t i = hash & mask; d->bands[i].document; i = (i + 1) & mask) {
            if (d->bands[i].tag != (uint32_t)(hash >> 32)) continue;
            size_t other = d->bands[i].document - 1;
            if (minhash_similarity(&d->minhash, signature, signature_of(d, other)) >= d->similarity)
                return (int64_t)other;
        }
    }
    keep(d, signature);
    return -1;
}

size_t duplicates_bytes(const Duplicates *d) {
    size_t signature = (size_t)(d->minhash.bands * d->minhash.rows) * sizeof *d->signatures;
    return d->exact_slots * sizeof *d->exact + d->kept_capacity * signature +
           d->band_slots * sizeof *d->bands;
}
