/*
 * Solution 06.2: a window ends where the next begins, which a document it knows nothing of may do.
 * The end itself may be predicted: only what is behind it belongs to others. (Tempting: to look at
 * token i too. There the next document has begun, and its tokens follow from one another.)
 */
#include "06_mtp/mtp.h"

void mtp_shift_cpu(int32_t *ids_k, int32_t *targets_k, const int32_t *ids, const int32_t *targets,
                   int64_t batch, int64_t tokens, int k, int32_t end) {
    for (int64_t b = 0; b < batch; b++, ids += tokens, targets += tokens)
        for (int64_t i = 0; i < tokens; i++) {
            bool ended = i + k >= tokens;
            *ids_k++ = ids[ended ? tokens - 1 : i + k];
            for (int64_t j = i + 1; j < tokens && j <= i + k; j++) ended |= ids[j] == end;
            *targets_k++ = ended ? IGNORE_TARGET : targets[i + k];
        }
}
