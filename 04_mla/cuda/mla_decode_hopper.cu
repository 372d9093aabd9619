/*
 * Rung (e) of absorbed decoding: Hopper's copy engine and asynchronous tensor cores.
 *
 * What changed against the rung below: nothing of a page passes through registers. TMA brings it
 * into shared memory once, wgmma reads it there as keys (64 x 576) and as values (64 x 512).
 *
 * The problem is room. For 64 rows the result alone takes 64 x 512 x 4 bytes, half of an SM's
 * registers; the queries take 72 KiB, each page 72 KiB. So the work is split by kind:
 *
 *     scorer     one warpgroup. Holds 31 of 36 steps of Q in registers for a whole piece. Makes
 *                S = Q Z^T of a page, and P = 2^(c S - base).
 *     weighers   two warpgroups. Each holds a half of O, 64 x 256, and does O += P C.
 *
 *     registers of a thread   scorer: Q 124, S 32, and 26 that the compiler wants beside them: 184
 *                             weigher: O 128, and 26: 160       184 + 2 * 160 = 504, all there are
 *     shared memory           three pages 216 KiB, the last 5 steps of Q 10 KiB, the rest 0.6 KiB:
 *                             226.6 of 227 KiB
 *
 * P needs no room of its own: it takes the place of the page's rope keys, which are not read any
 * more once S is there. The queries come through the ring of pages, as if they were one, on their
 * way to the registers. Q in registers also spares shared memory a quarter of its reads: with both
 * operands there, a product 64 x 64 takes all the 128 bytes a clock that it can give.
 *
 * A step. The tensor cores need 1152 clocks for S and 1024 for O += P C, and should never wait for
 * the softmax. So page i is weighed after page i + 1 has been scored, in the time in which the
 * scorer makes P of page i + 1:
 *
 *     tensor cores   S(i+1)          O += P(i) C(i)      S(i+2)            O += P(i+1) C(i+1)
 *     scorer         ------------->  softmax(i+1) --->   -------------->   softmax(i+2) --->
 *     weighers       O *= factor(i)  ---------------->   O *= factor(i+1)  ----------------->
 *                                 turn(i)                                turn(i+1)
 *
 * Both kinds have work at once when a P is done. If the weighers began then, their products would
 * run beside those of the next S, and the tensor cores would have nothing to do during the softmax.
 * The barrier `turn` lets them begin when S is done (without it 9 % slower, 128 heads).
 *
 * base is the row's maximum so far, rounded to a whole number. So what O must be multiplied by when
 * it grows is a power of two, exact in BF16, and most pages do not change it at all.
 *
 * Work. A page is 2 * 64 * 64 * (576 + 512) operations for a tile, 2176 clocks; with 16 heads too,
 * where three quarters of the rows are zeros: 1.2 us at 1.8 GHz. But one block's part of the memory
 * bandwidth, 1/132 of 4070 GB/s, brings a page only every 2.4 us: the zeros cost nothing.
 *
 * NVIDIA H200, fastest (median), from figures/measured_cuda.csv; the copy of the same run 4298
 * GB/s, cuBLAS's 8192^3 787 TFLOPS; 8192 tokens unless said otherwise:
 *
 *     batch 128, 16 heads            302 us   4019 GB/s (3984), 94 % of the copy
 *     the same, 2 queries            304 us   4003 GB/s (3941)
 *     batch 128, 64 heads            313 us   3917 GB/s (3748),  467 TFLOPS
 *     batch 128, 128 heads           449 us   2768 GB/s,         650 TFLOPS (572), 83 % of cuBLAS
 *     batch 16, 128 heads, 65,536    440 us                      664 TFLOPS (577)
 *     batch 8, 16 heads               33 us   2319 GB/s (2310)
 *     batch 1, 16 heads, 65,536       34 us   2223 GB/s (2216)
 *     batch 1, 128 heads, 65,536      46 us                      397 TFLOPS (391)
 *
 * What limits: with 16 heads memory. With 128 heads power: the clock falls to 1.6 GHz. Small
 * batches: some 10 us of start, first page, last page and second kernel.
 *
 * Tried and left out (H200): blocks of a pair that fetch for themselves, 31 % slower at 128 heads
 * (the L2 cache gives out no more); a copy and a barrier for each of a page's nine boxes, so that S
 * begins with the first; to let the weighers begin early when the next page is late; to announce P
 * in the middle of the next S; to launch the second kernel early (programmatic launch): no gain.
 *
 * With LISTS the rows that a selection names come instead of pages; mla_decode_sparse_hopper.cuh.
 *
 * After DeepSeek's FlashMLA (2025), which also gives two warpgroups a half of O each; there both
 * score, a page each, and exchange their P ("seesaw"), with two pages and Q in shared memory.
 */
