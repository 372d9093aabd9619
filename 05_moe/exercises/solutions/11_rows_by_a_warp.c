/*
 * Solution 05.11. A lane's row is the expert's next one plus the lanes below it that chose the same
 * expert: bits of the mask that match_any gives. Everybody has read the next row before one lane
 * for each expert moves it on (the first meeting), and it has moved before the next round reads it
 * (the second). Without the first meeting a lane may read what its leader has already written.
 *
 * The tempting wrong answer is shared_add(expert, 1): every choice gets a row of its own, nobody
 * waits, and every test passes that only looks for a permutation. But lanes come in any order, so
 * the rows of an expert change places from run to run; sums in another order have other last bits,
 * and a training that has gone wrong cannot be repeated. Right, and slow, are 32 turns, one lane
 * after the other.
 *
 * The kernel (cuda/dispatch_cuda.cu) does the same with 32 warps at once: to the lower lanes come
 * the earlier warps and the earlier blocks, whose counts are added up first.
 */
#include "05_moe/exercises/warp_memory.h"

void place_rows(int lane, int32_t *row_of_slot, const int32_t *expert, int slots);

void place_rows(int lane, int32_t *row_of_slot, const int32_t *expert, int slots) {
    for (int first = 0; first < slots; first += 32) { /* the same rounds for all lanes */
        int slot = first + lane, e = slot < slots ? expert[slot] : -1;
        uint32_t same = match_any(e);
        int below = __builtin_popcount(same & ((1u << lane) - 1)); /* __popc on a GPU */
        int next = e < 0 ? -1 : shared_load(e);
        if (slot < slots) row_of_slot[slot] = e < 0 ? -1 : next + below;
        sync_warp();
        if (e >= 0 && below == 0) shared_store(e, next + __builtin_popcount(same));
        sync_warp();
    }
}
