/*
 * A 128-bit hash of bytes: MurmurHash3_x64_128 (Austin Appleby, 2011; public domain).
 *
 * It names a document by its content, and a shard by its bytes. Among n different documents two
 * share a name with a probability of about n^2 / 2^129: for a billion, 10^-21. It keeps nothing
 * secret and does not withstand a search for collisions.
 */
#ifndef HASH128_H
#define HASH128_H

#include <stddef.h>
#include <stdint.h>

typedef struct Hash128 {
    uint64_t low, high;
} Hash128;

Hash128 hash128(const void *data, size_t bytes, uint32_t seed);

typedef struct HashText {
    char text[33];
} HashText;
HashText hash128_text(Hash128 hash); /* 32 hexadecimal digits */

/* A good mixer of 64 bits (Murmur's finalizer): every bit of x changes about half of the
 * result's. */
static inline uint64_t mix64(uint64_t x) {
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdull;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 33;
}

#endif
