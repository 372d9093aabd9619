/*
 * Rung (e) of absorbed decoding: TMA and wgmma. One warpgroup scores, two weigh: the scorer has the
 * queries in registers and makes S = Q Z^T and P = softmax(S) of a page while the weighers, each with
 * a half of O in registers, add P C of the page before.
 */
#include "../common/hopper.cuh"
#include "mla_decode.h"

typedef __nv_bfloat16 bf16;

enum {
    RANK = 512,  /* kv_lora_rank: a value */
    WIDTH = 576, /* and the rope part: a key */
    BOXES = WIDTH / 64,
    ROPE_BOX = BOXES - 1,
    TILE = 64, /* rows (query, head) of a block */
    STAGES = 3,
    STEPS = 31, /* of 36, by 16 columns: the part of Q that stays in registers */
    START_COST = 4,
    LEAST_SHARE = 4,
    BOX_BYTES = 64 * 128,
    SCORER_BARRIER = 1
};

/* What a stage of the ring holds: a tile of queries, or one page of a piece. */
struct Use {
    int batch, tile;
    int length; /* of the sequence */
    int slot;   /* where the partial result goes; -1: the piece is a whole sequence
             */
    int page;   /* of the sequence */
    int left;   /* pages of the piece that follow; after a tile of queries 0: there
               is no more */
};

struct Split {
    int batch, set, pieces; /* pieces == 0: no item starts here and goes on elsewhere */
};

struct Page {
    bf16 box[BOXES][64 * 64];
};

struct Share {
    int batch, set;
    int start; /* of that item */
    int begin, end, size;
};

/* The state of the thread that fills the ring; in shared memory, for registers
 * are scarce. */
struct Feed {
    Share share;
    Use use;
    Split split;
    int stage, parity;
    bool query, done;
};

struct Tiles {
    alignas(1024) Page ring[STAGES];
    alignas(1024) bf16 q_rope[TILE * 64];
    alignas(1024) bf16 q_step[TILE * 16];
    bf16 factor[STAGES][TILE]; /* powers of two */
    Use use[STAGES];
    Feed feed;
    uint64_t full[STAGES][BOXES], scored[STAGES], turn[STAGES], empty[STAGES];
};

struct Arguments {
    MlaDecodeShape shape;
    const int32_t *block_table, *lengths;
    bf16 *o;
    float *partial;
    float2 *stats;
    Split *split;
    int rows; /* q_len * heads */
    int sets; /* of CLUSTER tiles */
    int tile_rows;
    int teams;
    float scale_log2;
};

#if HOPPER_CODE

