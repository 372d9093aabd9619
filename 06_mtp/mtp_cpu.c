/*
 * What a module sees and is asked for, row by row.
 */
#include "06_mtp/mtp.h"

void mtp_shift_cpu(int32_t *ids_k, int32_t *targets_k, const int32_t *ids, const int32_t *targets,
                   int64_t batch, int64_t tokens, int k, int32_t end) {
    for (int64_t b = 0; b < batch; b++)
        for (int64_t i = 0, at = b * tokens; i < tokens; i++, at++) {
            bool there = i + k < tokens;
            ids_k[at] = ids[there ? at + k : (b + 1) * tokens - 1];
            for (int j = 1; there && j <= k; j++) there = ids[at + j] != end;
            targets_k[at] = there ? targets[at + k] : IGNORE_TARGET;
        }
}
