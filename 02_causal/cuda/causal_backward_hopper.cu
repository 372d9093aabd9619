/*
 * The backward of attention on Hopper (sm_90a): TMA, wgmma, and one pass over the scores.
 *
 * What changed against the rung below. mma.sync's version runs over the scores twice, once for dK
 * and dV and once for dQ, and so does 7 products of T x T x D where the mathematics has 5. Here a
 * block owns 128 keys, walks over the queries once, and does all 5:
 *
 *     S^T  = K Q^T         P^T  = exp(scale S^T - lse)         dV += P^T dO
 *     dP^T = V dO^T        dS^T = P^T (dP^T - delta)           dK += dS^T Q        dQ += dS K
 *
 * dK and dV stay in registers until the end. The transposed scores come out of wgmma in just the
 * layout in which it takes an A operand from registers, so P^T and dS^T never leave them for dV and
 * dK. Only dQ, whose rows belong to no single block, needs dS in shared memory, and a sum over the
 * key blocks in F32 in global memory: a tile per warpgroup and step, which the copy engine adds in
 * the L2 cache.
 *
 * Order of the sums. Floating-point addition is not associative: a dQ summed in the order in which
 * blocks happen to arrive has other bits in every run. So each tile of dQ has a turn counter, and
 * key blocks add in the order of falling keys. That is nearly free, since it is the natural order:
 * a block starts at its diagonal, so the block with the highest keys is the first at every query
 * tile, and the next one comes a tile or two later. The first to add stores instead, so the scratch
 * need not be cleared: clearing it and adding in any order was 3 % slower on an H200. Blocks start
 * in the order of their index, and wait only for smaller ones: no deadlock.
 *
 * Warps. Two warpgroups of 64 keys each compute (240 registers a thread); of a third, one warp
 * loads tiles of Q and dO two steps ahead, and two warps send the dQ tiles off. In a step, a
 * product is in flight while instructions that do not need it run:
 *
 *     exp(S_i), and dQ_(i-1) becomes visible to the copy engine   over   dP_i
 *     dS_i                                                        over   dV_i
 *     dQ_i from registers to shared memory                        over   dK_i and S_(i+1)
 *
 * FULL: with D = 96 for q and k and 64 for v, the sums of S_(i+1), dQ_i and dK_i and the dS that
 * dK_i reads do not fit into the registers together: ptxas would put every product in line (C7512).
 * So S_(i+1) begins when dK_i and dQ_i are done. Shared memory is as full: there is one dS, not
 * two.
 *
 * Operations: 5 products of 2 T^2 D per head, half of it when causal. Bytes: Q and dO once per key
 * block (from L2), dQ's F32 tile once per key block and query tile (to L2).
 *
 * What limits. No unit alone: at D = 128 the tensor cores are busy 59 % of the time and shared
 * memory 70 % (Nsight Compute on an H200). A step of 64 queries needs 2560 clocks of the tensor
 * cores and moves 368 KB in and out of shared memory, 2944 clocks at 128 bytes each, but takes
 * 4400: both warpgroups meet in every step, when dS is complete, so both do their exponentials at
 * the same time, and two warps per scheduler cannot hide all latencies. A third warpgroup, or
 * longer tiles, would help, but the registers are full: dK, dV, dQ and the scores take 224 of 240.
 *
 * After Dao et al. 2022 (FlashAttention, algorithm 4) and Shah et al. 2024 (FlashAttention-3,
 * section 3).
 */
#include "02_causal/cuda/causal_backward_hopper.cuh"

enum {
    STAGES = 2, /* tiles of Q and dO in shared memory */
    COMPUTE_THREADS = 256,
    BLOCK_THREADS = 128 * 3,
    SEND_THREADS = 128 + 32, /* a computing warpgroup and the warp that sends its dQ */
};

/* Hardware barriers; 0 is __syncthreads(). All but DS exist once per warpgroup. */
enum {
    BARRIER_DS = 1,
    BARRIER_DQ_FULL = 2,
    BARRIER_DQ_EMPTY = 4,
    BARRIER_GROUP = 6,
    BARRIER_DS_READ = 8,
};

