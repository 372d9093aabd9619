/* Scores against plain loops over the array itself, and the number of keys that were read. */
#include "03_multihead/exercises/read_once.h"

#include "common/program/testing.h"

#include <math.h>

enum { H = 12, H_KV = 3, D = 7, LENGTH = 33 };

struct Memory {
    float keys[H_KV][LENGTH][D];
    float shown[2][D]; /* only the last key that was read can still be seen */
    int64_t reads;
};

const float *read_key(Memory *memory, int g, int t) {
    float *now = memory->shown[memory->reads % 2], *before = memory->shown[(memory->reads + 1) % 2];
    memory->reads++;
    for (int d = 0; d < D; d++) {
        now[d] = memory->keys[g][t][d];
        before[d] = NAN;
    }
    return now;
}

Test(read_once, same_scores_few_reads) {
    static Memory memory;
    float q[H * D], scores[H * LENGTH], expected[H * LENGTH];
    for (int i = 0; i < H * D; i++) q[i] = rng_normal(1, 1, (uint64_t)i);
    for (int i = 0; i < H_KV * LENGTH * D; i++)
        (&memory.keys[0][0][0])[i] = rng_normal(1, 2, (uint64_t)i);
    for (int h = 0; h < H; h++)
        for (int t = 0; t < LENGTH; t++) {
            double sum = 0;
            for (int d = 0; d < D; d++)
                sum += (double)q[h * D + d] * memory.keys[h / (H / H_KV)][t][d];
            expected[h * LENGTH + t] = (float)sum;
            scores[h * LENGTH + t] = NAN;
        }
    group_scores(scores, q, &memory, H, H_KV, D, LENGTH);
    check_close("scores", scores, expected, H * LENGTH, 1e-6); /* F32, sums of 7 */
    cr_assert(memory.reads <= H_KV * LENGTH, "%d keys were read; %d would do", (int)memory.reads,
              H_KV * LENGTH);
}
