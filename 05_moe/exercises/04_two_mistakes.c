/*
 * Exercise 05.4: two mistakes.
 *
 * The counting sort that sends tokens to their experts, in one piece and with two mistakes. Both
 * leave every token with an expert that it chose, so a model would train with them. Find them.
 *
 * POINTS: 2
 *
 * REPLACES: dispatch_plan_cpu in 05_moe/dispatch_cpu.c
 *
 * TESTS: test_dispatch:dispatch/plan*cpu test_dispatch:dispatch/over_capacity*cpu
 */
#include "05_moe/dispatch.h"

#include <stdlib.h>

void dispatch_plan_cpu(int32_t *counts, int32_t *offsets, int32_t *row_of_slot,
                       int32_t *slot_of_row, int32_t *scratch, const int32_t *indices,
                       int64_t slots, int experts, int64_t capacity) {
    int32_t *next = calloc((size_t)experts, sizeof *next);
    for (int e = 0; e < experts; e++) counts[e] = 0;
    for (int64_t s = 0; s < slots; s++) counts[indices[s]]++;
    offsets[0] = 0;
    for (int e = 0; e < experts; e++) {
        if (capacity > 0 && counts[e] > capacity) counts[e] = (int32_t)capacity;
        offsets[e + 1] = offsets[e] + counts[e];
        next[e] = offsets[e];
    }
    for (int64_t s = slots - 1; s >= 0; s--) {
        int e = indices[s];
        row_of_slot[s] = next[e] < offsets[e + 1] ? next[e]++ : -1;
        if (row_of_slot[s] >= 0) slot_of_row[row_of_slot[s]] = (int32_t)s;
    }
    free(next);
}