template <int DK, int DV> struct BackwardShared {
    enum { M = Queries<DK>::COUNT, WIDTH_K = whole_blocks(DK), WIDTH_V = whole_blocks(DV) };
    enum { FULL = DK == 96 };        /* no room for more, neither here nor in the registers */
    enum { BUFFERS = FULL ? 1 : 2 }; /* of dS: two, so that readers do not hold up the next step */
    bf16 k[KEYS * WIDTH_K], v[KEYS * WIDTH_V];
    bf16 q[STAGES][M * WIDTH_K], d_o[STAGES][M * WIDTH_V];
    bf16 ds[BUFFERS][M * KEYS];        /* [query][key] */
    float dq[2][Queries<DK>::DQ_TILE]; /* per warpgroup; in the order of wgmma's registers */
    float first_s[STAGES][M], first_dp[STAGES][M];
    uint64_t k_full, v_full, q_full[STAGES], q_empty[STAGES], o_full[STAGES], o_empty[STAGES];
};
static_assert(sizeof(BackwardShared<96, 64>) <= 227 << 10, "a block's shared memory");

struct BackwardMaps {
    CUtensorMap q, k, v, d_o, dk, dv;
};

struct BackwardArguments {
    AttentionShape shape;
    const float *first_s, *first_dp; /* [batch * heads][q_padded]: see backward_prepare() */
    float *dq;                       /* [batch * heads][query tiles][2][a warpgroup's part] */
    int *turns; /* [batch * heads][query tiles][2]: how many key blocks have added */
    int q_padded;
    int together; /* heads that are worked on at the same time */
    int want_k, want_v, add_k, add_v;
};

/* What one block does: keys first_key .. + 127 of one (batch, kv_head), against all queries that
 * see any of them. */
struct BackwardWork {
    int block, first_key, kv_head, batch;
    int head, tile_begin, tile_end; /* the first query head of the group, and tiles of queries */
    int steps;                      /* tiles of all heads of the group */
};

/* Walks over the query tiles of a block, head after head. */
struct Walk {
    int head, tile;
    __device__ Walk(const BackwardWork &work) : head(work.head), tile(work.tile_begin) {}
    __device__ void next(const BackwardWork &work) {
        if (++tile == work.tile_end) tile = work.tile_begin, head++;
    }
};

#if HOPPER_CODE

/* Sections of heads side by side; in a section, blocks with the highest keys first (see "Order of
 * the sums"). */
template <int M> __device__ BackwardWork backward_work(const BackwardArguments &a) {
    const AttentionShape &shape = a.shape;
    int blocks = (shape.kv_len + KEYS - 1) / KEYS, all = shape.kv_heads * shape.batch;
    int pair0 = blockIdx.x / (blocks * a.together) * a.together;
    int together = min(a.together, all - pair0), i = blockIdx.x - pair0 * blocks;
    int pair = pair0 + i % together, group = shape.heads / shape.kv_heads;
    BackwardWork work;
    work.block = blocks - 1 - i / together;
    work.first_key = work.block * KEYS;
    work.kv_head = pair % shape.kv_heads;
    work.batch = pair / shape.kv_heads;
    work.head = work.kv_head * group;
    work.tile_end = (shape.q_len + M - 1) / M;
    work.tile_begin = shape.causal ? max(0, work.first_key - (shape.kv_len - shape.q_len)) / M : 0;
    work.steps = (work.tile_end - work.tile_begin) * group;
    return work;
}

/* ---- one warp loads ---- */

template <int WIDTH, int ROWS>
__device__ void load_tile(bf16 *tile, const CUtensorMap *map, uint64_t *full, int row, int head,
                          int batch) {
#pragma unroll
    for (int c = 0; c < WIDTH / 64; c++)
        tma_load_4d(tile + c * ROWS * 64, map, full, c * 64, row, head, batch);
}

