/*
 * Turns: a cluster takes the next tile when it is free.
 *
 * Tiles that need the same weights have neighbouring numbers: so they start one right after the
 * other and find the weights in the L2 cache, however different tiles are in size. Dealt out in
 * advance, tiles drift apart: of 64 experts, 7168 -> 4096, 18 GB were read from memory, now 9, and
 * the power that took goes to the tensor cores (7 % faster on an H200). Where a tile's rows are
 * takes divisions and reads of offsets to find out: the warp that hands out the turns does that
 * too, ahead of time, and sends the answer to all blocks of the cluster.
 */
#ifndef TURNS_CUH
#define TURNS_CUH

#include "common/cuda/gpu.cuh"
#include "common/cuda/hopper.cuh"

enum { TURNS = 4 };

/* A tile, as the warp that hands them out describes it to all others of the cluster. */
struct alignas(16) Turn {
    int expert, place; /* which of the expert's tiles; the kernels number them as they like */
    int row, rows;     /* the first of x, and how many */
};

struct Turns {
    uint64_t full[TURNS], empty[TURNS]; /* the latter of the cluster's first block alone */
    Turn turn[TURNS];
};

#if HOPPER_CODE

/* By one thread, before mbarrier_init_fence(). readers: warps of the whole cluster. */
static __device__ __forceinline__ void turns_init(Turns *turns, int readers) {
    for (int i = 0; i < TURNS; i++) {
        mbarrier_init(&turns->full[i], 1); /* the first block's scheduler, and what it sends */
        mbarrier_init(&turns->empty[i], readers * WARP_ARRIVALS);
    }
}

/* A turn to the turns' `turn[slot]` of block `rank`, announced and reported to full. */
static __device__ __forceinline__ void send_turn(Turns *turns, int slot, Turn turn, int rank) {
    asm volatile("{\n"
                 ".reg .b32 there, barrier;\n"
                 "mapa.shared::cluster.u32 there, %0, %2;\n"
                 "mapa.shared::cluster.u32 barrier, %1, %2;\n"
                 "mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [barrier], 16;\n"
                 "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [there], "
                 "{%3, %4, %5, %6}, [barrier];\n"
                 "}\n" ::"r"(shared_address(&turns->turn[slot])),
                 "r"(shared_address(&turns->full[slot])), "r"(rank), "r"(turn.expert),
                 "r"(turn.place), "r"(turn.row), "r"(turn.rows)
                 : "memory");
}

/* The same to the block itself, where it is alone: that takes no copy. */
static __device__ __forceinline__ void keep_turn(Turns *turns, int slot, Turn turn) {
    turns->turn[slot] = turn;
    mbarrier_arrive(&turns->full[slot]);
}

/* One warp of the cluster (of BLOCKS blocks) hands out tiles 0 .. tiles - 1 as describe() describes
 * them, and then, once, number `tiles`: the end. It is at most TURNS ahead of the last to read
 * them. *next is 0 when the kernel starts; NULL: tiles are dealt out in advance. Which cluster does
 * a tile changes nothing about its result. */
template <int BLOCKS, typename Describe>
static __device__ void schedule(Turns *turns, int *next, int tiles, Describe describe) {
    int tile = min(blockIdx.x / BLOCKS, tiles), leader = threadIdx.x % 32 == 0;
    for (int turn = 0;; turn++) {
        Turn what = describe(tile);
        mbarrier_wait(&turns->empty[turn % TURNS], turn / TURNS % 2 ^ 1);
        if (BLOCKS == 1 && leader) keep_turn(turns, turn % TURNS, what);
        for (int rank = 0; BLOCKS > 1 && leader && rank < BLOCKS; rank++)
            send_turn(turns, turn % TURNS, what, rank);
        if (tile >= tiles) break;
        int clusters = gridDim.x / BLOCKS;
        if (leader) tile = next ? clusters + atomicAdd(next, 1) : tile + clusters;
        tile = min(__shfl_sync(~0u, tile, 0), tiles);
    }
}

/* Turn 0, 1, 2, ...; by whole warps, as many of the cluster as turns_init() was told. */
static __device__ __forceinline__ Turn take_turn(Turns *turns, int turn) {
    int slot = turn % TURNS;
    mbarrier_wait(&turns->full[slot], turn / TURNS % 2);
    Turn what = turns->turn[slot];
    if (lane_arrives()) mbarrier_arrive_cluster(&turns->empty[slot], 0);
    return what;
}
#endif
#endif
