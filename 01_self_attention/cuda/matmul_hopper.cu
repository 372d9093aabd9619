/*
 * The matrix product on Hopper: the fifth rung.
 *
 * What changed against mma.sync: nothing passes through registers but the sums. The copy engine
 * (TMA) fills shared memory, wgmma multiplies straight from there, and both run on their own while
 * the warps only give orders.
 *
 *     tile of C    128 x 256 for a block; two consumer warpgroups with 64 x 256 sums each, 128
 *                  registers in every thread
 *     producer     one thread of a third warpgroup, which gives most of its registers to the
 *                  consumers (setmaxnreg)
 *     ring         4 stages of A 128 x 64 and B 64 x 256, 48 KiB each: while one is multiplied the
 *                  others are on their way
 *     cluster      two blocks, one below the other, need the same tile of B: each fetches half of
 *                  it for both (multicast)
 *     persistent   one block per SM runs through the tiles: the next tile's first stages are being
 *                  loaded while this one is stored
 *
 * Operations for each byte from the L2 cache: 2 * 128 * 256 * 64 / (16 KiB of A + 16 KiB of B) =
 * 128; 85 without the cluster. What limits now:
 * the tensor cores, and the power the chip may draw.
 *
 * Two barriers guard a stage. full[s]: its 48 KiB have come. empty[s]: the two consumers of both
 * blocks are done with it, for both producers write into both blocks. Stage and parity follow from
 * a counter that every thread runs by itself.
 */
#include "01_self_attention/matmul.h"
#include "common/cuda/gpu.cuh"
#include "common/cuda/hopper.cuh"

enum { TILE_M = 128, TILE_N = 256, TILE_K = 64, STAGES = 4, THREADS = 384, CLUSTER = 2 };
enum {
    BLOCK_BYTES = 64 * 128,        /* 64 rows of 128 bytes: a swizzled block */
    A_BYTES = TILE_M * TILE_K * 2, /* two blocks, one for each consumer */
    B_BYTES = TILE_K * TILE_N * 2, /* four blocks of 64 columns */
    STAGE_BYTES = A_BYTES + B_BYTES,
    OUT_BYTES = 2 * 2 * BLOCK_BYTES, /* each consumer has two blocks to write C from */
    SHARED_BYTES = STAGES * STAGE_BYTES + OUT_BYTES + 1024 /* to begin at a multiple of 1024 */
};

struct Sizes {
    /* cluster tiles (256 rows) down, tiles across, steps of 64 along k */
    int pairs_m, tiles_n, steps;
};

#if HOPPER_CODE

struct Barriers {
    uint64_t full[STAGES], empty[STAGES];
};

/* The place of cluster tile number i: 8 down, then across, so that the tiles in flight form a
 * square in the L2 cache. */
static __device__ __forceinline__ void tile_position(Sizes s, int i, int *im, int *in) {
    int group = i / (8 * s.tiles_n), first = group * 8;
    int height = min(s.pairs_m - first, 8);
    int rest = i - group * 8 * s.tiles_n;
    *im = first + rest % height;
    *in = rest / height;
}

static __device__ void produce(const CUtensorMap *map_a, const CUtensorMap *map_b, char *shared,
                               Barriers *barriers, Sizes s, int rank) {
    int count = 0;
    for (int i = blockIdx.x / CLUSTER; i < s.pairs_m * s.tiles_n; i += gridDim.x / CLUSTER) {
        int im, in;
        tile_position(s, i, &im, &in);
        int row = (im * CLUSTER + rank) * TILE_M, col = in * TILE_N;
        for (int step = 0; step < s.steps; step++, count++) {
            int stage = count % STAGES;
            char *a = shared + stage * STAGE_BYTES, *b = a + A_BYTES;
            uint64_t *full = &barriers->full[stage];
            mbarrier_wait(&barriers->empty[stage], count / STAGES % 2 ^ 1);
            mbarrier_expect(full, STAGE_BYTES);
            tma_load_2d(a, map_a, full, step * TILE_K, row);
            for (int half = 0; half < 2; half++) { /* my two of the four blocks, to both of us */
                int block = 2 * rank + half;
                tma_load_2d_multicast(b + block * BLOCK_BYTES, map_b, full, (1 << CLUSTER) - 1,
                                      col + 64 * block, step * TILE_K);
            }
        }
    }
}

/* 64 x 256 sums to memory, 64 columns at a time, through two blocks of shared memory in turn. */
static __device__ __forceinline__ void store_tile(const CUtensorMap *map_c, const float (&sum)[128],
                                                  char *out, int row, int col, int consumer) {
    int t = threadIdx.x % 128, r = t / 32 * 16 + t % 32 / 4;
#pragma unroll
    for (int block = 0; block < 4; block++) {
        char *to = out + block % 2 * BLOCK_BYTES;
        if (t == 0) tma_store_wait_read<1>(); /* the store before the last has read its block */
        named_barrier_sync(1 + consumer, 128);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float *d = &sum[block * 32 + 4 * j];
            int c = 8 * j + t % 4 * 2;
            *(uint32_t *)(to + swizzle_128(r, c)) = pack_bf16(d[0], d[1]);
            *(uint32_t *)(to + swizzle_128(r + 8, c)) = pack_bf16(d[2], d[3]);
        }
        async_proxy_fence();
        named_barrier_sync(1 + consumer, 128);
        if (t == 0) {
            tma_store_2d(map_c, to, col + 64 * block, row);
            tma_store_commit();
        }
    }
}