template <int DK, int DV>
__device__ void load_tiles(BackwardShared<DK, DV> &sm, const BackwardMaps &maps,
                           const BackwardArguments &a, const BackwardWork &work) {
    typedef BackwardShared<DK, DV> Shared;
    constexpr int M = Shared::M, KW = Shared::WIDTH_K, VW = Shared::WIDTH_V;
    const uint32_t vector = M * sizeof(float);
    mbarrier_expect(&sm.k_full, sizeof sm.k);
    load_tile<KW, KEYS>(sm.k, &maps.k, &sm.k_full, work.first_key, work.kv_head, work.batch);
    Walk at(work);
    for (int step = 0; step < work.steps; step++, at.next(work)) {
        int stage = step % STAGES, parity = step / STAGES & 1, row = at.tile * M;
        int64_t i = (int64_t)(work.batch * a.shape.heads + at.head) * a.q_padded + row;

        mbarrier_wait(&sm.q_empty[stage], parity ^ 1);
        mbarrier_expect(&sm.q_full[stage], sizeof sm.q[0] + vector);
        load_tile<KW, M>(sm.q[stage], &maps.q, &sm.q_full[stage], row, at.head, work.batch);
        bulk_load(sm.first_s[stage], a.first_s + i, vector, &sm.q_full[stage]);
        if (step == 0) { /* V is needed after the first scores, which need K and Q */
            mbarrier_expect(&sm.v_full, sizeof sm.v);
            load_tile<VW, KEYS>(sm.v, &maps.v, &sm.v_full, work.first_key, work.kv_head,
                                work.batch);
        }
        mbarrier_wait(&sm.o_empty[stage], parity ^ 1);
        mbarrier_expect(&sm.o_full[stage], sizeof sm.d_o[0] + vector);
        load_tile<VW, M>(sm.d_o[stage], &maps.d_o, &sm.o_full[stage], row, at.head, work.batch);
        bulk_load(sm.first_dp[stage], a.first_dp + i, vector, &sm.o_full[stage]);
    }
}

/* ---- one warp per computing warpgroup sends dQ off, in turn ---- */

template <int DK, int DV>
__device__ void send_dq(BackwardShared<DK, DV> &sm, const BackwardArguments &a,
                        const BackwardWork &work, int group) {
    constexpr int M = Queries<DK>::COUNT, TILE = Queries<DK>::DQ_TILE;
    bool leader = threadIdx.x % 32 == 0;
    Walk at(work);
    named_barrier_arrive(BARRIER_DQ_EMPTY + group, SEND_THREADS);
    for (int step = 0; step < work.steps; step++, at.next(work)) {
        int64_t i = (int64_t)(work.batch * a.shape.heads + at.head) * (a.q_padded / M) + at.tile;
        float *to = a.dq + (i * 2 + group) * TILE;
        int *turns = a.turns + i * 2 + group;
        /* The first to add here has the last key that any query of the tile sees. */
        int turn = (keys_seen(a.shape, at.tile * M, M) - 1) / KEYS - work.block;
        if (leader)
            while (load_acquire(turns) != turn) {}
        named_barrier_sync(BARRIER_DQ_FULL + group, SEND_THREADS);
        if (leader) {
            async_proxy_fence_global();
            if (turn == 0)
                bulk_store(to, sm.dq[group], TILE * sizeof(float));
            else
                bulk_reduce_add_f32(to, sm.dq[group], TILE * sizeof(float));
            tma_store_commit();
            tma_store_wait_read<0>();
        }
        __syncwarp();
        if (step + 1 < work.steps) named_barrier_arrive(BARRIER_DQ_EMPTY + group, SEND_THREADS);
        if (leader) { /* the next block may go on when the sum has arrived, not before */
            tma_store_wait<0>();
            async_proxy_fence_global();
            store_release(turns, turn + 1);
        }
    }
}

/* ---- two warpgroups compute ---- */

/* dQ of this step lies in shared memory: the sending warp may take it. */
__device__ __forceinline__ void hand_over_dq(int group) {
    async_proxy_fence();
    named_barrier_arrive(BARRIER_DQ_FULL + group, SEND_THREADS);
}

/* dK or dV to its tensor, by way of the shared memory that held this warpgroup's rows of K or V. */
template <int D>
__device__ __forceinline__ void store_keys(const float (&d)[D / 2], float scale, bf16 *tile,
                                           const CUtensorMap *map, int add,
                                           const BackwardWork &work, int group) {
    share_keys<D>(tile, d, scale);
    named_barrier_sync(BARRIER_GROUP + group, 128);
    if (threadIdx.x % 128) return;
    int row = work.first_key + group * 64;
#pragma unroll
    for (int c = 0; c < whole_blocks(D) / 64; c++) {
        bf16 *block = tile + c * KEYS * 64;
        if (add)
            tma_reduce_add_4d(map, block, c * 64, row, work.kv_head, work.batch);
        else
            tma_store_4d(map, block, c * 64, row, work.kv_head, work.batch);
    }
    tma_store_commit();
    tma_store_wait_read<0>();
}

