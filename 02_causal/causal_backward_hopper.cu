/*
 * The backward of attention on Hopper (sm_90a): TMA, wgmma, and one pass over the scores.
 *
 * What changed against the rung below. mma.sync's version runs over the scores twice, once for dK and dV and once for
 * dQ, and so does 7 products of T x T x D where the mathematics has 5. Here a block owns 128 keys, walks over the
 * queries once, and does all 5:
 *
 *     S^T  = K Q^T            P^T  = exp(scale S^T - lse)            dV += P^T dO
 *     dP^T = V dO^T           dS^T = P^T (dP^T - delta)              dK += dS^T Q          dQ += dS K
 *
 * dK and dV stay in registers until the end. The transposed scores come out of wgmma in just the layout in which it takes
 * an A operand from registers, so P^T and dS^T never leave them for dV and dK. Only dQ, which belongs to another owner,
 * needs dS in shared memory, and its sum over the key blocks in F32 in global memory: one 64 x 64 tile per
 * warpgroup and step, added by the copy engine in the L2 cache.
 *
 * Order of the sums. Floating-point addition is not associative: a dQ summed in the order in which blocks happen to
 * arrive has other bits in every run. So each tile of dQ has a turn counter, and key blocks add in the order of falling
 * keys. It costs almost nothing, since it is the natural order: a block starts at its diagonal, so the block with the
 * highest keys is the first at every query tile, and the next one comes a tile or two later. The first to add stores
 * instead, and nobody has to clear the scratch. Blocks start in the order of their index, and wait only for
 * smaller ones: no deadlock.
 *
 * Warps. Two warpgroups of 64 keys each compute (240 registers a thread); of a third, one warp loads tiles of Q and dO
 * two steps ahead, and two warps send the dQ tiles off. In a step, every product is in flight while the
 * instructions that do not need it run:
 *
 *     exp(S_i)  over  dP_i        dS_i  over  dV_i        dQ_i to shared memory  over  dK_i and S_{i+1}
 *
 * Operations: 5 * 2 T^2 D per head, half of it when causal. Bytes: Q and dO once per key block (from L2), dQ's F32 tile
 * once per key block and query tile (to L2). What limits: the exponentials (16 per clock, 64 x 128 of them for
 * 2560 clocks of tensor core work at D = 128, twice that at 64), shared memory's bandwidth for the products with both operands there, and
 * the meeting of the two warpgroups in every step, when dS is complete.
 */
#include "../common/hopper.cuh"
#include "causal.h"

typedef __nv_bfloat16 bf16;

enum {
    KEYS = 128,        /* of a block; 64 for each computing warpgroup */
    STAGES = 2,        /* tiles of Q and dO in shared memory */
    DQ_TILE = 64 * 64, /* what one warpgroup computes of dQ in a step */
    COMPUTE_WARPS = 8,
    BLOCK_THREADS = 128 * 3,
    HEADS_TOGETHER =
        8, /* heads that run at the same time: their Q, dO and dQ fit into the L2 cache */
};

/* Hardware barriers; 0 is __syncthreads(). The _DQ ones and GROUP exist once per warpgroup. */
enum { BARRIER_DS = 1, BARRIER_DQ_FULL = 2, BARRIER_DQ_EMPTY = 6, BARRIER_GROUP = 10 };

/* Queries of a tile. With D = 64, 128 of them: dK and dV then leave the registers for a larger score tile. */
template <int D> struct Queries {
    enum { COUNT = D == 64 ? 128 : 64 };
};

/* All matrices in blocks of 64 columns, 128 bytes a row, swizzled (see hopper.cuh). */
template <int D> struct BackwardShared {
    enum { M = Queries<D>::COUNT };
    bf16 k[KEYS * D], v[KEYS * D];
    bf16 q[STAGES][M * D], d_o[STAGES][M * D];
    bf16 ds
        [2]
        [M *
         KEYS]; /* [query][key]; two, so that one step's readers do not hold up the next step's writers */
    float dq[2][2][DQ_TILE]; /* in the order of wgmma's registers; one per warpgroup */
    float lse[STAGES][M], delta[STAGES][M];
    uint64_t k_full, v_full, q_full[STAGES], q_empty[STAGES], o_full[STAGES], o_empty[STAGES];
};

