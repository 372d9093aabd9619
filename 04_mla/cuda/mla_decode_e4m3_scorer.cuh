/*
 * Absorbed decoding from rows of eight bits with wgmma: the scorer. What it does and how it is laid
 * out is described in mla_decode_e4m3_hopper.cu, whose part it is.
 */
#ifndef MLA_DECODE_E4M3_SCORER_CUH
#define MLA_DECODE_E4M3_SCORER_CUH

#include "04_mla/cuda/mla_decode_e4m3_hopper.cuh"

#if HOPPER_CODE

/* A half of a group of the warp's 16 tokens, as it is: codes of two rows and their scales. */
struct Codes {
    uint4 word[2];
    float scale[2];
};
__device__ __forceinline__ Codes codes_of(const unsigned char *page, int half) {
    const unsigned char *row = page + (warp_of() * 16 + lane_of() / 4) * ROW_BYTES;
    Codes c;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        c.scale[r] = *(const float *)(row + 8 * r * ROW_BYTES + RANK + half / 2 * 4);
        c.word[r] = *(const uint4 *)(row + 8 * r * ROW_BYTES + half / 2 * 128 + lane_of() % 4 * 32 +
                                     half % 2 * 16);
    }
    return c;
}

/* As A fragments of four steps of 16 columns. */
__device__ __forceinline__ void keys_of(uint32_t (&z)[4][4], const Codes &c) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t scale = pack_f16(c.scale[r], c.scale[r]);
        const uint32_t word[4] = {c.word[r].x, c.word[r].y, c.word[r].z, c.word[r].w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t two[2];
            e4m3_halves(two, word[k]);
            z[k][r] = f16_pair_times(two[0], scale);
            z[k][2 + r] = f16_pair_times(two[1], scale);
        }
    }
}

/* S^T = Z Q^T, in units of 2^8. Codes of the next half group become numbers while the tensor cores
 * have this one's. */
template <int N>
__device__ __forceinline__ void multiply_scores(float (&x)[N / 2], Tiles<N> &s, int stage) {
    const unsigned char *page = s.ring[stage];
    uint64_t q = wgmma_k_major(s.q[0]);
    uint32_t z[2][4][4];
    Codes next = codes_of(page, 0);
#pragma unroll
    for (int half = 0; half < BOXES; half++) {
        uint32_t(&mine)[4][4] = z[half % 2];
        if (half < BOXES - 1) {
            Codes now = next;
            if (half < BOXES - 2) next = codes_of(page, half + 1); /* ahead: it takes its time */
            keys_of(mine, now);
        } else {
#pragma unroll
            for (int k = 0; k < 4; k++) /* rope */
                ldmatrix_x4(mine[k], page + (warp_of() * 16 + lane_of() % 16) * ROW_BYTES + KEY +
                                         k * 32 + lane_of() / 16 * 16);
        }
        if (half == 0)
            wgmma_fence(x, mine[0], mine[1], mine[2], mine[3]);
        else
            wgmma_fence(mine[0], mine[1], mine[2], mine[3]);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint64_t columns = q + half * (Tiles<N>::BOX_BYTES >> 4) + k * WGMMA_K_STEP;
            if (half < BOXES - 1)
                Wgmma<N>::template halves<0>(x, mine[k], columns, half + k > 0);
            else
                Wgmma<N>::template registers<0>(x, mine[k], columns, 1);
        }
        wgmma_commit();
        if (half < BOXES - 1) {
            uint32_t(&other)[4][4] = z[1 - half % 2];
            wgmma_wait<1>(other[0], other[1], other[2], other[3]);
        }
    }
}

/* The rows of queries of S^T's columns that a thread has: 8 j + 2 (lane % 4) + e, as number
 * 2 j + e. What it knows of each. */
template <int N> struct Softmax {
    float base[N / 4]; /* of the exponents: about the maximum, a whole number */
    float sum[N / 4];  /* of this thread's tokens, until finish() */
};
__device__ __forceinline__ int column_of(int n) { return n / 2 * 8 + lane_of() % 4 * 2 + n % 2; }

/* Token t of the page is seen by row r of queries if t < seen. */
template <int N>
__device__ __forceinline__ void mask(float (&x)[N / 2], const Arguments &a, int first_row, int page,
                                     int length) {
    int last = mla_rows(a.shape) - 1, token = page * PAGE_TOKENS + warp_of() * 16 + lane_of() / 4;
#pragma unroll 1
    for (int j = 0; j < N / 8; j++)
        for (int e = 0; e < 2; e++) {
            int row = min(first_row + 8 * j + lane_of() % 4 * 2 + e, last);
            int seen = mla_keys_seen(&a.shape, length, row);
#pragma unroll
            for (int i = 0; i < N / 8; i++) /* a constant index, or x would go to memory */
                if (i == j) {
                    if (token >= seen) (e ? x[4 * i + 1] : x[4 * i]) = -INFINITY;
                    if (token + 8 >= seen) (e ? x[4 * i + 3] : x[4 * i + 2]) = -INFINITY;
                }
        }
}