struct Ring {
    int stage = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

__device__ __forceinline__ int item_cost(int length) {
    return START_COST + (length + LATENT_PAGE - 1) / LATENT_PAGE;
}

__device__ __forceinline__ Share share_of(const Arguments &a, int team) {
    int lane = threadIdx.x % 32, batch = a.shape.batch;
    int total = 0;
#pragma unroll 4
    for (int b = lane; b < batch; b += 32) total += a.sets * item_cost(a.lengths[b]);
    total = __reduce_add_sync(~0u, total);
    Share s;
    s.size = max((total + a.teams - 1) / a.teams, LEAST_SHARE);
    s.begin = team * s.size;
    s.end = min(s.begin + s.size, total);
    s.start = 0;
    s.batch = batch;
    for (int first = 0; first < batch && s.begin < total; first += 32) {
        int b = first + lane, cost = b < batch ? a.sets * item_cost(a.lengths[b]) : 0, sum = cost;
        for (int i = 1; i < 32; i *= 2) {
            int below = __shfl_up_sync(~0u, sum, i);
            if (lane >= i) sum += below;
        }
        unsigned reach = __ballot_sync(~0u, s.start + sum > s.begin);
        if (reach) {
            int found = __ffs(reach) - 1;
            s.batch = first + found;
            s.start += __shfl_sync(~0u, sum - cost, found);
            int item = __shfl_sync(~0u, cost, found) / a.sets;
            s.set = (s.begin - s.start) / item;
            s.start += s.set * item;
            break;
        }
        s.start += __shfl_sync(~0u, sum, 31);
    }
    return s;
}

__device__ __forceinline__ void next_piece(Feed &f, const Arguments &a, int cluster, int rank) {
    int team = blockIdx.x / cluster, batch = f.share.batch, set = f.share.set;
    f.use.left = 0;
    while (f.share.start < f.share.end && f.share.batch < a.shape.batch) {
        batch = f.share.batch, set = f.share.set;
        int length = a.lengths[batch];
        int cost = item_cost(length), pages = cost - START_COST, at = f.share.start + START_COST;
        int first = max(f.share.begin - at, 0), count = min(f.share.end - at, pages) - first;
        if (count > 0) {
            bool head = first == 0;
            int tile = set * cluster + rank;
            f.use.batch = batch;
            f.use.tile = tile;
            f.use.length = length;
            f.use.slot = count == pages ? -1 : (team * 2 + head) * cluster + rank;
            f.use.page = first - 1;
            f.use.left = count;
            if (head && count < pages)
                f.split = {batch, set, (f.share.start + cost - 1) / f.share.size - team + 1};
        }
        f.share.start += cost;
        if (++set == a.sets) set = 0, batch++;
        f.share.set = set, f.share.batch = batch;
        if (count > 0) break;
    }
}

/* Asks for the next thing the ring is to hold. One thread. */
template <int CLUSTER>
__device__ __forceinline__ void refill(Tiles &s, const Arguments &a, const CUtensorMap *q_map,
                                       const CUtensorMap *latent_map, int rank) {
    Feed &f = s.feed;
    if (f.done) return;
    int stage = f.stage;
    mbarrier_wait(&s.empty[stage], f.parity ^ 1);
    if (f.query) {
        next_piece(f, a, CLUSTER, rank);
        s.use[stage] = f.use;
        if (f.use.left == 0) {
            if (rank == 0) a.split[blockIdx.x / CLUSTER] = f.split;
            mbarrier_arrive(&s.full[stage][0]);
            f.done = true;
            return;
        }
        for (int b = 0; b < BOXES; b++) {
            mbarrier_expect(&s.full[stage][b], BOX_BYTES);
            tma_load_3d(s.ring[stage].box[b], q_map, &s.full[stage][b], b * 64, f.use.tile * TILE,
                        f.use.batch);
        }
        f.query = false;
    } else {
        f.use.page++;
        f.use.left--;
        s.use[stage] = f.use;
        int page = a.block_table[(int64_t)f.use.batch * a.shape.max_pages + f.use.page];
        for (int b = 0; b < BOXES; b++) {
            uint64_t *full = &s.full[stage][b];
            bf16 *box = s.ring[stage].box[b];
            mbarrier_expect(full, BOX_BYTES);
            if (CLUSTER == 1)
                tma_load_2d(box, latent_map, full, b * 64, page * LATENT_PAGE);
            else
                tma_load_2d_multicast(box + rank * 32 * 64, latent_map, full, 3, b * 64,
                                      page * LATENT_PAGE + rank * 32);
        }
        f.query = f.use.left == 0;
    }
    if (stage + 1 == STAGES) f.parity ^= 1;
    f.stage = stage + 1 == STAGES ? 0 : stage + 1;
}

/* One arrival per warp, when all its lanes are here. */
__device__ __forceinline__ void arrive(uint64_t *barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(barrier);
}

template <int CLUSTER> __device__ __forceinline__ void release(uint64_t *empty) {
    __syncwarp();
    int lane = threadIdx.x % 32;
    if (CLUSTER == 1) {
        if (lane == 0) mbarrier_arrive(empty);
    } else if (lane < CLUSTER) {
        mbarrier_arrive_cluster(empty, lane);
    }
}

__device__ __forceinline__ void take_query(uint32_t (&q)[STEPS][4], Tiles &s, const Ring &ring) {
    int t = threadIdx.x % 128, lane = t % 32, warp = t / 32;
    const char *box = (const char *)s.ring[ring.stage].box[0];
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        if (k % 4 == 0) mbarrier_wait(&s.full[ring.stage][k / 4], ring.parity);
        ldmatrix_x4(q[k], box + k / 4 * BOX_BYTES +
                              swizzle_128(warp * 16 + lane % 16, k % 4 * 16 + lane / 16 * 8));
    }
    /* The last step of the last box, without swizzle: blocks of 8 rows x 16
   * bytes. */
    *(uint4 *)((char *)s.q_step + t / 16 * 256 + t % 2 * 128 + t / 2 % 8 * 16) =
        *(const uint4 *)(box + 7 * BOX_BYTES + swizzle_128(t / 2, 48 + t % 2 * 8));
    mbarrier_wait(&s.full[ring.stage][ROPE_BOX], ring.parity);
    for (int i = t; i < TILE * 8; i += 128)
        ((uint4 *)s.q_rope)[i] = ((const uint4 *)(box + ROPE_BOX * BOX_BYTES))[i];
    async_proxy_fence();
    named_barrier_sync(SCORER_BARRIER, 128);
}