#include "04_mla/cuda/mla_decode_sparse_hopper.cuh"

#include <limits.h>

#if HOPPER_CODE

/* ---- the scorer ---- */

/* In place: x becomes 2^(c x - base). factor: what earlier pages' results must be multiplied by. */
__device__ __forceinline__ void softmax_step(float (&x)[32], Softmax &m, float (&factor)[2],
                                             float c) {
    float top[2][2], base[2], sum[2][2]; /* two of each row: shorter chains */
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
        float pair = fmaxf(x[i], x[i + 1]), &t = top[i / 2 % 2][i / 4 % 2];
        t = i < 8 ? pair : fmaxf(t, pair);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float t = fmaxf(top[r][0], top[r][1]);
        t = fmaxf(t, __shfl_xor_sync(~0u, t, 1));
        t = fmaxf(t, __shfl_xor_sync(~0u, t, 2));
        base[r] = fmaxf(m.base[r], nearest(t * c));
        factor[r] = exp2_fast(m.base[r] - base[r]);
        m.base[r] = base[r];
        sum[r][0] = m.sum[r] * factor[r];
        sum[r][1] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 32; i++) {
        x[i] = exp2_fast(x[i] * c - base[i / 2 % 2]);
        sum[i / 2 % 2][i % 2] += x[i];
    }
    for (int r = 0; r < 2; r++) m.sum[r] = sum[r][0] + sum[r][1];
}

/* Row i of the tile is query i / heads, which sees all keys but those of the queries after it. */
__device__ __forceinline__ void mask(float (&x)[32], const Use &use, const Arguments &a) {
    int row = use.tile * TILE + my_row(), last[2];
    for (int r = 0; r < 2; r++)
        last[r] =
            use.length - a.shape.q_len + min((row + 8 * r) / a.shape.heads, a.shape.q_len - 1);
    int key = use.page * PAGE_TOKENS + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 32; i++)
        if (key + i / 4 * 8 + i % 2 > last[i / 2 % 2]) x[i] = -INFINITY;
}

/* Rows that hold no token become zeros: their probabilities are 0, but 0 * NaN is NaN. */
__device__ __forceinline__ void clear_rows(LatentBoxes &page, int from) {
    for (int i = from * 8 + threadIdx.x % 128; i < 64 * 8; i += 128)
        for (int b = 0; b < ROPE_BOX; b++) ((uint4 *)page.box[b])[i] = make_uint4(0, 0, 0, 0);
}

/* The end of a piece: whole sums; for the second kernel too, when it is to combine the piece. */
__device__ __forceinline__ void finish(Softmax &m, const Arguments &a, int to) {
    for (int r = 0; r < 2; r++) {
        m.sum[r] += __shfl_xor_sync(~0u, m.sum[r], 1);
        m.sum[r] += __shfl_xor_sync(~0u, m.sum[r], 2);
        if (threadIdx.x % 4 == 0 && to >= 0)
            a.stats[to * TILE + my_row() + 8 * r] = make_float2(m.base[r], m.sum[r]);
    }
}

/* The sums of the piece before, for the weighers: in a stage whose queries have been taken. */
__device__ __forceinline__ void hand_over_sums(LatentBoxes &page, const Softmax &m) {
    float *sums = (float *)page.box[0] + my_row();
    if (threadIdx.x % 4 == 0) {
        sums[0] = m.sum[0];
        sums[8] = m.sum[1];
    }
    async_proxy_fence(); /* the copy engine will write there */
}