static __device__ void consume(const CUtensorMap *map_c, char *shared, Barriers *barriers, Sizes s,
                               int rank, int consumer) {
    char *out = shared + STAGES * STAGE_BYTES + consumer * 2 * BLOCK_BYTES;
    int t = threadIdx.x % 128, count = 0;
    for (int i = blockIdx.x / CLUSTER; i < s.pairs_m * s.tiles_n; i += gridDim.x / CLUSTER) {
        float sum[128];
        for (int step = 0; step < s.steps; step++, count++) {
            int stage = count % STAGES;
            char *a = shared + stage * STAGE_BYTES, *b = a + A_BYTES;
            mbarrier_wait(&barriers->full[stage], count / STAGES % 2);
            uint64_t desc_a = wgmma_k_major(a + consumer * BLOCK_BYTES);
            uint64_t desc_b = wgmma_mn_major(b, BLOCK_BYTES);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < TILE_K / 16; k++)
                Wgmma<TILE_N>::shared<0, 1>(sum, desc_a + k * WGMMA_K_STEP,
                                            desc_b + k * WGMMA_MN_STEP, step + k > 0);
            wgmma_commit();
            wgmma_wait<1>(); /* the products of the step before are done: its stage is free */
            if (step > 0 && t < CLUSTER)
                mbarrier_arrive_cluster(&barriers->empty[(count + STAGES - 1) % STAGES], t);
        }
        wgmma_wait<0>(sum);
        if (s.steps > 0 && t < CLUSTER)
            mbarrier_arrive_cluster(&barriers->empty[(count + STAGES - 1) % STAGES], t);
        int im, in;
        tile_position(s, i, &im, &in);
        store_tile(map_c, sum, out, (im * CLUSTER + rank) * TILE_M + 64 * consumer, in * TILE_N,
                   consumer);
    }
    if (t == 0) tma_store_wait<0>();
}
#endif

__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    hopper_kernel(const __grid_constant__ CUtensorMap map_a,
                  const __grid_constant__ CUtensorMap map_b,
                  const __grid_constant__ CUtensorMap map_c, Sizes sizes) {
#if HOPPER_CODE
    extern __shared__ char memory[];
    __shared__ Barriers barriers;
    /* Both blocks of a cluster must use the same addresses: rounding up the same base keeps that.
     * */
    char *shared = memory + (1024 - shared_address(memory) % 1024) % 1024;
    int rank = cluster_rank(), group = threadIdx.x / 128;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&barriers.full[i], 1);            /* the producer, and the bytes */
            mbarrier_init(&barriers.empty[i], 2 * CLUSTER); /* two consumers in each block */
        }
        mbarrier_init_fence();
    }
    cluster_sync(); /* no block writes to a barrier of the other before it is there */
    if (group == 0) {
        registers_release<40>();
        if (threadIdx.x == 0) produce(&map_a, &map_b, shared, &barriers, sizes, rank);
    } else {
        registers_take<232>();
        consume(&map_c, shared, &barriers, sizes, rank, group - 1);
    }
    cluster_sync(); /* nor leaves while the other may still write to it */
#endif
}

/* A row-major [rows, cols] matrix in boxes of 64 columns. */
static int map_matrix(CUtensorMap *map, const void *x, int64_t rows, int64_t cols, int box_rows) {
    uint64_t sizes[2] = {(uint64_t)cols, (uint64_t)rows}, strides[1] = {(uint64_t)cols * 2};
    uint32_t box[2] = {64, (uint32_t)box_rows};
    return tensor_map_make(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, x, 2, sizes, strides, box,
                           CU_TENSOR_MAP_SWIZZLE_128B);
}

/* TMA wants rows that begin at multiples of 16 bytes. */
int matmul_hopper_available(Gpu *gpu, DType dtype, int64_t n, int64_t k) {
    return dtype == BF16 && gpu->compute_capability == 90 && n % 8 == 0 && k % 8 == 0 && k > 0;
}

void matmul_hopper_cuda(Gpu *gpu, DType dtype, void *c, const void *a, const void *b, int64_t m,
                        int64_t n, int64_t k) {
    CHECK(
        matmul_hopper_available(gpu, dtype, n, k),
        "wgmma with TMA needs sm_90, BF16, and n and k that are multiples of 8: this is sm_%d, %s, "
        "n %lld, k %lld",
        gpu->compute_capability, dtype_name(dtype), (long long)n, (long long)k);
    if (!m || !n) return;
    CUtensorMap map_a, map_b, map_c;
    CHECK(map_matrix(&map_a, a, m, k, TILE_M) && map_matrix(&map_b, b, k, n, TILE_K) &&
              map_matrix(&map_c, c, m, n, 64),
          "a matrix cannot be mapped for TMA: does it begin at a multiple of 16 bytes?");
    Sizes sizes = {(int)ceil_div(m, TILE_M * CLUSTER), (int)ceil_div(n, TILE_N),
                   (int)ceil_div(k, TILE_K)};
    int clusters = sizes.pairs_m * sizes.tiles_n;
    int most = gpu->sm_count / CLUSTER;
    gpu_launch(gpu, hopper_kernel, (clusters < most ? clusters : most) * CLUSTER, THREADS,
               SHARED_BYTES, map_a, map_b, map_c, sizes);
}