__device__ __forceinline__ void multiply_scores(float (&x)[32], const uint32_t (&q)[STEPS][4],
                                                Tiles &s, int stage, uint32_t parity) {
    uint64_t z = wgmma_k_major(s.ring[stage].box[0]);
    uint64_t q_rope = wgmma_k_major(s.q_rope);
    uint64_t q_step = wgmma_descriptor(s.q_step, 128, 256) & ~((uint64_t)3 << 62);
    wgmma_touch(x);
#pragma unroll
    for (int k = 0; k < BOXES * 4; k++) {
        if (k % 4 == 0) {
            mbarrier_wait(&s.full[stage][k / 4], parity);
            wgmma_fence();
        }
        uint64_t z_desc = z + k / 4 * (BOX_BYTES >> 4) + k % 4 * WGMMA_K_STEP;
        if (k < STEPS)
            Wgmma<64>::registers<0>(x, q[k], z_desc, k > 0);
        else
            Wgmma<64>::shared<0, 0>(x, k == STEPS ? q_step : q_rope + k % 4 * WGMMA_K_STEP, z_desc,
                                    1);
    }
    wgmma_commit();
}

struct Softmax {
    float base[2]; /* of the exponents: a whole number, not below any score so far
                  */
    float sum[2];  /* of this thread's columns only */
};

__device__ __forceinline__ void softmax_step(float (&x)[32], Softmax &m, float (&factor)[2],
                                             float c) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = x[2 * r];
#pragma unroll
        for (int i = 2 * r; i < 32; i += 4) top = fmaxf(top, fmaxf(x[i], x[i + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        float base = fmaxf(m.base[r], ceilf(top * c));
        factor[r] = exp2_fast(m.base[r] - base);
        m.base[r] = base;
        float sum = m.sum[r] * factor[r];
#pragma unroll
        for (int i = 2 * r; i < 32; i += 4) {
            x[i] = exp2_fast(x[i] * c - base);
            x[i + 1] = exp2_fast(x[i + 1] * c - base);
            sum += x[i] + x[i + 1];
        }
        m.sum[r] = sum;
    }
}

__device__ __forceinline__ void mask(float (&x)[32], int first_key, const int (&last)[2]) {
    int column = first_key + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 32; i++)
        if (column + i / 4 * 8 + i % 2 > last[i / 2 % 2]) x[i] = -INFINITY;
}

/* Rows of the page that hold no token become zeros: their probabilities are 0,
 * but 0 * NaN is NaN. */