template <bool LISTS> __device__ void score(Tiles &s, const Arguments &a) {
    uint32_t q[Q_STEPS][4];
    float x[32];
    Softmax m = {{0.0f, 0.0f}, {0.0f, 0.0f}};
    Ring<STAGES> ring;
    for (;;) {
        mbarrier_wait(&s.full[ring.stage], ring.parity);
        int left = __shfl_sync(~0u, s.use[ring.stage].left, 0), stage;
        if (left) take_queries(q, s, ring.stage);
        hand_over_sums(s.ring[ring.stage], m);
        mbarrier_arrive_warp(&s.scored[ring.stage]);
        if (left == 0) break;
        ring.advance();

        m = {{-1e30f, -1e30f}, {0.0f, 0.0f}}; /* below any score, and no infinities to subtract */
        do {
            /* Uniform, which the compiler believes of a shuffle only: so descriptors stay in the
             * uniform registers that wgmma takes them from. */
            stage = __shfl_sync(~0u, ring.stage, 0);
            LatentBoxes &page = s.ring[stage];
            const Use &use = s.use[stage];
            mbarrier_wait(&s.full[stage], ring.parity);
            if (LISTS) async_proxy_fence();
            multiply_scores(x, q, s, stage);
            int past = (use.page + 1) * PAGE_TOKENS - use.length; /* rows behind the last token */
            left = __shfl_sync(~0u, use.left, 0);
            wgmma_wait<0>(x);
            uint64_t *turn = &s.turn[stage ? stage - 1 : STAGES - 1];
            /* for the page before: while it is weighed, the softmax of this one */
            mbarrier_arrive_warp(turn);

            if (past + a.shape.q_len > 1) mask(x, use, a);
            float factor[2];
            softmax_step(x, m, factor, a.scale_log2);
            mbarrier_wait(turn, ring.parity ^ (stage == 0)); /* all four warps have read the page */
            store_probabilities(page, x);
            if (past > 0) clear_rows(page, PAGE_TOKENS - past);
            if (threadIdx.x % 4 == 0) {
                s.factor[stage][my_row()] = __float2bfloat16_rn(factor[0]);
                s.factor[stage][my_row() + 8] = __float2bfloat16_rn(factor[1]);
            }
            async_proxy_fence();
            mbarrier_arrive_warp(&s.scored[stage]);
            ring.advance();
        } while (left);
        finish(m, a, s.use[stage].to);
        mbarrier_arrive_warp(&s.turn[stage]); /* no page comes after it */
    }
}

/* ---- the weighers ---- */

/* This thread's part of O: divided by the sums; or as it is, for the second kernel. */
__device__ __forceinline__ void write(const float (&o)[128], const Arguments &a, int to,
                                      const float *sum, int half) {
    int column = half * 256 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = my_row() + 8 * r;
        if (to >= 0) {
            float *out = a.partial + ((int64_t)to * a.tile_rows + row) * RANK + column;
            if (row >= a.tile_rows) continue;
#pragma unroll
            for (int j = 0; j < 32; j++)
                *(float2 *)(out + 8 * j) = make_float2(o[4 * j + 2 * r], o[4 * j + 2 * r + 1]);
        } else {
            float inverse = 1.0f / sum[row];
            int batch = ~to / a.tiles;
            row += (~to - batch * a.tiles) * TILE;
            bf16 *out = a.o + ((int64_t)batch * a.rows + row) * RANK + column;
            if (row >= a.rows) continue;
#pragma unroll
            for (int j = 0; j < 32; j++)
                *(uint32_t *)(out + 8 * j) =
                    pack_bf16(o[4 * j + 2 * r] * inverse, o[4 * j + 2 * r + 1] * inverse);
        }
    }
}

/* Gives a stage back. Its next contents are asked for at once, by one thread of the first half;
 * with lists by all. */
template <int CLUSTER, bool LISTS>
__device__ __forceinline__ void recycle(Tiles &s, Ring<STAGES> &ring, const Arguments &a,
                                        const CUtensorMap *q_map, const CUtensorMap *latent_map,
                                        int half, Fetching &fetching) {
    if (LISTS) {
        ring.advance();
        refill_from_lists(s, a, q_map, half, fetching);
        return;
    }
    release<CLUSTER>(&s.empty[ring.stage]);
    ring.advance();
    if (half == 0) {
        if (threadIdx.x % 128 == 0) refill<CLUSTER>(s, a, q_map, latent_map);
        __syncwarp();
    }
}

