/*
 * Dispatch on the CPU: a counting sort for the plan, and rows copied or added, one token to a
 * thread. Every sum has the order of the token's choices.
 */
#include "05_moe/dispatch.h"

#include <string.h>

/* Below this many elements a loop is over before the other threads have woken up. */
enum { PARALLEL_MIN = 1 << 14 };

/*
 * A counting sort in three passes. After the first, scratch[p][e] says how often piece p of the
 * slots chose expert e; after the second, how often the pieces before it did: where piece p's first
 * slot of expert e stands in e's queue. The third walks each piece in order, so the sort is stable.
 */
void dispatch_plan_cpu(int32_t *counts, int32_t *offsets, int32_t *row_of_slot,
                       int32_t *slot_of_row, int32_t *scratch, const int32_t *indices,
                       int64_t slots, int experts, int64_t capacity) {
    int64_t pieces = (slots + DISPATCH_PIECE - 1) / DISPATCH_PIECE;
    memset(scratch, 0, (size_t)(pieces * experts) * sizeof *scratch);
#pragma omp parallel for if (pieces > 16)
    for (int64_t p = 0; p < pieces; p++)
        for (int64_t s = p * DISPATCH_PIECE; s < slots && s < (p + 1) * DISPATCH_PIECE; s++) {
            CHECK(indices[s] >= -1 && indices[s] < experts,
                  "dispatch_plan: expert %d of token's choice %lld is outside [0, %d)", indices[s],
                  (long long)s, experts);
            if (indices[s] >= 0) scratch[p * experts + indices[s]]++;
        }

    offsets[0] = 0;
    for (int e = 0; e < experts; e++) {
        int32_t before = 0;
        for (int64_t p = 0; p < pieces; p++) {
            int32_t here = scratch[p * experts + e];
            scratch[p * experts + e] = before;
            before += here;
        }
        counts[e] = before;
        int32_t kept = capacity > 0 && before > capacity ? (int32_t)capacity : before;
        offsets[e + 1] = offsets[e] + kept;
    }

#pragma omp parallel for if (pieces > 16)
    for (int64_t p = 0; p < pieces; p++)
        for (int64_t s = p * DISPATCH_PIECE; s < slots && s < (p + 1) * DISPATCH_PIECE; s++) {
            int e = indices[s];
            row_of_slot[s] = -1;
            if (e < 0) continue; /* nobody */
            int32_t row = offsets[e] + scratch[p * experts + e]++;
            if (row >= offsets[e + 1]) continue; /* past the capacity */
            row_of_slot[s] = row;
            slot_of_row[row] = (int32_t)s;
        }
}

void dispatch_permute_cpu(float *xp, const float *x, const int32_t *row_of_slot, int64_t tokens,
                          int top_k, int64_t d) {
#pragma omp parallel for if (tokens * top_k * d > PARALLEL_MIN)
    for (int64_t n = 0; n < tokens; n++)
        for (int j = 0; j < top_k; j++) {
            int32_t row = row_of_slot[n * top_k + j];
            if (row >= 0) memcpy(xp + row * d, x + n * d, (size_t)d * sizeof *xp);
        }
}

void dispatch_permute_backward_cpu(float *dx, int add, const float *dxp, const int32_t *row_of_slot,
                                   int64_t tokens, int top_k, int64_t d) {
#pragma omp parallel for if (tokens * top_k * d > PARALLEL_MIN)
    for (int64_t n = 0; n < tokens; n++) {
        float *to = dx + n * d;
        if (!add) memset(to, 0, (size_t)d * sizeof *to);
        for (int j = 0; j < top_k; j++) {
            int32_t row = row_of_slot[n * top_k + j];
            if (row < 0) continue;
            const float *from = dxp + row * d;
            for (int64_t i = 0; i < d; i++) to[i] += from[i];
        }
    }
}

void dispatch_combine_cpu(float *y, const float *base, const float *yp, const float *weights,
                          const int32_t *row_of_slot, int64_t tokens, int top_k, int64_t d) {
#pragma omp parallel for if (tokens * top_k * d > PARALLEL_MIN)
    for (int64_t n = 0; n < tokens; n++) {
        float *to = y + n * d;
        for (int64_t i = 0; i < d; i++) to[i] = base ? base[n * d + i] : 0.0f;
        for (int j = 0; j < top_k; j++) {
            int32_t row = row_of_slot[n * top_k + j];
            if (row < 0) continue; /* dropped: this choice adds nothing */
            const float *from = yp + row * d;
            float w = weights[n * top_k + j];
            for (int64_t i = 0; i < d; i++) to[i] += w * from[i];
        }
    }
}

void dispatch_combine_backward_cpu(float *dyp, int add_yp, float *dweights, int add_w,
                                   const float *dy, const float *yp, const float *weights,
                                   const int32_t *row_of_slot, int64_t tokens, int top_k,
                                   int64_t d) {
#pragma omp parallel for if (tokens * top_k * d > PARALLEL_MIN)
    for (int64_t slot = 0; slot < tokens * top_k; slot++) {
        int32_t row = row_of_slot[slot];
        const float *dyn = dy + slot / top_k * d;
        float dot = 0, w = weights[slot];
        if (row >= 0 && dweights) {
            const float *from = yp + row * d;
#pragma omp simd reduction(+ : dot)
            for (int64_t i = 0; i < d; i++) dot += dyn[i] * from[i];
        }
        if (dweights) dweights[slot] = add_w ? dweights[slot] + dot : dot;
        if (row < 0 || !dyp) continue;
        float *to = dyp + row * d;
        for (int64_t i = 0; i < d; i++) to[i] = add_yp ? to[i] + w * dyn[i] : w * dyn[i];
    }
}