template <int DK, int DV>
__device__ __forceinline__ void compute(BackwardShared<DK, DV> &sm, const BackwardMaps &maps,
                                        const BackwardArguments &a, const BackwardWork &work,
                                        int group) {
    typedef BackwardShared<DK, DV> Shared;
    constexpr int M = Shared::M, FULL = Shared::FULL;
    int key = work.first_key + group * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    int end = a.shape.kv_len, causal = a.shape.causal, last = work.first_key + KEYS - 1;
    float scale = a.shape.scale * 1.44269504f;                     /* log2 e */
    bf16 *k = sm.k + group * 64 * 64, *v = sm.v + group * 64 * 64; /* rows of this warpgroup */
    float s[M / 2], dp[M / 2], dv[DV / 2] = {0}, dk[DK / 2] = {0};

    mbarrier_wait(&sm.k_full, 0);
    mbarrier_wait(&sm.q_full[0], 0);
    product_scores<DK, M>(s, sm.first_s[0], k, sm.q[0]);
    wgmma_commit();
    wgmma_wait<0>(s);
    mbarrier_wait(&sm.v_full, 0);
    Walk at(work);
    for (int step = 0; step < work.steps; step++, at.next(work)) {
        int stage = step % STAGES;
        bf16 *shared_ds = sm.ds[step % Shared::BUFFERS];
        uint32_t p[M / 4], ds[M / 4];
        mbarrier_wait(&sm.o_full[stage], step / STAGES & 1);
        product_scores<DV, M>(dp, sm.first_dp[stage], v, sm.d_o[stage]);
        wgmma_commit();
        if (step > 0) hand_over_dq(group);

        int seen = at.tile * M + end - a.shape.q_len; /* the last key of the tile's first query */
        if (last >= end || (causal && last > seen)) mask_scores<M>(s, key, end, seen, causal);
        probabilities<M>(p, s, scale);
        wgmma_fence(p, dv);
        product_keys<DV, M>(dv, p, sm.d_o[stage]);
        wgmma_commit();

        wgmma_wait<1>(dp);
        score_gradients<M>(ds, p, dp);
        if (FULL && step > 0) named_barrier_sync(BARRIER_DS_READ + group, COMPUTE_THREADS);
        share_gradients<M>(shared_ds + group * M * 64, ds);
        named_barrier_sync(BARRIER_DS, COMPUTE_THREADS);

        wgmma_wait<0>(dv);
        mbarrier_arrive(&sm.o_empty[stage]);
        float dq[Queries<DK>::DQ_COLUMNS / 2];
        wgmma_fence(ds, dk);
        product_dq<DK, M>(dq, shared_ds, sm.k, group);
        wgmma_commit();
        product_keys<DK, M>(dk, ds, sm.q[stage]);
        wgmma_commit();
        if (FULL) wgmma_wait<0>(dq, dk);

        /* The next S^T. After the last step it is of a stale tile and is never read: a branch
         * around wgmma would cost registers that are not there. */
        int next = (step + 1) % STAGES;
        if (step + 1 < work.steps) mbarrier_wait(&sm.q_full[next], (step + 1) / STAGES & 1);
        product_scores<DK, M>(s, sm.first_s[next], k, sm.q[next]);
        wgmma_commit();

        if (FULL && step + 1 < work.steps) /* the other warpgroup may overwrite its dS */
            named_barrier_arrive(BARRIER_DS_READ + 1 - group, COMPUTE_THREADS);
        if (!FULL) wgmma_wait<2>(dq);
        named_barrier_sync(BARRIER_DQ_EMPTY + group, SEND_THREADS);
        share_dq(sm.dq[group], dq);
        /* ptxas gives up on asynchrony if an accumulator that is read in the loop is in flight at
         * its end. */
        wgmma_wait<0>(dk, s);
        mbarrier_arrive(&sm.q_empty[stage]);
    }
    hand_over_dq(group);
    if (a.want_v) store_keys<DV>(dv, 1, v, &maps.dv, a.add_v, work, group);
    named_barrier_sync(BARRIER_DS, COMPUTE_THREADS); /* the other warpgroup's dQ may still read K */
    if (a.want_k) store_keys<DK>(dk, a.shape.scale, k, &maps.dk, a.add_k, work, group);
}
#endif