struct BackwardMaps {
    CUtensorMap q, k, v, d_o, dk, dv;
};

struct BackwardSizes {
    const float *lse, *delta; /* [batch * heads][q_padded]: lse in powers of two, +inf past q_len */
    float *dq;                /* [batch * heads][query tiles][2][DQ_TILE] */
    int *turns;               /* [batch * heads][query tiles][2]: how many key blocks have added */
    int batch, heads, kv_heads, group; /* group = heads / kv_heads */
    int q_len, kv_len, q_padded, causal;
    float scale;
    int want_k, want_v, add_k, add_v;
};

/* What one block does: keys first .. first + 127 of one (batch, kv_head), against all queries that see any of them. */
struct BackwardWork {
    int block, first_key, kv_head, batch;
    int tile_begin, tile_end, steps; /* query tiles, and their number over the heads of the group */
};

#if HOPPER_CODE

/* Blocks with the highest keys first (see "Order of the sums"), HEADS_TOGETHER heads side by side. */
template <int M> __device__ BackwardWork backward_work(const BackwardSizes &z) {
    int blocks = (z.kv_len + KEYS - 1) / KEYS, all = z.kv_heads * z.batch;
    int head0 = blockIdx.x / (blocks * HEADS_TOGETHER) * HEADS_TOGETHER;
    int together = min(HEADS_TOGETHER, all - head0);
    int i = blockIdx.x - head0 * blocks;
    BackwardWork work;
    work.block = blocks - 1 - i / together;
    work.first_key = work.block * KEYS;
    work.kv_head = (head0 + i % together) % z.kv_heads;
    work.batch = (head0 + i % together) / z.kv_heads;
    work.tile_end = (z.q_len + M - 1) / M;
    work.tile_begin = z.causal ? max(0, work.first_key - (z.kv_len - z.q_len)) / M : 0;
    work.steps = (work.tile_end - work.tile_begin) * z.group;
    return work;
}

/* ---- one warp loads ---- */

template <int D, int ROWS>
__device__ void load_tile(bf16 *tile, const CUtensorMap *map, uint64_t *full, int row, int head,
                          int batch) {
#pragma unroll
    for (int c = 0; c < D / 64; c++)
        tma_load_4d(tile + c * ROWS * 64, map, full, c * 64, row, head, batch);
}

template <int D>
__device__ void load_tiles(BackwardShared<D> &sm, const BackwardMaps &maps, const BackwardSizes &z,
                           const BackwardWork &work) {
    constexpr int M = Queries<D>::COUNT;
    mbarrier_expect(&sm.k_full, KEYS * D * sizeof(bf16));
    load_tile<D, KEYS>(sm.k, &maps.k, &sm.k_full, work.first_key, work.kv_head, work.batch);
    int tile = work.tile_begin, head = work.kv_head * z.group;
    for (int step = 0; step < work.steps; step++) {
        int stage = step % STAGES, parity = step / STAGES & 1, row = tile * M;
        int64_t at = (int64_t)(work.batch * z.heads + head) * z.q_padded + row;
        uint32_t bytes = M * D * sizeof(bf16) + M * sizeof(float);

        mbarrier_wait(&sm.q_empty[stage], parity ^ 1);
        mbarrier_expect(&sm.q_full[stage], bytes);
        load_tile<D, M>(sm.q[stage], &maps.q, &sm.q_full[stage], row, head, work.batch);
        bulk_load(sm.lse[stage], z.lse + at, M * sizeof(float), &sm.q_full[stage]);
        if (step == 0) {
            mbarrier_expect(&sm.v_full, KEYS * D * sizeof(bf16));
            load_tile<D, KEYS>(sm.v, &maps.v, &sm.v_full, work.first_key, work.kv_head, work.batch);
        }
        mbarrier_wait(&sm.o_empty[stage], parity ^ 1);
        mbarrier_expect(&sm.o_full[stage], bytes);
        load_tile<D, M>(sm.d_o[stage], &maps.d_o, &sm.o_full[stage], row, head, work.batch);
        bulk_load(sm.delta[stage], z.delta + at, M * sizeof(float), &sm.o_full[stage]);
        if (++tile == work.tile_end) tile = work.tile_begin, head++;
    }
}