__device__ __forceinline__ void clear_rows(Page &page, int first_row) {
    for (int i = first_row * 8 + threadIdx.x % 128; i < 64 * 8; i += 128)
#pragma unroll
        for (int b = 0; b < ROPE_BOX; b++) ((uint4 *)page.box[b])[i] = make_uint4(0, 0, 0, 0);
}

__device__ __forceinline__ void store_probabilities(Page &page, const float (&x)[32]) {
    int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    char *p = (char *)page.box[ROPE_BOX];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t packed[4];
#pragma unroll
        for (int i = 0; i < 4; i++) packed[i] = pack_bf16(x[8 * k + 2 * i], x[8 * k + 2 * i + 1]);
        stmatrix_x4(p + swizzle_128(warp * 16 + lane % 16, k * 16 + lane / 16 * 8), packed);
    }
}

__device__ __forceinline__ void mask_page(float (&x)[32], const Use &use, const Arguments &a) {
    int row = use.tile * TILE + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4, last[2];
    for (int r = 0; r < 2; r++)
        last[r] =
            use.length - a.shape.q_len + min((row + 8 * r) / a.shape.heads, a.shape.q_len - 1);
    mask(x, use.page * LATENT_PAGE, last);
}

/* The sums of the piece that just ended, for the weighers: in a stage whose
 * queries have been taken. */
__device__ __forceinline__ void hand_over_sums(Page &page, Softmax &m) {
    int row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    if (threadIdx.x % 4 == 0) {
        ((float *)page.box[0])[row] = m.sum[0];
        ((float *)page.box[0])[row + 8] = m.sum[1];
    }
    async_proxy_fence();
}

__device__ __forceinline__ void finish(const Arguments &a, Softmax &m, int slot) {
    int row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    for (int r = 0; r < 2; r++) {
        m.sum[r] += __shfl_xor_sync(~0u, m.sum[r], 1);
        m.sum[r] += __shfl_xor_sync(~0u, m.sum[r], 2);
        if (threadIdx.x % 4 == 0 && slot >= 0)
            a.stats[slot * TILE + row + 8 * r] = make_float2(m.base[r], m.sum[r]);
    }
}

__device__ void score(Tiles &s, const Arguments &a) {
    uint32_t q[STEPS][4];
    float x[32];
    Softmax m = {{0.0f, 0.0f}, {0.0f, 0.0f}};
    Ring ring;
    for (;;) {
        mbarrier_wait(&s.full[ring.stage][0], ring.parity);
        int left = __shfl_sync(~0u, s.use[ring.stage].left, 0);
        if (left) take_query(q, s, ring);
        hand_over_sums(s.ring[ring.stage], m);
        arrive(&s.scored[ring.stage]);
        if (left == 0) break;
        arrive(&s.turn[ring.stage]);
        ring.advance();

        m = {{-1e30f, -1e30f}, {0.0f, 0.0f}};
        bool waiting = false; /* the page before has not got its turn yet */
        int stage;
        do {
            stage = __shfl_sync(~0u, ring.stage, 0);
            Page &page = s.ring[stage];
            const Use &use = s.use[stage];
            uint64_t *turn = &s.turn[stage ? stage - 1 : STAGES - 1];
            multiply_scores(x, q, s, stage, ring.parity);
            wgmma_wait<0>(x);
            if (waiting) arrive(turn);
            if ((use.page + 1) * LATENT_PAGE > use.length - a.shape.q_len + 1) mask_page(x, use, a);
            float factor[2];
            softmax_step(x, m, factor, a.scale_log2);
            named_barrier_sync(SCORER_BARRIER, 128); /* all four warps have read the rope keys */
            store_probabilities(page, x);
            if ((use.page + 1) * LATENT_PAGE > use.length)
                clear_rows(page, use.length - use.page * LATENT_PAGE);
            if (threadIdx.x % 4 == 0) {
                int row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
                s.factor[stage][row] = __float2bfloat16_rn(factor[0]);
                s.factor[stage][row + 8] = __float2bfloat16_rn(factor[1]);
            }
            left = __shfl_sync(~0u, use.left, 0);
            async_proxy_fence();
            arrive(&s.scored[stage]);
            waiting = true;
            ring.advance();
        } while (left);
        finish(a, m, s.use[stage].slot);
        arrive(&s.turn[stage]);
    }
}

