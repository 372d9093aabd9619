/*
 * Absorbed decoding on Hopper: what a block keeps, and how the work is dealt out and fetched.
 *
 * Words. A tile is 64 rows of a sequence's q_len x heads (query, head) pairs. A team is one block,
 * or two blocks of a cluster with a tile each when there are more than 64 rows; its blocks read the
 * same pages. An item is a sequence for one team's tiles. A piece is a run of an item's pages.
 *
 * Shares. The pages of all items stand in a row, each item preceded by START_COST pages' worth of
 * work for its queries and its output; team t takes the t-th of equally long sections. So every
 * team is busy to the end whatever the lengths are, and has at most two pieces that are not whole
 * items: its first, whose beginning is another team's, and its last. Their results go to slots 0
 * and 1 of the team in the scratch memory, and a second kernel combines them. The lengths, which
 * alone decide all this, are read on the device: the grid depends on the GPU only.
 *
 * Ring. Shared memory holds three stages of nine 64 x 64 boxes, and one TMA copy fills a stage:
 * with 64 rows of queries at the start of a piece, then with one page after the other. A page's two
 * readers in a team share the fetching: each block asks for every second page and has it sent to
 * both (multicast), so the L2 cache gives out each page once.
 *
 * No warp is left for a producer: its registers are needed elsewhere. The thread that gives a stage
 * back last fills it again, and keeps its state (Feed) in shared memory.
 */
#ifndef MLA_DECODE_HOPPER_CUH
#define MLA_DECODE_HOPPER_CUH

#include "04_mla/cuda/latent_boxes.cuh"
#include "04_mla/cuda/mla_decode_sparse.cuh"

enum {
    STAGES = 3,
    PAGE_BYTES = BOXES * BOX_BYTES,
    START_COST = 4,   /* of an item, in pages */
    LEAST_SHARE = 4,  /* pages: less is not worth the combining */
    FEED_BARRIER = 2, /* of the weighers, when they fetch */
    WEIGHERS = 256
};

/* What a stage of the ring holds. */
struct Use {
    int batch, tile;
    int length; /* of the sequence */
    int to;   /* where the piece's result goes: a slot, or ~(tile's number among all): the result */
    int page; /* of the sequence; of queries: the page before the piece */
    int left; /* pages of the piece that follow; of queries 0: there are no more pieces */
};

/* A team's section of the row of items, and the item it is at. */
struct Share {
    int begin, end, size;
    int batch, set; /* set: which of the sequence's items */
    int start;      /* of the item */
};

struct Feed {
    Share share;
    Use use; /* the last one asked for */
    int stage, parity;
    bool query, done; /* query: a new piece comes next */
};

/* With lists: what all weighers are to fetch next. */
struct Plan {
    Use use;
    int stage;
    bool query, done;
};

/* Of an item: the team of its first piece, and the number of pieces. */
struct Split {
    int team, pieces;
};

struct Tiles {
    alignas(1024) LatentBoxes ring[STAGES];
    alignas(1024) bf16 q_rope[TILE * 64]; /* what of Q does not fit into registers */
    bf16 q_step[TILE * 16];
    bf16 factor[STAGES][TILE]; /* what O is multiplied by before the page: powers of two */
    Use use[STAGES];
    Feed feed;
    Plan plan[2]; /* in turn */
    /* full: the copy is here.  scored: P and factor are.  turn: the weighers may use the tensor
     * cores.  empty: they are done. */
    uint64_t full[STAGES], scored[STAGES], turn[STAGES], empty[STAGES];
};
static_assert(sizeof(Tiles) <= 227 * 1024, "more than a block can have");

struct Arguments {
    MlaDecodeShape shape;
    const int32_t *block_table, *lengths;
    bf16 *o;
    float *partial; /* [slots][tile_rows][RANK], not divided by the sums */
    float2 *stats;  /* [slots][TILE]: base and sum of each row */
    Split *split;   /* [items] */
    int rows;       /* q_len * heads */
    int tile_rows;  /* min(rows, TILE) */
    int sets;       /* items of a sequence */
    int tiles;      /* sets * blocks of a team */
    int teams;
    float scale_log2; /* scale * log2(e): e^(scale s) = 2^(scale_log2 s) */
    /* With lists (mla_decode_sparse.cuh): rows of the pool [batch, max_length], and one of zeros */
    const int32_t *list;
    const bf16 *latent, *zeros;
};