/* ---- one warp per computing warpgroup sends dQ off, in turn ---- */

__device__ __forceinline__ int load_acquire(const int *p) {
    int value;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
    return value;
}
__device__ __forceinline__ void store_release(int *p, int value) {
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}

template <int D>
__device__ void send_dq(BackwardShared<D> &sm, const BackwardSizes &z, const BackwardWork &work,
                        int group) {
    constexpr int M = Queries<D>::COUNT;
    int last_block = (z.kv_len - 1) / KEYS, tiles = z.q_padded / M;
    int tile = work.tile_begin, head = work.kv_head * z.group;
    for (int step = 0; step < 2 && step < work.steps; step++)
        named_barrier_arrive(BARRIER_DQ_EMPTY + group * 2 + step, 160);
    for (int step = 0; step < work.steps; step++) {
        int buffer = group * 2 + step % 2;
        named_barrier_sync(BARRIER_DQ_FULL + buffer, 160);
        if (threadIdx.x % 32 == 0) {
            int64_t at = ((int64_t)(work.batch * z.heads + head) * tiles + tile) * 2 + group;
            /* The first to add here is the block of the last key that this tile's last query sees. */
            int first = last_block;
            if (z.causal) first = min(first, (tile * M + M - 1 + z.kv_len - z.q_len) / KEYS);
            int turn = first - work.block;
            while (load_acquire(&z.turns[at]) != turn) {}
            asm volatile("fence.proxy.async.global;" ::: "memory");
            if (turn == 0)
                bulk_store(z.dq + at * DQ_TILE, sm.dq[group][step % 2], DQ_TILE * sizeof(float));
            else
                bulk_reduce_add_f32(z.dq + at * DQ_TILE, sm.dq[group][step % 2],
                                    DQ_TILE * sizeof(float));
            tma_store_commit();
            tma_store_wait<0>();
            asm volatile("fence.proxy.async.global;" ::: "memory");
            store_release(&z.turns[at], turn + 1);
        }
        __syncwarp();
        if (step + 2 < work.steps) named_barrier_arrive(BARRIER_DQ_EMPTY + buffer, 160);
        if (++tile == work.tile_end) tile = work.tile_begin, head++;
    }
}

/* ---- two warpgroups compute ---- */

/* S^T or dP^T [64 keys, M queries] = rows [64, D] tile^T [D, M]. */
template <int D, int M>
__device__ __forceinline__ void product_scores(float (&d)[M / 2], const bf16 *rows,
                                               const bf16 *tile) {
#pragma unroll
    for (int c = 0; c < D / 64; c++) {
        uint64_t a = wgmma_k_major(rows + c * KEYS * 64), b = wgmma_k_major(tile + c * M * 64);
#pragma unroll
        for (int k = 0; k < 4; k++)
            Wgmma<M>::template shared<0, 0>(d, a + k * WGMMA_K_STEP, b + k * WGMMA_K_STEP, c + k);
    }
}

/* dV or dK [64 keys, D] += scores [64, M] (registers) tile [M, D]. */
template <int D, int M>
__device__ __forceinline__ void product_keys(float (&d)[D / 2], const uint32_t (&a)[M / 4],
                                             const bf16 *tile) {
    uint64_t b = wgmma_mn_major(tile, M * 128);
#pragma unroll
    for (int k = 0; k < M / 16; k++)
        Wgmma<D>::template registers<1>(d, a + 4 * k, b + k * WGMMA_MN_STEP, 1);
}