template <int DK, int DV>
__global__ void __launch_bounds__(BLOCK_THREADS, 1)
    backward_hopper_kernel(const __grid_constant__ BackwardMaps maps,
                           const __grid_constant__ BackwardArguments a) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) char memory[];
    BackwardShared<DK, DV> &sm = *(BackwardShared<DK, DV> *)memory;
    if (shared_address(memory) % 1024) __trap(); /* the swizzle counts from multiples of 1024 */
    BackwardWork work = backward_work<Queries<DK>::COUNT>(a);
    if (threadIdx.x == 0) {
        mbarrier_init(&sm.k_full, 1);
        mbarrier_init(&sm.v_full, 1);
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&sm.q_full[i], 1);
            mbarrier_init(&sm.o_full[i], 1);
            mbarrier_init(&sm.q_empty[i], COMPUTE_THREADS);
            mbarrier_init(&sm.o_empty[i], COMPUTE_THREADS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    /* The same in all lanes, which the compiler believes of a shuffle only: else it moves every
     * descriptor of every wgmma from ordinary registers to the uniform ones, in the loop. */
    int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), warpgroup = warp / 4;
    if (warpgroup == 0) {
        registers_release<24>();
        if (warp == 0) {
            if (threadIdx.x == 0) load_tiles(sm, maps, a, work);
        } else if (warp <= 2)
            send_dq(sm, a, work, warp - 1);
    } else {
        registers_take<240>();
        compute(sm, maps, a, work, warpgroup - 1);
    }
#endif
}

/* ---- the host's side ---- */

static int padded(AttentionShape shape) { return (int)ceil_div(shape.q_len, 128) * 128; }

/*
 * The kernel is made for three pairs of widths: 64 and 64, 96 and 64, 128 and 128. Dimensions
 * between are filled with zeros by the copy engine on the way in and cut off by it on the way out:
 * right, at the larger size's price.
 */
static int columns(AttentionShape shape) {
    if (shape.qk_dim > 96 || shape.v_dim > 64) return 128;
    return shape.qk_dim > 64 ? 96 : 64;
}

/* One after the other in the scratch: dQ tiles, what S and dP begin with, turns. */
size_t causal_backward_scratch_hopper_cuda(AttentionShape shape) {
    size_t rows = (size_t)shape.batch * shape.heads * padded(shape);
    return rows * (columns(shape) + 2) * sizeof(float) + rows / 64 * 2 * sizeof(int);
}

/* A [batch, len, heads, dim] tensor of BF16, and boxes of 64 columns and some rows. */
static int map_heads(CUtensorMap *map, const void *data, int dim, int len, int heads, int batch,
                     HeadStrides s, int rows) {
    uint64_t sizes[4] = {(uint64_t)dim, (uint64_t)len, (uint64_t)heads, (uint64_t)batch};
    uint64_t strides[3] = {(uint64_t)s.token * 2, (uint64_t)s.head * 2, (uint64_t)s.batch * 2};
    uint32_t box[4] = {64, (uint32_t)rows, 1, 1};
    return tensor_map_make(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, data, 4, sizes, strides, box,
                           CU_TENSOR_MAP_SWIZZLE_128B);
}

int causal_backward_hopper_supports(const Gpu *gpu, DType dtype, const void *dq, const void *dk,
                                    const void *dv, const void *d_o, const void *q, const void *k,
                                    const void *v, const void *o, AttentionShape s) {
    int qk = s.qk_dim, v_dim = s.v_dim, widest = qk > v_dim ? qk : v_dim;
    /* Narrower heads would be mostly padding: mma.sync's are the faster ones. */
    return gpu->compute_capability == 90 && dtype == BF16 && widest > 32 && widest <= 128 &&
           rows_of_16_bytes(dq, s.q, qk) && rows_of_16_bytes(q, s.q, qk) &&
           rows_of_16_bytes(dk, s.k, qk) && rows_of_16_bytes(k, s.k, qk) &&
           rows_of_16_bytes(dv, s.v, v_dim) && rows_of_16_bytes(v, s.v, v_dim) &&
           rows_of_16_bytes(d_o, s.o, v_dim) && rows_of_16_bytes(o, s.o, v_dim);
}