#if HOPPER_CODE

/* One arrival per warp, in both blocks of a team: either may be the one that fills this stage
 * next. */
template <int CLUSTER> __device__ __forceinline__ void release(uint64_t *empty) {
    if (CLUSTER == 1)
        mbarrier_arrive_warp(empty);
    else
        mbarrier_arrive_warp_in_each<CLUSTER>(empty);
}

__device__ __forceinline__ int item_cost(int length) {
    return START_COST + (length + PAGE_TOKENS - 1) / PAGE_TOKENS;
}

/* The share of a team; one warp together. */
__device__ __forceinline__ Share share_of(const Arguments &a, int team) {
    int lane = threadIdx.x % 32, batch = a.shape.batch, total = 0, most = 0;
#pragma unroll 4
    for (int b = lane; b < batch; b += 32) {
        int cost = item_cost(a.lengths[b]);
        total += a.sets * cost;
        most = max(most, cost);
    }
    total = __reduce_add_sync(~0u, total);
    most = __reduce_max_sync(~0u, most);
    Share s;
    s.size = max((total + a.teams - 1) / a.teams, LEAST_SHARE);
    /* Items of one length: whole ones need no combining, and are worth shares 1/16 larger (batch
     * 128 on an H200: 2 %). */
    int items = batch * a.sets, whole = (items + a.teams - 1) / a.teams * most;
    if (total == items * most && whole - s.size <= s.size / 16) s.size = whole;
    s.begin = team * s.size;
    s.end = min(s.begin + s.size, total);
    s.start = 0;
    s.batch = batch;
    s.set = 0;
    for (int first = 0; first < batch && s.begin < total; first += 32) {
        int b = first + lane, cost = b < batch ? a.sets * item_cost(a.lengths[b]) : 0, sum = cost;
        for (int i = 1; i < 32; i *= 2) { /* of this sequence and those before it */
            int before = __shfl_up_sync(~0u, sum, i);
            if (lane >= i) sum += before;
        }
        unsigned reach = __ballot_sync(~0u, s.start + sum > s.begin);
        if (reach) {
            int found = __ffs(reach) - 1, item = __shfl_sync(~0u, cost, found) / a.sets;
            s.batch = first + found;
            s.start += __shfl_sync(~0u, sum - cost, found);
            s.set = (s.begin - s.start) / item;
            s.start += s.set * item;
            break;
        }
        s.start += __shfl_sync(~0u, sum, 31);
    }
    return s;
}

/* Sets f.use to the queries of the team's next piece; left is 0 when there is none. */
__device__ __forceinline__ void next_piece(Feed &f, const Arguments &a, int cluster, int rank) {
    Share s = f.share;
    int team = blockIdx.x / cluster, count = 0;
    while (count <= 0 && s.start < s.end && s.batch < a.shape.batch) {
        int length = a.lengths[s.batch], cost = item_cost(length), pages = cost - START_COST;
        int page_0 = s.start + START_COST, first = max(s.begin - page_0, 0);
        count = min(s.end - page_0, pages) - first;
        if (count > 0) {
            int tile = s.set * cluster + rank;
            f.use = {s.batch, tile, length, ~(s.batch * a.tiles + tile), first - 1, count};
            if (count < pages) f.use.to = (2 * team + (first == 0)) * cluster + rank;
            if (first == 0 && rank == 0)
                a.split[s.batch * a.sets + s.set] = {team,
                                                     (s.start + cost - 1) / s.size - team + 1};
        }
        s.start += cost;
        if (++s.set == a.sets) {
            s.set = 0;
            s.batch++;
        }
    }
    if (count <= 0) f.use.left = 0;
    f.share = s;
}

/* tma_load_4d to the same place in both blocks of a cluster. */
__device__ __forceinline__ void tma_load_4d_pair(void *shared, const CUtensorMap *map,
                                                 uint64_t *barrier, int x0, int x1, int x2,
                                                 int x3) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(shared_address(shared)),
        "l"(map), "r"(shared_address(barrier)), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "h"((uint16_t)3)
        : "memory");
}