__device__ __forceinline__ void rescale(float (&o)[128], const bf16 *factor) {
    float f0 = __bfloat162float(factor[0]), f1 = __bfloat162float(factor[8]);
    if (!__any_sync(~0u, f0 != 1.0f || f1 != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < 128; i += 4) {
        o[i] *= f0;
        o[i + 1] *= f0;
        o[i + 2] *= f1;
        o[i + 3] *= f1;
    }
}

__device__ __forceinline__ void write(const float (&o)[128], const Arguments &a, int batch,
                                      int tile, int slot, float sum0, float sum1, int half) {
    int row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    int column = half * 256 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int tile_row = row + 8 * r, out = tile * TILE + tile_row;
        if (out >= a.rows) continue;
        if (slot < 0) {
            float inverse = 1.0f / (r ? sum1 : sum0);
            bf16 *to = a.o + ((int64_t)batch * a.rows + out) * RANK + column;
#pragma unroll
            for (int j = 0; j < 32; j++)
                *(uint32_t *)(to + 8 * j) =
                    pack_bf16(o[4 * j + 2 * r] * inverse, o[4 * j + 2 * r + 1] * inverse);
        } else {
            float *to = a.partial + ((int64_t)slot * a.tile_rows + tile_row) * RANK + column;
#pragma unroll
            for (int j = 0; j < 32; j++)
                *(float2 *)(to + 8 * j) = make_float2(o[4 * j + 2 * r], o[4 * j + 2 * r + 1]);
        }
    }
}

/* Gives the stage back; then, when everybody has, its next contents are asked
 * for. */
template <int CLUSTER>
__device__ __forceinline__ void recycle(Tiles &s, const Arguments &a, const CUtensorMap *q_map,
                                        const CUtensorMap *latent_map, int rank, int half,
                                        Ring &ring) {
    release<CLUSTER>(&s.empty[ring.stage]);
    ring.advance();
    if (half == 0) {
        if (threadIdx.x % 128 == 0) refill<CLUSTER>(s, a, q_map, latent_map, rank);
        __syncwarp();
    }
}

template <int CLUSTER>
__device__ void weigh(Tiles &s, const Arguments &a, const CUtensorMap *q_map,
                      const CUtensorMap *latent_map, int rank, int half) {
    float o[128];
    if (half == 0 && threadIdx.x % 128 < 32) {
        Share share = share_of(a, blockIdx.x / CLUSTER);
        if (threadIdx.x % 32 == 0) {
            s.feed.share = share;
            s.feed.split = {0, 0, 0};
            s.feed.stage = s.feed.parity = 0;
            s.feed.query = true;
            s.feed.done = false;
            for (int i = 0; i < STAGES; i++) refill<CLUSTER>(s, a, q_map, latent_map, rank);
        }
        __syncwarp();
    }
    int row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    int batch = 0, tile = -1, slot = 0; /* of the piece whose sum is in o */
    Ring ring;
    for (;;) {
        mbarrier_wait(&s.scored[ring.stage], ring.parity);
        if (tile >= 0) {
            const float *sum = (const float *)s.ring[ring.stage].box[0];
            write(o, a, batch, tile, slot, sum[row], sum[row + 8], half);
        }
        int left = __shfl_sync(~0u, s.use[ring.stage].left, 0);
        if (left == 0) break;
        recycle<CLUSTER>(s, a, q_map, latent_map, rank, half,
                         ring); /* the scorer has the queries */
        bool first = true;
        do {
            int stage = __shfl_sync(~0u, ring.stage, 0);
            Page &page = s.ring[stage];
            mbarrier_wait(&s.scored[stage], ring.parity);
            if (!first) rescale(o, s.factor[stage] + row);
            mbarrier_wait(&s.turn[stage], ring.parity);
            uint64_t p = wgmma_k_major(page.box[ROPE_BOX]);
            uint64_t v = wgmma_mn_major(page.box[4 * half], BOX_BYTES);
            wgmma_fence(o);
#pragma unroll
            for (int k = 0; k < 4; k++)
                Wgmma<256>::shared<0, 1>(o, p + k * WGMMA_K_STEP, v + k * WGMMA_MN_STEP,
                                         k > 0 || !first);
            wgmma_commit();
            first = false;
            Use &use = s.use[stage];
            left = __shfl_sync(~0u, use.left, 0);
            batch = use.batch, tile = use.tile, slot = use.slot;
            wgmma_wait<0>(o);
            recycle<CLUSTER>(s, a, q_map, latent_map, rank, half, ring);
        } while (left);
    }
}

