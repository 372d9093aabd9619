/*
 * Solution 05.6. Halving, and remembering what stands before `low`, so that it is not asked for
 * again. The tempting wrong answer stops at the first expert whose tiles begin there: an expert
 * without rows begins at the same tile as the next one, and must not be found.
 */
#include "05_moe/exercises/find_the_tile.h"

void find_tile(int *expert, int *number, Tiles *tiles, int experts, int tile) {
    int low = 0, high = experts, before = 0; /* before = tiles_before(low), 0 for the first */
    while (high - low > 1) {
        int middle = (low + high) / 2, here = tiles_before(tiles, middle);
        if (here <= tile) {
            low = middle;
            before = here;
        } else {
            high = middle;
        }
    }
    *expert = low;
    *number = tile - before;
}