/* A 64 x 64 part of dQ = dS [M, 128 keys] K [128, D]: of rows with D = 64, of columns with D = 128. */
template <int D, int M>
__device__ __forceinline__ void product_dq(float (&d)[32], const bf16 *ds, const bf16 *k,
                                           int group) {
    const bf16 *rows = ds + (M == 128 ? group * 64 * 64 : 0);
    uint64_t b = wgmma_mn_major(k + (D == 128 ? group * KEYS * 64 : 0), KEYS * 128);
#pragma unroll
    for (int c = 0; c < KEYS / 64; c++) {
        uint64_t a = wgmma_k_major(rows + c * M * 64);
#pragma unroll
        for (int i = 0; i < 4; i++)
            Wgmma<64>::shared<0, 1>(d, a + i * WGMMA_K_STEP, b + (c * 4 + i) * WGMMA_MN_STEP,
                                    c + i);
    }
}

/* Scores that no query may use: keys after the query (seen = the last key that the tile's query 0 sees), keys past the end. */
template <int M>
__device__ __forceinline__ void mask_scores(float (&s)[M / 2], int key, int end, int seen,
                                            int causal) {
    int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < M / 2; i++) {
        int row = key + (i & 2) * 4, query = column + i / 4 * 8 + (i & 1);
        if (row >= end || (causal && row > seen + query)) s[i] = -INFINITY;
    }
}

/* s = P = 2^(s scale - lse); p = the same as BF16, an A operand. */
template <int M>
__device__ __forceinline__ void probabilities(float (&s)[M / 2], uint32_t (&p)[M / 4],
                                              const float *lse, float scale) {
#pragma unroll
    for (int j = 0; j < M / 8; j++) {
        float2 l = *(const float2 *)(lse + j * 8 + threadIdx.x % 4 * 2);
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[4 * j + i] = exp2_fast(fmaf(s[4 * j + i], scale, i & 1 ? -l.y : -l.x));
        p[2 * j] = pack_bf16(s[4 * j], s[4 * j + 1]);
        p[2 * j + 1] = pack_bf16(s[4 * j + 2], s[4 * j + 3]);
    }
}

/*
 * ds = P (dP - delta), as BF16. P is taken from its BF16 form, an upper half of an F32: its F32 registers are then free for
 * the next tile's scores. The rounding is as large as that of dS itself, and dV uses the same P.
 */
template <int M>
__device__ __forceinline__ void score_gradients(uint32_t (&ds)[M / 4], const uint32_t (&p)[M / 4],
                                                const float (&dp)[M / 2], const float *delta) {
#pragma unroll
    for (int i = 0; i < M / 4; i++) {
        float2 t = *(const float2 *)(delta + i / 2 * 8 + threadIdx.x % 4 * 2);
        float low = __uint_as_float(p[i] << 16), high = __uint_as_float(p[i] & 0xFFFF0000u);
        ds[i] = pack_bf16(low * (dp[2 * i] - t.x), high * (dp[2 * i + 1] - t.y));
    }
}

/* dS^T from registers to shared memory as [query][key]: stmatrix turns each 8 x 8 block. */
template <int M>
__device__ __forceinline__ void share_gradients(bf16 *tile, const uint32_t (&ds)[M / 4]) {
    int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    int query = lane % 8 + lane / 16 * 8, key = warp * 16 + (lane / 8 & 1) * 8;
    char *row = (char *)tile + swizzle_128(query, key);
#pragma unroll
    for (int k = 0; k < M / 16; k++) stmatrix_x4_transposed(row + k * 16 * 128, ds + 4 * k);
}

