/*
 * Which tile is whose? What the three grouped kernels share.
 *
 * How many tiles there are is known on the device only. So a kernel starts as many blocks as the
 * GPU runs at once, each block makes a table of the experts' tiles from offsets, and then takes
 * tile number blockIdx.x, blockIdx.x + gridDim.x, ... until there are no more. An expert without
 * rows has no tile.
 *
 *     expert e has   row_tiles(e) = ceil(rows of e / TILE)  tiles down,  `columns` tiles across
 *     first[e]       row tiles of all experts before e; its tiles begin at first[e] * columns
 *
 * Within an expert tiles are numbered 8 down, then across, so that those which are worked on at the
 * same time share rows of x and columns of W in the L2 cache.
 */
#ifndef GROUPED_TILES_CUH
#define GROUPED_TILES_CUH

#include "05_moe/cuda/prefix.cuh"

/* All threads of the block: fills first[0 .. experts]. */
template <int TILE>
static __device__ void tile_table(int *first, const int32_t *offsets, int experts) {
    prefix_table(first, experts,
                 [&](int e) { return (offsets[e + 1] - offsets[e] + TILE - 1) / TILE; });
}

struct TilePlace {
    int expert, row_tile, row_tiles, column;
};

/* Tile number i < first[experts] * columns. By a whole warp, 32 experts at a look; `from` is an
 * expert at or before the tile's own (numbers only grow, so the last one found will do). */
static __device__ __forceinline__ TilePlace tile_place(const int *first, int experts, int columns,
                                                       int i, int from) {
    int lane = threadIdx.x % 32;
    for (;; from += 32) {
        int e = from + lane;
        unsigned past = __ballot_sync(~0u, e >= experts || first[e + 1] * columns > i);
        if (past) {
            from += __ffs(past) - 1;
            break;
        }
    }
    TilePlace p;
    p.expert = from;
    p.row_tiles = first[from + 1] - first[from];
    int inside = i - first[from] * columns, band = inside / (8 * columns);
    int height = min(p.row_tiles - 8 * band, 8), rest = inside - band * 8 * columns;
    p.row_tile = 8 * band + rest % height;
    p.column = rest / height;
    return p;
}

#endif