/* Asks for what the ring is to hold next, as soon as its stage is empty. One thread. */
template <int CLUSTER>
__device__ __forceinline__ void refill(Tiles &s, const Arguments &a, const CUtensorMap *q_map,
                                       const CUtensorMap *latent_map) {
    Feed &f = s.feed;
    if (f.done) return;
    int stage = f.stage, rank = CLUSTER > 1 ? cluster_rank() : 0, page = 0;
    bool query = f.query;
    if (query) {
        next_piece(f, a, CLUSTER, rank);
    } else {
        f.use.page++;
        f.use.left--;
        page = a.block_table[(int64_t)f.use.batch * a.shape.max_pages + f.use.page];
    }
    mbarrier_wait(&s.empty[stage], f.parity ^ 1);
    Use use = s.use[stage] = f.use;
    if (query && use.left == 0) { /* no more: this, too, travels through the ring */
        mbarrier_arrive(&s.full[stage]);
        f.done = true;
        return;
    }
    mbarrier_expect(&s.full[stage], PAGE_BYTES);
    if (query)
        tma_load_4d(&s.ring[stage], q_map, &s.full[stage], 0, use.tile * TILE, 0, use.batch);
    else if (CLUSTER == 1)
        tma_load_4d(&s.ring[stage], latent_map, &s.full[stage], 0, 0, 0, page);
    else if (use.page % CLUSTER == rank)
        tma_load_4d_pair(&s.ring[stage], latent_map, &s.full[stage], 0, 0, 0, page);
    f.query = use.left == 0;
    f.stage = (stage + 1) % STAGES;
    f.parity ^= stage + 1 == STAGES;
}

#endif /* HOPPER_CODE */

/* o and its (base, sum) += another piece's. */
__device__ __forceinline__ void add_piece(float4 &o, float2 &stats, float4 x, float2 x_stats) {
    float base = fmaxf(stats.x, x_stats.x);
    float old = exp2_fast(stats.x - base), weight = exp2_fast(x_stats.x - base);
    o.x = o.x * old + x.x * weight;
    o.y = o.y * old + x.y * weight;
    o.z = o.z * old + x.z * weight;
    o.w = o.w * old + x.w * weight;
    stats = make_float2(base, stats.y * old + x_stats.y * weight);
}

/*
 * Adds up the pieces of an item that was cut: ROWS rows by 128 threads, 4 columns each. With many
 * pieces, PARTS such groups take a part of them each (ROWS is then 1). Always in the same order.
 */
template <int CLUSTER, int PARTS, int ROWS>
__global__ void __launch_bounds__(128 * PARTS) mla_combine_kernel(Arguments a) {
    __shared__ float4 parts[PARTS][128];
    __shared__ float2 part_stats[PARTS];
    Split split = a.split[blockIdx.x];
    if (split.pieces == 1) return;
    int part = threadIdx.x / 128, column = threadIdx.x % 128;
    int tile_row = blockIdx.y * ROWS, row = blockIdx.x % a.sets * CLUSTER * TILE + tile_row;
    int slot_0 = (2 * split.team + 1) * CLUSTER; /* then slot 0 of each of the next teams */
    float4 o[ROWS];
    float2 stats[ROWS];
    for (int r = 0; r < ROWS; r++) {
        o[r] = make_float4(0, 0, 0, 0);
        stats[r] = make_float2(-2e30f, 0);
    }
#pragma unroll(8 / ROWS)
    for (int i = part; i < split.pieces; i += PARTS)
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int slot = slot_0 + (i ? 2 * i - 1 : 0) * CLUSTER + (tile_row + r) / TILE;
            int from = (tile_row + r) % TILE;
            if (row + r < a.rows)
                add_piece(o[r], stats[r],
                          ((const float4 *)
                               a.partial)[((int64_t)slot * a.tile_rows + from) * 128 + column],
                          a.stats[slot * TILE + from]);
        }
    if (PARTS > 1) {
        parts[part][column] = o[0];
        if (column == 0) part_stats[part] = stats[0];
        __syncthreads();
        if (part > 0) return;
        for (int i = 1; i < PARTS; i++) add_piece(o[0], stats[0], parts[i][column], part_stats[i]);
    }
    bf16 *out = a.o + ((int64_t)(blockIdx.x / a.sets) * a.rows + row) * RANK;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float inverse = 1.0f / stats[r].y;
        if (row + r < a.rows)
            ((uint2 *)(out + r * RANK))[column] =
                make_uint2(pack_bf16(o[r].x * inverse, o[r].y * inverse),
                           pack_bf16(o[r].z * inverse, o[r].w * inverse));
    }
}

#endif
