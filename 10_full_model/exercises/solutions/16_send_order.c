/*
 * Solution 10.16. A counting sort: count each expert's rows, add the counts up to where each expert
 * begins, and walk through the rows once more. Because ranks have consecutive experts, rows sorted
 * by expert are sorted by rank, too. Tempting, and wrong: to sort by rank alone. The receiver takes
 * the first offset[1] - offset[0] rows for its first expert, and so on.
 */
#include "10_full_model/exercises/16_send_order.h"

#include <stdlib.h>

void send_order(int64_t *counts, int32_t *order, const int32_t *expert, int rows, int experts,
                int ranks) {
    int32_t *next = calloc((size_t)experts + 1, sizeof *next);
    for (int r = 0; r < ranks; r++) counts[r] = 0;
    for (int i = 0; i < rows; i++) {
        next[expert[i] + 1]++;
        counts[expert[i] / (experts / ranks)]++;
    }
    for (int e = 0; e < experts; e++) next[e + 1] += next[e];
    for (int i = 0; i < rows; i++) order[next[expert[i]]++] = i;
    free(next);
}
