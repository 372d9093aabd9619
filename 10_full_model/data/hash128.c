/*
 * MurmurHash3_x64_128: 16 bytes at a time into two halves that are mixed into each other; the tail
 * is padded with zeros; the length goes in at the end, and a finalizer spreads every bit.
 */
#include "10_full_model/data/hash128.h"

#include <stdio.h>
#include <string.h>

static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

static uint64_t scramble_low(uint64_t k) {
    return rotate(k * 0x87c37b91114253d5ull, 31) * 0x4cf5ad432745937full;
}

static uint64_t scramble_high(uint64_t k) {
    return rotate(k * 0x4cf5ad432745937full, 33) * 0x87c37b91114253d5ull;
}

Hash128 hash128(const void *data, size_t bytes, uint32_t seed) {
    const unsigned char *p = data, *end = p + bytes / 16 * 16;
    uint64_t a = seed, b = seed, k[2];
    for (; p < end; p += 16) {
        memcpy(k, p, sizeof k);
        a = (rotate(a ^ scramble_low(k[0]), 27) + b) * 5 + 0x52dce729;
        b = (rotate(b ^ scramble_high(k[1]), 31) + a) * 5 + 0x38495ab5;
    }
    /* The last 0 .. 15 bytes, filled up with zeros; the length, mixed in below, tells them from
     * real ones. */
    memset(k, 0, sizeof k);
    if (bytes % 16) memcpy(k, p, bytes % 16);
    b ^= scramble_high(k[1]);
    a ^= scramble_low(k[0]);
    a ^= bytes, b ^= bytes;
    a += b, b += a;
    a = mix64(a), b = mix64(b);
    a += b, b += a;
    return (Hash128){a, b};
}

HashText hash128_text(Hash128 hash) {
    HashText t;
    snprintf(t.text, sizeof t.text, "%016llx%016llx", (unsigned long long)hash.low,
             (unsigned long long)hash.high);
    return t;
}