/* dK or dV from registers to the output, by way of the shared memory that held K or V (rows of this warpgroup). */
template <int D>
__device__ __forceinline__ void store_keys(const float (&d)[D / 2], float scale, bf16 *tile,
                                           const CUtensorMap *map, int add, int row, int head,
                                           int batch, int group) {
    int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t r[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            r[i] = pack_bf16(d[8 * k + 2 * i] * scale, d[8 * k + 2 * i + 1] * scale);
        int column = k * 16 + lane / 16 * 8;
        stmatrix_x4((char *)(tile + column / 64 * KEYS * 64) +
                        swizzle_128(warp * 16 + lane % 16, column % 64),
                    r);
    }
    async_proxy_fence();
    named_barrier_sync(BARRIER_GROUP + group, 128);
    if (threadIdx.x % 128 == 0) {
#pragma unroll
        for (int c = 0; c < D / 64; c++) {
            bf16 *block = tile + c * KEYS * 64;
            if (add)
                tma_reduce_add_4d(map, block, c * 64, row, head, batch);
            else
                tma_store_4d(map, block, c * 64, row, head, batch);
        }
        tma_store_commit();
        tma_store_wait_read<0>();
    }
}

template <int D>
__device__ __forceinline__ void compute(BackwardShared<D> &sm, const BackwardMaps &maps,
                                        const BackwardSizes &z, const BackwardWork &work,
                                        int group) {
    constexpr int M = Queries<D>::COUNT;
    int lane = threadIdx.x % 32, thread = threadIdx.x % 128;
    int key = work.first_key + group * 64 + thread / 32 * 16 + lane / 4;
    float scale = z.scale * 1.44269504f; /* log2 e */
    bf16 *k = sm.k + group * 64 * 64, *v = sm.v + group * 64 * 64;
    float s[M / 2], dp[M / 2], dv[D / 2] = {0}, dk[D / 2] = {0};

    mbarrier_wait(&sm.k_full, 0);
    mbarrier_wait(&sm.q_full[0], 0);
    wgmma_fence();
    product_scores<D, M>(s, k, sm.q[0]);
    wgmma_commit();
    wgmma_wait<0>(s);
    mbarrier_wait(&sm.v_full, 0);
    int tile = work.tile_begin;
    for (int step = 0; step < work.steps; step++) {
        int stage = step % STAGES, parity = step / STAGES & 1;
        uint32_t p[M / 4], ds[M / 4];
        mbarrier_wait(&sm.o_full[stage], parity);
        wgmma_fence();
        product_scores<D, M>(dp, v, sm.d_o[stage]);
        wgmma_commit();

        int seen = tile * M + z.kv_len - z.q_len;
        if (work.first_key + KEYS > z.kv_len || (z.causal && work.first_key + KEYS - 1 > seen))
            mask_scores<M>(s, key, z.kv_len, seen, z.causal);
        probabilities<M>(s, p, sm.lse[stage], scale);
        wgmma_fence(p, dv);
        product_keys<D, M>(dv, p, sm.d_o[stage]);
        wgmma_commit();

        wgmma_wait<1>(dp);
        score_gradients<M>(ds, p, dp, sm.delta[stage]);
        share_gradients<M>(sm.ds[stage] + group * M * 64, ds);
        async_proxy_fence();
        named_barrier_sync(BARRIER_DS, 256);

        wgmma_wait<0>(dv);
        if (lane == 0) mbarrier_arrive(&sm.o_empty[stage]);
        float dq[32];
        wgmma_fence(ds, dk);
        product_dq<D, M>(dq, sm.ds[stage], sm.k, group);
        wgmma_commit();
        product_keys<D, M>(dk, ds, sm.q[stage]);
        wgmma_commit();
        /* The next S^T. After the last step it is of a stale tile and nobody reads it: a branch around wgmma would
         * cost registers that are not there. */
        if (step + 1 < work.steps) mbarrier_wait(&sm.q_full[stage ^ 1], (step + 1) / STAGES & 1);
        wgmma_fence();
        product_scores<D, M>(s, k, sm.q[stage ^ 1]);
        wgmma_commit();

        wgmma_wait<2>(dq);
        named_barrier_sync(BARRIER_DQ_EMPTY + group * 2 + stage, 160);
#pragma unroll
        for (int i = 0; i < 8; i++)
            ((float4 *)sm.dq[group][stage])[i * 128 + thread] =
                make_float4(dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]);
        async_proxy_fence();
        named_barrier_arrive(BARRIER_DQ_FULL + group * 2 + stage, 160);
        wgmma_wait<0>(dk, s);
        if (lane == 0) mbarrier_arrive(&sm.q_empty[stage]);
        if (++tile == work.tile_end) tile = work.tile_begin;
    }
    int row = work.first_key + group * 64;
    if (z.want_v) store_keys<D>(dv, 1, v, &maps.dv, z.add_v, row, work.kv_head, work.batch, group);
    named_barrier_sync(BARRIER_DS, 256); /* the other warpgroup's dQ may still read K */
    if (z.want_k)
        store_keys<D>(dk, z.scale, k, &maps.dk, z.add_k, row, work.kv_head, work.batch, group);
}
#endif