/* Of COUNT numbers that lanes have whose numbers differ by LANES, each keeps the larger ones: of
 * half of them, as long as there are more than two. Returns the first it has. */
template <int COUNT, int LANES> __device__ __forceinline__ int spread_maxima(float *x) {
    if constexpr (LANES < 4) {
        return 0;
    } else if constexpr (COUNT > 2) {
        bool upper = lane_of() & LANES;
#pragma unroll
        for (int i = 0; i < COUNT / 2; i++) {
            float keep = upper ? x[i + COUNT / 2] : x[i], send = upper ? x[i] : x[i + COUNT / 2];
            x[i] = fmaxf(keep, __shfl_xor_sync(~0u, send, LANES));
        }
        return upper * (COUNT / 2) + spread_maxima<COUNT / 2, LANES / 2>(x);
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i++) x[i] = fmaxf(x[i], __shfl_xor_sync(~0u, x[i], LANES));
        return spread_maxima<COUNT, LANES / 2>(x);
    }
}

/* Whole numbers around 0 as positive floats, which are in order as integers are. */
static constexpr float ZERO = 4194304.0f; /* 2^22 */

/* In shared memory, each row's maximum so far of what all warps know; see column_of(). */
template <int N>
__device__ __forceinline__ void raise(uint32_t *top, const float (&x)[N / 2], float c) {
    float most[N / 4];
#pragma unroll
    for (int n = 0; n < N / 4; n++) most[n] = fmaxf(x[n / 2 * 4 + n % 2], x[n / 2 * 4 + 2 + n % 2]);
    int n = spread_maxima<N / 4, 16>(most);
#pragma unroll
    for (int e = 0; e < 2; e++) /* 2^8 for the units of P: half precision has few below 1 */
        atomicMax(top + column_of(n + e),
                  __float_as_uint(fmaxf(rintf(most[e] * c) - 8 + ZERO, 0.0f)));
}

/* x becomes 2^(c x - base), where the scorer has all pages. */
template <int N>
__device__ __forceinline__ void softmax_step(float (&x)[N / 2], Softmax<N> &m, Tiles<N> &s,
                                             int stage, const uint32_t *top, float c) {
    float base[N / 4];
    bool changed = false;
#pragma unroll
    for (int n = 0; n < N / 4; n += 2) {
        uint2 two = *(const uint2 *)(top + column_of(n));
        base[n] = fmaxf(m.base[n], __uint_as_float(two.x) - ZERO);
        base[n + 1] = fmaxf(m.base[n + 1], __uint_as_float(two.y) - ZERO);
        changed |= base[n] != m.base[n] || base[n + 1] != m.base[n + 1];
    }
    changed = __any_sync(~0u, changed);
    if (changed) {
#pragma unroll
        for (int n = 0; n < N / 4; n++) {
            float factor = exp2_fast(m.base[n] - base[n]);
            m.sum[n] *= factor;
            m.base[n] = base[n];
            if (threadIdx.x < 4) s.factor[stage][column_of(n)] = factor;
        }
    }
    if (threadIdx.x == 0) s.changed[stage] = changed;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        int n = i / 4 * 2 + i % 2;
        x[i] = exp2_fast(x[i] * c - m.base[n]);
        m.sum[n] += x[i];
    }
}

/* The sums in units of another base. */
template <int N> __device__ __forceinline__ void change(Softmax<N> &m, const float (&base)[N / 4]) {
#pragma unroll
    for (int n = 0; n < N / 4; n++) {
        m.sum[n] *= exp2_fast(m.base[n] - base[n]);
        m.base[n] = base[n];
    }
}

/* The same where two have them in turn; before: the base of the page before, which the other had.
 * It has this page's before the exponentials begin. */
template <int N>
__device__ __forceinline__ void softmax_in_turn(float (&x)[N / 2], Softmax<N> &m, Tiles<N> &s,
                                                int stage, const float (&before)[N / 4],
                                                const uint32_t *top, float c) {
    float base[N / 4];
    bool changed = false;
#pragma unroll
    for (int n = 0; n < N / 4; n += 2) {
        uint2 two = *(const uint2 *)(top + column_of(n));
        base[n] = fmaxf(before[n], __uint_as_float(two.x) - ZERO);
        base[n + 1] = fmaxf(before[n + 1], __uint_as_float(two.y) - ZERO);
        changed |= base[n] != before[n] || base[n + 1] != before[n + 1];
        if (threadIdx.x % 128 < 4)
            *(float2 *)(s.base[stage] + column_of(n)) = make_float2(base[n], base[n + 1]);
    }
    if (warp_of() == 0) mbarrier_arrive_warp(&s.based[stage]);
    changed = __any_sync(~0u, changed);
    if (changed && threadIdx.x % 128 < 4) {
#pragma unroll
        for (int n = 0; n < N / 4; n++)
            s.factor[stage][column_of(n)] = exp2_fast(before[n] - base[n]);
    }
    if (threadIdx.x % 128 == 0) s.changed[stage] = changed;
    change(m, base);
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        int n = i / 4 * 2 + i % 2;
        x[i] = exp2_fast(x[i] * c - m.base[n]);
        m.sum[n] += x[i];
    }
}