template <int CLUSTER, bool LISTS>
__device__ void weigh(Tiles &s, const Arguments &a, const CUtensorMap *q_map,
                      const CUtensorMap *latent_map, int half) {
    if (half == 0 && threadIdx.x % 128 < 32) {
        Share share = share_of(a, blockIdx.x / CLUSTER);
        if (threadIdx.x % 32 == 0) {
            s.feed = {};
            s.feed.share = share;
            s.feed.query = true;
            if (LISTS) make_plan(s.plan[0], s.feed, a);
            for (int i = 0; i < STAGES && !LISTS; i++) refill<CLUSTER>(s, a, q_map, latent_map);
        }
        __syncwarp();
    }
    Fetching fetching = {0, -1};
    for (int i = 0; i < STAGES && LISTS; i++) refill_from_lists(s, a, q_map, half, fetching);
    float o[128];
    int to = INT_MAX; /* where o goes; INT_MAX: there is nothing in it yet */
    Ring<STAGES> ring;
    for (;;) {
        mbarrier_wait(&s.scored[ring.stage], ring.parity);
        if (to != INT_MAX) write(o, a, to, (const float *)s.ring[ring.stage].box[0], half);
        int left = __shfl_sync(~0u, s.use[ring.stage].left, 0);
        if (left == 0) break;
        /* the scorer has the queries */
        recycle<CLUSTER, LISTS>(s, ring, a, q_map, latent_map, half, fetching);
        bool first = true;
        do {
            int stage = __shfl_sync(~0u, ring.stage, 0);
            LatentBoxes &page = s.ring[stage];
            mbarrier_wait(&s.scored[stage], ring.parity);
            if (!first) rescale(o, s.factor[stage]);
            mbarrier_wait(&s.turn[stage], ring.parity);
            if (LISTS) async_proxy_fence();
            /* Keys run down the page: they are this product's k. */
            uint64_t p = wgmma_k_major(page.box[ROPE_BOX]);
            uint64_t v = wgmma_mn_major(page.box[4 * half], BOX_BYTES);
            wgmma_fence(o);
#pragma unroll
            for (int k = 0; k < 4; k++)
                Wgmma<256>::shared<0, 1>(o, p + k * WGMMA_K_STEP, v + k * WGMMA_MN_STEP,
                                         k > 0 || !first);
            wgmma_commit();
            first = false;
            left = __shfl_sync(~0u, s.use[stage].left, 0);
            to = s.use[stage].to;
            wgmma_wait<0>(o);
            recycle<CLUSTER, LISTS>(s, ring, a, q_map, latent_map, half, fetching);
        } while (left);
    }
}

#endif /* HOPPER_CODE */

/* ---- kernels ---- */

template <int CLUSTER, bool LISTS>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(384, 1)
    mla_decode_hopper_kernel(const __grid_constant__ CUtensorMap q_map,
                             const __grid_constant__ CUtensorMap latent_map,
                             const __grid_constant__ Arguments a) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char memory[];
    Tiles &s = *(Tiles *)memory;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            /* the thread that asks, and the bytes; or all that fetch */
            mbarrier_init(&s.full[i], LISTS ? FULL_ARRIVALS : 1);
            mbarrier_init(&s.scored[i], 4 * WARP_ARRIVALS); /* the scorer's warps */
            mbarrier_init(&s.turn[i], 4 * WARP_ARRIVALS);
            mbarrier_init(&s.empty[i], 8 * WARP_ARRIVALS * CLUSTER); /* weighers in each block */
        }
        mbarrier_init_fence();
    }
    if (CLUSTER > 1)
        cluster_sync(); /* no block writes to the other before its barriers are there */
    else
        __syncthreads();
    int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (group == 0) {
        registers_take<184>();
        score<LISTS>(s, a);
    } else {
        registers_release<160>();
        weigh<CLUSTER, LISTS>(s, a, &q_map, &latent_map, group - 1);
    }
    if (CLUSTER > 1) {
        __syncwarp();
        cluster_sync(); /* nor leaves while the other may still write to it */
    }
#else
    __trap(); /* mla_decode_hopper_supports() keeps other GPUs away */
#endif
}

/* ---- the host's part ---- */

/* Blocks of a team. */
static int cluster_of(MlaDecodeShape shape) { return shape.q_len * shape.heads > TILE ? 2 : 1; }
static int tile_rows_of(MlaDecodeShape shape) {
    int rows = shape.q_len * shape.heads;
    return rows < TILE ? rows : TILE;
}
static size_t slots_of(const Gpu *gpu) { return 2 * (size_t)gpu->sm_count; }

size_t mla_decode_hopper_scratch(Gpu *gpu, MlaDecodeShape shape) {
    int64_t sets = ceil_div((int64_t)shape.q_len * shape.heads, TILE); /* with lists; or half */
    return slots_of(gpu) * (tile_rows_of(shape) * RANK * sizeof(float) + TILE * sizeof(float2)) +
           shape.batch * sets * sizeof(Split);
}

