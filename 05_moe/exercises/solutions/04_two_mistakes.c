/*
 * Solution 05.4. The slots have to be walked in order, or an expert's rows stand backwards and the
 * first tokens are dropped; and counts are the choices, dropped ones included: what fits is in
 * offsets. It is tempting to let counts be what was kept: the balance would then never learn that
 * an expert is crowded, for it looks at counts.
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
        int32_t kept = capacity > 0 && counts[e] > capacity ? (int32_t)capacity : counts[e];
        offsets[e + 1] = offsets[e] + kept;
        next[e] = offsets[e];
    }
    for (int64_t s = 0; s < slots; s++) {
        int e = indices[s];
        row_of_slot[s] = next[e] < offsets[e + 1] ? next[e]++ : -1;
        if (row_of_slot[s] >= 0) slot_of_row[row_of_slot[s]] = (int32_t)s;
    }
    free(next);
}
