/*
 * Exercise 05.11: rows by a warp.
 *
 * The last step of the plan, as a warp of a GPU takes it: which row of the permuted matrix does
 * each choice go to? 32 lanes call place_rows() together, and lane l takes the choices l, l + 32,
 * l + 64, ... of `slots`. expert[slot] is who was chosen, -1: nobody, and the row is -1, too. The
 * shared array holds, for each expert, the row that its next choice will have; at the beginning
 * that is the expert's first row.
 *
 * Two things are asked for. The rows of one expert keep the order of the slots, on every run and
 * whichever lane comes first: only then do later sums have the same bits each time. And the lanes
 * do not queue up: one match_any() and two sync_warp() are enough for 32 slots. All lanes must meet
 * in them, those without a slot in the last round as well (warp_memory.h).
 *
 * POINTS: 3
 */
#include "05_moe/exercises/warp_memory.h"

void place_rows(int lane, int32_t *row_of_slot, const int32_t *expert, int slots);

void place_rows(int lane, int32_t *row_of_slot, const int32_t *expert, int slots) {
    for (int slot = lane; slot < slots; slot += 32) row_of_slot[slot] = -1;
}