int mla_decode_hopper_supports(const Gpu *gpu, DType dtype, MlaDecodeShape shape) {
    return gpu->compute_capability == 90 && dtype == BF16 && !shape.e4m3 &&
           shape.kv_lora_rank == RANK && shape.rope_dim == WIDTH - RANK;
}

/* A map of [count, rows, 576] that moves 64 rows, as nine boxes of 64 columns. */
static CUtensorMap map_boxes(const void *base, int64_t rows, int64_t count) {
    CUtensorMap map;
    uint64_t sizes[4] = {64, (uint64_t)rows, BOXES, (uint64_t)count};
    uint64_t strides[3] = {WIDTH * 2, 128, (uint64_t)rows * WIDTH * 2};
    uint32_t box[4] = {64, TILE, BOXES, 1};
    CHECK(tensor_map_make(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, base, 4, sizes, strides, box,
                          CU_TENSOR_MAP_SWIZZLE_128B),
          "queries or latents cannot be mapped for TMA: do they begin at a multiple of 16 bytes?");
    return map;
}

template <int CLUSTER, bool LISTS>
static void launch(Gpu *gpu, const CUtensorMap &q_map, const CUtensorMap &latent_map, Arguments a) {
    a.sets = (int)ceil_div(a.rows, TILE * CLUSTER);
    a.tiles = a.sets * CLUSTER;
    a.teams = gpu->sm_count / CLUSTER;
    auto kernel = mla_decode_hopper_kernel<CLUSTER, LISTS>;
    gpu_launch(gpu, kernel, a.teams * CLUSTER, 384, sizeof(Tiles), q_map, latent_map, a);
    int items = a.shape.batch * a.sets, rows = a.rows < TILE * CLUSTER ? a.rows : TILE * CLUSTER;
    if (items * 12 <= a.teams) /* at least 12 pieces each, when the lengths are equal */
        gpu_launch(gpu, mla_combine_kernel<CLUSTER, 8, 1>, dim3(items, rows), 128 * 8, 0, a);
    else
        gpu_launch(gpu, mla_combine_kernel<CLUSTER, 1, 4>, dim3(items, (int)ceil_div(rows, 4)), 128,
                   0, a);
}

static Arguments arguments(const Gpu *gpu, const int32_t *lengths, void *o, float *scratch,
                           const MlaDecodeShape &shape) {
    Arguments a = {};
    a.shape = shape, a.lengths = lengths;
    a.o = (bf16 *)o, a.partial = scratch;
    a.rows = shape.q_len * shape.heads;
    a.tile_rows = tile_rows_of(shape);
    a.stats = (float2 *)(scratch + slots_of(gpu) * a.tile_rows * RANK);
    a.split = (Split *)(a.stats + slots_of(gpu) * TILE);
    a.scale_log2 = shape.scale * 1.44269504f;
    return a;
}

void mla_decode_hopper_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                            const void *latent, const int32_t *block_table, const int32_t *lengths,
                            MlaDecodeShape shape) {
    mla_decode_check("mla_decode_hopper_cuda", &shape);
    CHECK(
        mla_decode_hopper_supports(gpu, dtype, shape),
        "Hopper's kernel is for sm_90, BF16, kv_lora_rank 512 and rope_dim 64: this is sm_%d, %s, "
        "%d and %d",
        gpu->compute_capability, dtype_name(dtype), shape.kv_lora_rank, shape.rope_dim);
    Arguments a = arguments(gpu, lengths, o, scratch, shape);
    a.block_table = block_table;
    CUtensorMap q_map = map_boxes(q, a.rows, shape.batch);
    CUtensorMap latent_map = map_boxes(latent, PAGE_TOKENS, shape.pages);
    if (cluster_of(shape) == 1)
        launch<1, false>(gpu, q_map, latent_map, a);
    else
        launch<2, false>(gpu, q_map, latent_map, a);
}

void selected_bf16_hopper(Gpu *gpu, void *o, float *scratch, const void *q, const void *latent,
                          SelectedRows lists, const MlaDecodeShape &shape) {
    Arguments a = arguments(gpu, lists.lengths, o, scratch, shape);
    a.list = lists.rows;
    a.latent = (const bf16 *)latent, a.zeros = (const bf16 *)lists.zeros;
    CUtensorMap q_map = map_boxes(q, a.rows, shape.batch);
    launch<1, true>(gpu, q_map, q_map, a); /* rows need no map */
}
