/*
 * Random numbers from a counter: Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as
 * easy as 1, 2, 3").
 *
 * There is no hidden state to pass on: the four 32-bit words numbered `index` of stream `stream`
 * under `seed` are a function of these three, the same on CPU and GPU and for any number of
 * threads. Each random operation of a step takes a stream of its own (rng_next_stream); element i
 * of a tensor uses word i % 4 of block i / 4.
 */
#ifndef COMMON_RNG_H
#define COMMON_RNG_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define RNG_FUNCTION static __host__ __device__ inline
#else
#define RNG_FUNCTION static inline
#endif

typedef struct Rng {
    uint64_t seed;
    uint64_t stream; /* how many streams have been handed out */
    /* Of the batch at hand, which is a part of a step's: the number of its first sample there. What
     * belongs to a sample (dropout's mask) depends on that and not on how the step is cut. */
    uint64_t sample;
} Rng;

typedef struct Philox {
    uint32_t word[4];
} Philox;

RNG_FUNCTION Philox philox(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u; /* the golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    Philox out;
    out.word[0] = c0;
    out.word[1] = c1;
    out.word[2] = c2;
    out.word[3] = c3;
    return out;
}

/* Uniform in [0, 1): 24 bits, so that every value is exact in F32. */
RNG_FUNCTION float rng_uniform(uint64_t seed, uint64_t stream, uint64_t i) {
    return (float)(philox(seed, stream, i / 4).word[i % 4] >> 8) * 0x1p-24f;
}

/* Standard normal by Box-Muller: elements 2j and 2j + 1 are the two coordinates of one pair of
 * uniforms. */
RNG_FUNCTION float rng_normal(uint64_t seed, uint64_t stream, uint64_t i) {
    Philox p = philox(seed, stream, i / 4);
    uint32_t a = p.word[i % 4 / 2 * 2], b = p.word[i % 4 / 2 * 2 + 1];
    /* (0, 1]: the log is finite */
    float radius = sqrtf(-2.0f * logf(((float)(a >> 8) + 1.0f) * 0x1p-24f));
    float angle = 6.2831853f * ((float)(b >> 8) * 0x1p-24f);
    return radius * (i % 2 ? sinf(angle) : cosf(angle));
}

/* A stream no other operation of this run uses. */
RNG_FUNCTION uint64_t rng_next_stream(Rng *rng) { return rng->stream++; }

#endif