template <int D>
__global__ void __launch_bounds__(BLOCK_THREADS, 1)
    backward_hopper_kernel(const __grid_constant__ BackwardMaps maps,
                           const __grid_constant__ BackwardSizes z) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) char memory[];
    BackwardShared<D> &sm = *(BackwardShared<D> *)memory;
    if (shared_address(memory) % 1024) __trap(); /* the swizzle counts from multiples of 1024 */
    BackwardWork work = backward_work<Queries<D>::COUNT>(z);
    if (threadIdx.x == 0) {
        mbarrier_init(&sm.k_full, 1);
        mbarrier_init(&sm.v_full, 1);
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&sm.q_full[i], 1);
            mbarrier_init(&sm.o_full[i], 1);
            mbarrier_init(&sm.q_empty[i], COMPUTE_WARPS);
            mbarrier_init(&sm.o_empty[i], COMPUTE_WARPS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    int warpgroup = threadIdx.x / 128;
    if (warpgroup == 0) {
        registers_release<24>();
        int warp = threadIdx.x / 32;
        if (warp == 0) {
            if (threadIdx.x == 0) load_tiles<D>(sm, maps, z, work);
        } else if (warp <= 2)
            send_dq<D>(sm, z, work, warp - 1);
    } else {
        registers_take<240>();
        compute<D>(sm, maps, z, work, warpgroup - 1);
    }
#endif
}

/* ---- before and after ---- */

/*
 * delta = rowsum(dO O), and lse in powers of two, padded to whole tiles: a query past the end has lse = +inf, so its
 * probabilities are 0 and no later code need ask. D / 8 threads a row, 16 bytes each.
 */
