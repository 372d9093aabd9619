/*
 * Positions on the CPU.
 */
#include "04_mla/position.h"

void positions_fill_cpu(int32_t *positions, const int32_t *first, int offset, int64_t batch,
                        int64_t tokens) {
    for (int64_t b = 0; b < batch; b++)
        for (int64_t t = 0; t < tokens; t++)
            positions[b * tokens + t] = (first ? first[b] : 0) + offset + (int32_t)t;
}