#endif /* HOPPER_CODE */

template <int CLUSTER>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(384, 1)
    mla_decode_hopper_kernel(const __grid_constant__ CUtensorMap q_map,
                             const __grid_constant__ CUtensorMap latent_map,
                             const __grid_constant__ Arguments a) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char memory[];
    Tiles &s = *(Tiles *)memory;
    int rank = CLUSTER > 1 ? cluster_rank() : 0;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            for (int b = 0; b < BOXES; b++) mbarrier_init(&s.full[i][b], 1);
            mbarrier_init(&s.scored[i], 4);
            mbarrier_init(&s.turn[i], 4);
            mbarrier_init(&s.empty[i], 8 * CLUSTER);
        }
        mbarrier_init_fence();
    }
    if (CLUSTER > 1)
        cluster_sync();
    else
        __syncthreads();
    int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (group == 0) {
        registers_take<184>();
        score(s, a);
    } else {
        registers_release<160>();
        weigh<CLUSTER>(s, a, &q_map, &latent_map, rank, group - 1);
    }
    if (CLUSTER > 1) {
        __syncwarp();
        cluster_sync();
    }
#else
    __trap();
#endif
}

template <int CLUSTER> __global__ void __launch_bounds__(128) mla_combine_kernel(Arguments a) {
    Split split = a.split[blockIdx.x];
    if (split.pieces == 0) return;
    int rank = blockIdx.y / TILE, tile_row = blockIdx.y % TILE;
    int row = (split.set * CLUSTER + rank) * TILE + tile_row, lane = threadIdx.x % 32;
    if (row >= a.rows) return;
    int head = (blockIdx.x * 2 + 1) * CLUSTER + rank; /* piece 0; then slot 0 of the next teams */
    auto slot = [&](int i) { return i ? head + (2 * i - 1) * CLUSTER : head; };
    float top = -INFINITY;
    for (int i = lane; i < split.pieces; i += 32)
        top = fmaxf(top, a.stats[slot(i) * TILE + tile_row].x);
    top = warp_max(top);
    float sum = 0.0f;
    float4 o = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int i = 0; i < split.pieces; i++) {
        float2 stats = a.stats[slot(i) * TILE + tile_row];
        float weight = exp2_fast(stats.x - top);
        float4 x = ((const float4 *)(a.partial + ((int64_t)slot(i) * a.tile_rows + tile_row) *
                                                     RANK))[threadIdx.x];
        sum += weight * stats.y;
        o.x += weight * x.x;
        o.y += weight * x.y;
        o.z += weight * x.z;
        o.w += weight * x.w;
    }
    float inverse = 1.0f / sum;
    uint2 packed = make_uint2(pack_bf16(o.x * inverse, o.y * inverse),
                              pack_bf16(o.z * inverse, o.w * inverse));
    ((uint2 *)(a.o + ((int64_t)split.batch * a.rows + row) * RANK))[threadIdx.x] = packed;
}