/*
 * Heads side by side. Few: their Q, dO and dQ, read and written again by every key block, stay in
 * the L2 cache (Q, dO: 2 bytes a number, dQ: 4). Many: the blocks that run at one time wait less
 * for each other's dQ. 12 MB was the best of 8 .. 48 on an H200 (50 MB of L2). Sections of equal
 * size leave no small one for the end.
 */
static int heads_together(AttentionShape shape) {
    int64_t all = (int64_t)shape.batch * shape.kv_heads;
    int64_t bytes = (int64_t)shape.q_len * shape.qk_dim * 8 * (shape.heads / shape.kv_heads);
    int64_t most = ((int64_t)12 << 20) / bytes;
    if (most < 1) most = 1;
    return (int)ceil_div(all, ceil_div(all, most));
}

template <int DK, int DV>
static void launch(Gpu *gpu, const BackwardArguments &a, void *dq, int add_q, void *dk, void *dv,
                   const void *d_o, const void *q, const void *k, const void *v, const void *o,
                   const float *lse) {
    constexpr int M = Queries<DK>::COUNT;
    AttentionShape shape = a.shape;
    BackwardMaps maps;
    int qk = shape.qk_dim, v_dim = shape.v_dim, q_len = shape.q_len, kv_len = shape.kv_len;
    int heads = shape.heads, kv_heads = shape.kv_heads, batch = shape.batch;
    int mapped = map_heads(&maps.q, q, qk, q_len, heads, batch, shape.q, M) &
                 map_heads(&maps.d_o, d_o, v_dim, q_len, heads, batch, shape.o, M) &
                 map_heads(&maps.k, k, qk, kv_len, kv_heads, batch, shape.k, KEYS) &
                 map_heads(&maps.v, v, v_dim, kv_len, kv_heads, batch, shape.v, KEYS) &
                 map_heads(&maps.dk, dk ? dk : k, qk, kv_len, kv_heads, batch, shape.k, 64) &
                 map_heads(&maps.dv, dv ? dv : v, v_dim, kv_len, kv_heads, batch, shape.v, 64);
    CHECK(mapped, "causal_backward_hopper: the copy engine cannot map a tensor with these strides");
    int64_t rows = (int64_t)batch * heads * a.q_padded;
    unsigned tiles = (unsigned)(rows / M * 2);
    gpu_launch(gpu, backward_prepare<DV>, rows * (DV / 8) / 256, 256, 0, (float *)a.first_s,
               (float *)a.first_dp, a.turns, tiles, d_o, o, lse, shape, a.q_padded);
    auto kernel = backward_hopper_kernel<DK, DV>;
    int bytes = sizeof(BackwardShared<DK, DV>);
    unsigned blocks = (unsigned)(ceil_div(kv_len, KEYS) * kv_heads * batch);
    gpu_launch(gpu, kernel, blocks, BLOCK_THREADS, bytes, maps, a);
    if (dq)
        gpu_launch(gpu, backward_finish<DK>, tiles, Queries<DK>::DQ_COLUMNS * 4, 0, dq, add_q, a.dq,
                   shape, a.q_padded);
}

void causal_backward_hopper_cuda(Gpu *gpu, DType dtype, void *dq, int add_q, void *dk, int add_k,
                                 void *dv, int add_v, float *scratch, const void *d_o,
                                 const void *q, const void *k, const void *v, const void *o,
                                 const float *lse, AttentionShape shape) {
    CHECK(causal_backward_hopper_supports(gpu, dtype, dq, dk, dv, d_o, q, k, v, o, shape),
          "causal_backward_hopper: this GPU, dtype, shape or alignment is not supported");
    int64_t rows = (int64_t)shape.batch * shape.heads * padded(shape);
    float *first_s = scratch + rows * columns(shape), *first_dp = first_s + rows;
    BackwardArguments a = {shape,
                           first_s,
                           first_dp,
                           scratch,
                           (int *)(first_dp + rows),
                           padded(shape),
                           heads_together(shape),
                           dk != NULL,
                           dv != NULL,
                           add_k,
                           add_v};
    auto run = launch<64, 64>;
    if (columns(shape) == 96) run = launch<96, 64>;
    if (columns(shape) == 128) run = launch<128, 128>;
    run(gpu, a, dq, add_q, dk, dv, d_o, q, k, v, o, lse);
}