template <int D>
__global__ void backward_prepare(float *lse2, float *delta, int *turns, int turn_count,
                                 const bf16 *d_o, const bf16 *o, const float *lse, int heads,
                                 int q_len, int q_padded, HeadStrides stride, int64_t rows) {
    int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = thread / (D / 8);
    if (thread < turn_count) turns[thread] = 0;
    if (row >= rows) return; /* whole groups of threads: 256 is a multiple of D / 8 */
    int64_t head = row / q_padded % heads, batch = row / q_padded / heads, t = row % q_padded;
    float sum = 0;
    if (t < q_len) {
        int64_t at =
            batch * stride.batch + t * stride.token + head * stride.head + thread % (D / 8) * 8;
        uint4 a = *(const uint4 *)(d_o + at), b = *(const uint4 *)(o + at);
        const bf16 *x = (const bf16 *)&a, *y = (const bf16 *)&b;
#pragma unroll
        for (int i = 0; i < 8; i++) sum = fmaf(to_float(x[i]), to_float(y[i]), sum);
    }
    for (int offset = D / 16; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (thread % (D / 8)) return;
    delta[row] = sum;
    lse2[row] = t < q_len ? lse[(batch * heads + head) * q_len + t] * 1.44269504f : INFINITY;
}

/*
 * dQ from the F32 tiles to its tensor. A tile lies in the order of wgmma's registers: float4 i of thread t holds columns
 * 8 i + 2 (t % 4), + 1 of rows t / 4 and t / 4 + 8. One thread here takes four of those: 8 columns of two rows.
 */
template <int D>
__global__ void backward_finish(bf16 *dq, int add, const float *tiles, float scale, int heads,
                                int q_len, int q_padded, HeadStrides stride) {
    constexpr int M = Queries<D>::COUNT;
    int64_t tile = blockIdx.x / 2, per_head = q_padded / M;
    int half = blockIdx.x % 2, i = threadIdx.x % 8, quad = threadIdx.x / 8;
    const float4 *from = (const float4 *)(tiles + (int64_t)blockIdx.x * DQ_TILE);
    float x[2][8];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float4 f = from[i * 128 + quad * 4 + j];
        x[0][2 * j] = f.x, x[0][2 * j + 1] = f.y, x[1][2 * j] = f.z, x[1][2 * j + 1] = f.w;
    }
    int64_t head = tile / per_head % heads, batch = tile / per_head / heads;
    int column = i * 8 + (D == 128 ? half * 64 : 0);
    for (int r = 0; r < 2; r++) {
        int64_t t =
            tile % per_head * M + (M == 128 ? half * 64 : 0) + quad / 8 * 16 + quad % 8 + r * 8;
        if (t >= q_len) continue;
        uint4 *to =
            (uint4 *)(dq + batch * stride.batch + t * stride.token + head * stride.head + column);
        uint4 old = add ? *to : make_uint4(0, 0, 0, 0), out;
#pragma unroll
        for (int c = 0; c < 8; c++)
            ((bf16 *)&out)[c] =
                from_float<bf16>(x[r][c] * scale + to_float(((const bf16 *)&old)[c]));
        *to = out;
    }
}

/* ---- the host's side ---- */

static int64_t padded(AttentionShape shape) { return ceil_div(shape.q_len, 128) * 128; }

/* One place of the scratch after the other: dQ tiles, lse, delta, turns. All multiples of 256 bytes. */
extern "C" size_t causal_backward_scratch_hopper_cuda(AttentionShape shape) {
    size_t rows = (size_t)shape.batch * shape.heads * padded(shape);
    size_t turns = (rows / 64 * 2 * sizeof(int) + 255) / 256 * 256;
    return rows * (shape.qk_dim + 2) * sizeof(float) + turns;
}

/* A [batch, len, heads, dim] tensor of BF16 and the box that one copy moves. */
static int map_heads(CUtensorMap *map, const void *data, AttentionShape shape, int len, int heads,
                     HeadStrides s, int rows) {
    uint64_t sizes[4] = {(uint64_t)shape.qk_dim, (uint64_t)len, (uint64_t)heads,
                         (uint64_t)shape.batch};
    uint64_t strides[3] = {(uint64_t)s.token * 2, (uint64_t)s.head * 2, (uint64_t)s.batch * 2};
    uint32_t box[4] = {64, (uint32_t)rows, 1, 1};
    return tensor_map_make(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, data, 4, sizes, strides, box,
                           CU_TENSOR_MAP_SWIZZLE_128B);
}

static int aligned(const void *data, HeadStrides s) {
    return (uintptr_t)data % 16 == 0 && s.batch % 8 == 0 && s.token % 8 == 0 && s.head % 8 == 0;
}

/* Can this rung do it? Else the caller takes the one below. */
extern "C" int causal_backward_hopper_supports(const Gpu *gpu, DType dtype, const void *dq,
                                               const void *dk, const void *dv, const void *d_o,
                                               const void *q, const void *k, const void *v,
                                               const void *o, AttentionShape s) {
    return gpu->compute_capability == 90 && dtype == BF16 && s.qk_dim == s.v_dim &&
           (s.qk_dim == 64 || s.qk_dim == 128) && aligned(dq, s.q) && aligned(q, s.q) &&
           aligned(dk, s.k) && aligned(k, s.k) && aligned(dv, s.v) && aligned(v, s.v) &&
           aligned(d_o, s.o) && aligned(o, s.o);
}