static int cluster_of(MlaDecodeShape shape) { return shape.q_len * shape.heads > TILE ? 2 : 1; }
static int slots_of(const Gpu *gpu) { return 2 * gpu->sm_count; }
static int64_t tile_rows_of(MlaDecodeShape shape) {
    int64_t rows = (int64_t)shape.q_len * shape.heads;
    return rows < TILE ? rows : TILE;
}

size_t mla_decode_hopper_scratch(Gpu *gpu, MlaDecodeShape shape) {
    return (size_t)slots_of(gpu) *
               (tile_rows_of(shape) * RANK * sizeof(float) + TILE * sizeof(float2)) +
           gpu->sm_count * sizeof(Split);
}

int mla_decode_hopper_supports(const Gpu *gpu, DType dtype, MlaDecodeShape shape) {
    return gpu->compute_capability == 90 && dtype == BF16 && shape.kv_lora_rank == RANK &&
           shape.rope_dim == WIDTH - RANK;
}

template <int CLUSTER>
static void launch(Gpu *gpu, const CUtensorMap &q_map, const CUtensorMap &latent_map, Arguments a) {
    a.sets = (int)ceil_div(a.rows, TILE * CLUSTER);
    a.teams = gpu->sm_count / CLUSTER;
    auto kernel = mla_decode_hopper_kernel<CLUSTER>;
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    (int)sizeof(Tiles)));
    kernel<<<a.teams * CLUSTER, 384, sizeof(Tiles), gpu->stream>>>(q_map, latent_map, a);
    LAUNCH_CHECK();
    int rows = a.rows < TILE * CLUSTER ? a.rows : TILE * CLUSTER;
    mla_combine_kernel<CLUSTER><<<dim3(a.teams, rows), 128, 0, gpu->stream>>>(a);
    LAUNCH_CHECK();
}

void mla_decode_hopper_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                            const void *latent, const int32_t *block_table, const int32_t *lengths,
                            MlaDecodeShape shape) {
    CHECK(mla_decode_hopper_supports(gpu, dtype, shape), "shape");
    int cluster = cluster_of(shape);
    Arguments a = {shape, block_table, lengths, (bf16 *)o};
    a.rows = shape.q_len * shape.heads;
    a.tile_rows = (int)tile_rows_of(shape);
    a.scale_log2 = shape.scale * 1.44269504f;
    a.partial = scratch;
    a.stats = (float2 *)(scratch + (int64_t)slots_of(gpu) * a.tile_rows * RANK);
    a.split = (Split *)(a.stats + (int64_t)slots_of(gpu) * TILE);
    CUtensorMap q_map, latent_map;
    uint64_t q_sizes[3] = {WIDTH, (uint64_t)a.rows, (uint64_t)shape.batch};
    uint64_t q_strides[2] = {WIDTH * 2, (uint64_t)a.rows * WIDTH * 2};
    uint32_t q_box[3] = {64, TILE, 1};
    uint64_t sizes[2] = {WIDTH, (uint64_t)shape.pages * LATENT_PAGE}, strides[1] = {WIDTH * 2};
    uint32_t box[2] = {64, (uint32_t)(LATENT_PAGE / cluster)};
    CHECK(tensor_map_make(&q_map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, q, 3, q_sizes, q_strides, q_box,
                          CU_TENSOR_MAP_SWIZZLE_128B) &&
              tensor_map_make(&latent_map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, latent, 2, sizes,
                              strides, box, CU_TENSOR_MAP_SWIZZLE_128B),
          "map");
    if (cluster == 1)
        launch<1>(gpu, q_map, latent_map, a);
    else
        launch<2>(gpu, q_map, latent_map, a);
}