template <int N>
__device__ __forceinline__ void store_probabilities(char *p, const float (&x)[N / 2]) {
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        uint32_t packed[4];
#pragma unroll
        for (int i = 0; i < 4; i++) packed[i] = pack_f16(x[8 * k + 2 * i], x[8 * k + 2 * i + 1]);
        stmatrix_x4_transposed(p + swizzle_128(k * 16 + lane_of() / 16 * 8 + lane_of() % 8,
                                               warp_of() * 16 + lane_of() / 8 % 2 * 8),
                               packed);
    }
}

/* What lies behind the last token becomes zeros: their probabilities are 0, but 0 * NaN is NaN. The
 * warp's own 16 rows, which it has read. */
__device__ __forceinline__ void clear_rows(unsigned char *page, int there) {
    __syncwarp();
    for (int r = max(there - warp_of() * 16, 0); r < 16; r++)
        for (int i = lane_of(); i < KEY / 16; i += 32)
            *(uint4 *)(page + (warp_of() * 16 + r) * ROW_BYTES + i * 16) = make_uint4(0, 0, 0, 0);
}

/* The base of the page before the ring's; by whoever scores the ring's, or comes to the piece's
 * end. */
template <int N>
__device__ __forceinline__ void base_before(float (&base)[N / 4], Tiles<N> &s,
                                            const Ring<Tiles<N>::STAGES> &ring) {
    int stage = ring.stage ? ring.stage - 1 : s.STAGES - 1;
    mbarrier_wait(&s.based[stage], ring.parity ^ (ring.stage == 0));
#pragma unroll
    for (int n = 0; n < N / 4; n += 2) {
        float2 two = *(const float2 *)(s.base[stage] + column_of(n));
        base[n] = two.x, base[n + 1] = two.y;
    }
}

/* Sums of the warp's tokens, in units of the last page's base. */
template <int N>
__device__ __forceinline__ void finish(Softmax<N> &m, Tiles<N> &s,
                                       const Ring<Tiles<N>::STAGES> &ring) {
    if constexpr (Tiles<N>::SCORERS == 2) {
        float base[N / 4];
        base_before<N>(base, s, ring);
        change(m, base);
    }
#pragma unroll
    for (int n = 0; n < N / 4; n++) {
        for (int lanes = 4; lanes < 32; lanes *= 2)
            m.sum[n] += __shfl_xor_sync(~0u, m.sum[n], lanes);
        if (lane_of() < 4) s.sum[threadIdx.x / 32][column_of(n)] = m.sum[n];
        if (threadIdx.x < 4) s.last[column_of(n)] = m.base[n];
    }
    mbarrier_arrive_warp(&s.summed);
}

/* Pages group, group + SCORERS, ... of each piece. */
template <int N> static __device__ void score(Tiles<N> &s, const Arguments &a, int group) {
    constexpr int SCORERS = Tiles<N>::SCORERS;
    Ring<Tiles<N>::STAGES> ring;
    const float c = a.scale_log2 * 256;
    for (int first_row; (first_row = begin_piece(s, a)) >= 0;) {
        Softmax<N> m;
#pragma unroll
        for (int n = 0; n < N / 4; n++) m.base[n] = -ZERO, m.sum[n] = 0.0f;
        int length = s.piece.length, first = s.piece.first, count = s.piece.count;
        for (int i = 0; i < count; i++, ring.advance()) {
            if (SCORERS == 2 && i % 2 != group) continue;
            float x[N / 2];
            int stage = __shfl_sync(~0u, ring.stage, 0), page = first + i;
            mbarrier_wait(&s.full[stage], ring.parity);
            multiply_scores(x, s, stage);
            wgmma_wait<0>(x);
            /* for the page before: it is weighed during this one's softmax */
            if (SCORERS == 1 && i > 0)
                mbarrier_arrive_warp(&s.turn[stage ? stage - 1 : s.STAGES - 1]);
            int there = length - page * PAGE_TOKENS;
            if (there - PAGE_TOKENS < a.shape.q_len - 1) mask<N>(x, a, first_row, page, length);
            uint32_t *top = s.top[i % (2 * SCORERS)];
            raise<N>(top, x, c);
            named_barrier_sync(SCORER_BARRIER + (SCORERS == 2 ? group : 0), 128);
            if constexpr (SCORERS == 1) {
                softmax_step(x, m, s, stage, top, c);
            } else {
                float before[N / 4];
#pragma unroll
                for (int n = 0; n < N / 4; n++) before[n] = -ZERO;
                if (i > 0) base_before<N>(before, s, ring);
                softmax_in_turn(x, m, s, stage, before, top, c);
            }
            store_probabilities<N>(s.p[stage], x);
            if (there < PAGE_TOKENS) clear_rows(s.ring[stage], there);
            async_proxy_fence();
            mbarrier_arrive_warp(&s.scored[stage]);
        }
        if (SCORERS == 1) mbarrier_arrive_warp(&s.turn[ring.stage ? ring.stage - 1 : s.STAGES - 1]);
        finish<N>(m, s, ring);
    }
}

#endif /* HOPPER_CODE */
#endif