template <int D>
static void launch(Gpu *gpu, const BackwardMaps &maps, BackwardSizes z, bf16 *dq, int add_q,
                   const bf16 *d_o, const bf16 *o, const float *lse, AttentionShape shape) {
    int64_t rows = (int64_t)shape.batch * shape.heads * z.q_padded;
    int turn_count = (int)(rows / Queries<D>::COUNT * 2);
    backward_prepare<D><<<(unsigned)ceil_div(rows * (D / 8), 256), 256, 0, gpu->stream>>>(
        (float *)z.lse, (float *)z.delta, z.turns, turn_count, d_o, o, lse, shape.heads,
        shape.q_len, z.q_padded, shape.o, rows);
    int bytes = sizeof(BackwardShared<D>);
    CUDA_CHECK(cudaFuncSetAttribute(backward_hopper_kernel<D>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    unsigned blocks = (unsigned)(ceil_div(shape.kv_len, KEYS) * shape.kv_heads * shape.batch);
    backward_hopper_kernel<D><<<blocks, BLOCK_THREADS, bytes, gpu->stream>>>(maps, z);
    if (dq)
        backward_finish<D><<<(unsigned)(rows / Queries<D>::COUNT * 2), 256, 0, gpu->stream>>>(
            dq, add_q, z.dq, shape.scale, shape.heads, shape.q_len, z.q_padded, shape.q);
    LAUNCH_CHECK();
}

extern "C" void causal_backward_hopper_cuda(Gpu *gpu, DType dtype, void *dq, int add_q, void *dk,
                                            int add_k, void *dv, int add_v, float *scratch,
                                            const void *d_o, const void *q, const void *k,
                                            const void *v, const void *o, const float *lse,
                                            AttentionShape shape) {
    CHECK(dtype == BF16, "causal_backward_hopper: dtype %s, must be BF16", dtype_name(dtype));
    int64_t rows = (int64_t)shape.batch * shape.heads * padded(shape);
    BackwardSizes z = {};
    z.dq = scratch;
    z.lse = scratch + rows * shape.qk_dim;
    z.delta = z.lse + rows;
    z.turns = (int *)(z.delta + rows);
    z.batch = shape.batch, z.heads = shape.heads, z.kv_heads = shape.kv_heads;
    z.group = shape.heads / shape.kv_heads;
    z.q_len = shape.q_len, z.kv_len = shape.kv_len, z.q_padded = (int)padded(shape);
    z.causal = shape.causal, z.scale = shape.scale;
    z.want_k = dk != NULL, z.want_v = dv != NULL, z.add_k = add_k, z.add_v = add_v;
    int tile = shape.qk_dim == 64 ? 128 : 64;
    BackwardMaps maps;
    int fits = map_heads(&maps.q, q, shape, shape.q_len, shape.heads, shape.q, tile) &&
               map_heads(&maps.d_o, d_o, shape, shape.q_len, shape.heads, shape.o, tile) &&
               map_heads(&maps.k, k, shape, shape.kv_len, shape.kv_heads, shape.k, KEYS) &&
               map_heads(&maps.v, v, shape, shape.kv_len, shape.kv_heads, shape.v, KEYS) &&
               map_heads(&maps.dk, dk ? dk : k, shape, shape.kv_len, shape.kv_heads, shape.k, 64) &&
               map_heads(&maps.dv, dv ? dv : v, shape, shape.kv_len, shape.kv_heads, shape.v, 64);
    CHECK(fits, "causal_backward_hopper: pointers and strides must be multiples of 16 bytes");
    if (shape.qk_dim == 64)
        launch<64>(gpu, maps, z, (bf16 *)dq, add_q, (const bf16 *)d_o, (const bf16 *)o, lse, shape);
    else
        launch<128>(gpu, maps, z, (bf16 *)dq, add_q, (const bf16 *)d_o, (const bf16 *)o, lse,
                    shape);
}
