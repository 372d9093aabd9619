/*
 * The six steps to Hopper (steps.h). Compare each kernel with the one before it: what is new is
 * between the same lines.
 *
 * All tiles are 64 x 64 numbers in BF16, 8 KiB, swizzled blocks as wgmma.cuh describes them. A lies
 * along k (K-major), B across it (MN-major), so both are read as they are stored. The products of a
 * step, 64 x 64 x 64, are 128 clocks of the tensor cores; what is over is waiting, for bytes or for
 * each other.
 */
#include "01_self_attention/steps.h"
#include "common/cuda/gpu.cuh"
#include "common/cuda/hopper.cuh"

enum { SIDE = STEP_SIDE, TILE_BYTES = SIDE * SIDE * 2, MORE_STAGES = 8, READS = 1024 };

int steps_available(const Gpu *gpu) { return gpu->compute_capability == 90; }

/* A row-major matrix of BF16 in boxes of 64 columns. */
static CUtensorMap map_of(const void *x, int rows, int cols, int box_rows, int swizzled) {
    CUtensorMap map;
    uint64_t sizes[2] = {(uint64_t)cols, (uint64_t)rows}, strides[1] = {(uint64_t)cols * 2};
    uint32_t box[2] = {SIDE, (uint32_t)box_rows};
    CHECK(tensor_map_make(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, x, 2, sizes, strides, box,
                          swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE),
          "a matrix cannot be mapped for TMA: does it begin at a multiple of 16 bytes?");
    return map;
}

/* ---- steps 1 and 2: who fetches, and how does it lie? ---- */

/* [copy] */
template <bool SWIZZLED>
__global__ void copy_kernel(bf16 *to, const __grid_constant__ CUtensorMap map) {
#if HOPPER_CODE
    __shared__ alignas(1024) char tile[TILE_BYTES];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1); /* one arrival ends a phase, and the bytes that it announces */
        mbarrier_init_fence();
        mbarrier_expect(&full, TILE_BYTES);
        tma_load_2d(tile, &map, &full, 0, 0);
    }
    __syncthreads(); /* nobody waits at a barrier that is not there yet */
    mbarrier_wait(&full, 0);
    for (int i = threadIdx.x; i < SIDE * SIDE; i += blockDim.x) {
        int row = i / SIDE, column = i % SIDE;
        int at = SWIZZLED ? swizzle_128(row, column) : row * 128 + column * 2;
        to[i] = *(bf16 *)(tile + at);
    }
#endif
}
/* [/copy] */

void step_copy_cuda(Gpu *gpu, void *to, const void *from, int swizzled) {
    CUtensorMap map = map_of(from, SIDE, SIDE, SIDE, swizzled);
    gpu_launch(gpu, swizzled ? copy_kernel<true> : copy_kernel<false>, 1, 128, 0, to, map);
}

/* One warp; lane l reads piece `turn % 8` of row l. */
template <bool SWIZZLED> __global__ void column_kernel(long long *clocks, uint32_t *sink) {
#if HOPPER_CODE
    __shared__ alignas(1024) char tile[TILE_BYTES];
    for (int i = threadIdx.x; i < TILE_BYTES / 4; i += 32) ((uint32_t *)tile)[i] = i;
    __syncwarp();
    int row = threadIdx.x;
    uint32_t sum = 0;
    long long begin = clock64();
#pragma unroll 8
    for (int turn = 0; turn < READS; turn++) {
        int piece = turn % 8, at = SWIZZLED ? swizzle_128(row, 8 * piece) : row * 128 + piece * 16;
        uint32_t x, y, z, w;
        asm volatile("ld.volatile.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x), "=r"(y), "=r"(z), "=r"(w)
                     : "r"(shared_address(tile + at)));
        sum += x ^ y ^ z ^ w;
    }
    long long end = clock64();
    sink[threadIdx.x] = sum;
    if (threadIdx.x == 0) *clocks = end - begin;
#endif
}

/* What a kernel says about its time, fetched from the device. */
struct Clocks {
    Gpu *gpu;
    long long *device;
    explicit Clocks(Gpu *g) : gpu(g), device((long long *)gpu_alloc(g, sizeof(long long))) {
        CHECK(device, "no memory on the GPU");
        gpu_set(gpu, device, 0, sizeof *device);
    }
    double per(int count) {
        long long clocks;
        gpu_download(gpu, &clocks, device, sizeof clocks);
        gpu_free(gpu, device);
        return (double)clocks / count;
    }
};

double step_column_clocks_cuda(Gpu *gpu, int swizzled) {
    Clocks clocks(gpu);
    void *sink = gpu_alloc(gpu, 32 * sizeof(uint32_t));
    CHECK(sink, "no memory on the GPU");
    gpu_launch(gpu, swizzled ? column_kernel<true> : column_kernel<false>, 1, 32, 0, clocks.device,
               sink);
    double per_read = clocks.per(READS);
    gpu_free(gpu, sink);
    return per_read;
}

#if HOPPER_CODE

/* The sums of a warpgroup to rows 0 .. 63 of c [.., 64]: wgmma.cuh says who has which. */
static __device__ void store_sums(float *c, const float (&sum)[32]) {
    int t = threadIdx.x % 128, row = t / 32 * 16 + t % 32 / 4;
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 4; i++)
            c[(row + i / 2 * 8) * SIDE + 8 * j + t % 4 * 2 + i % 2] = sum[4 * j + i];
}

/* [multiply] */
/* sum (+)= A B of one stage; ordered, not waited for. */
static __device__ void multiply(float (&sum)[32], const char *a, const char *b, bool first) {
    uint64_t desc_a = wgmma_k_major(a), desc_b = wgmma_mn_major(b, TILE_BYTES);
    wgmma_fence(sum); /* the registers are as we left them */
#pragma unroll
    for (int k = 0; k < SIDE / 16; k++)
        Wgmma<SIDE>::shared<0, 1>(sum, desc_a + k * WGMMA_K_STEP, desc_b + k * WGMMA_MN_STEP,
                                  !first || k > 0);
    wgmma_commit(); /* these four are a group */
}
/* [/multiply] */

/* Dynamic shared memory from the next multiple of 1024 on. */
static __device__ char *aligned(char *memory) {
    return memory + (1024 - shared_address(memory) % 1024) % 1024;
}

#endif

/* ---- step 4 (with one step along k: step 3): how do copying and multiplying overlap? ---- */

/* [ring] */
template <int STAGES>
__global__ void ring_kernel(float *c, const __grid_constant__ CUtensorMap map_a,
                            const __grid_constant__ CUtensorMap map_b, int steps,
                            long long *clocks) {
#if HOPPER_CODE
    extern __shared__ char memory[];
    __shared__ uint64_t full[STAGES];
    char *tiles = aligned(memory); /* of each stage: A, then B */
    auto load = [&](int step) {
        char *a = tiles + step % STAGES * 2 * TILE_BYTES, *b = a + TILE_BYTES;
        mbarrier_expect(&full[step % STAGES], 2 * TILE_BYTES);
        tma_load_2d(a, &map_a, &full[step % STAGES], step * SIDE, 0);
        tma_load_2d(b, &map_b, &full[step % STAGES], 0, step * SIDE);
    };
    long long begin = clock64();
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) mbarrier_init(&full[s], 1);
        mbarrier_init_fence();
        for (int step = 0; step < STAGES - 1 && step < steps; step++) load(step);
    }
    __syncthreads();
    float sum[32];
    for (int step = 0; step < steps; step++) {
        int next = step + STAGES - 1; /* goes where step - 1 was, which all have multiplied */
        if (threadIdx.x == 0 && next < steps) load(next);
        __syncwarp(); /* wgmma wants whole warps */
        mbarrier_wait(&full[step % STAGES], step / STAGES % 2);
        const char *a = tiles + step % STAGES * 2 * TILE_BYTES;
        multiply(sum, a, a + TILE_BYTES, step == 0);
        wgmma_wait<0>(sum); /* at most 0 groups still run */
        __syncthreads();
    }
    if (threadIdx.x == 0) *clocks = clock64() - begin;
    store_sums(c, sum);
#endif
}
/* [/ring] */

/* ---- step 5: who does what? ---- */

template <int STAGES>
__global__ void specialised_kernel(float *c, const __grid_constant__ CUtensorMap map_a,
                                   const __grid_constant__ CUtensorMap map_b, int steps,
                                   long long *clocks) {
#if HOPPER_CODE
    extern __shared__ char memory[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    char *tiles = aligned(memory);
    long long begin = clock64();
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], 1); /* the warpgroup, by its first thread */
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x >= 128) { /* the fifth warp loads */
        for (int step = 0; step < steps && threadIdx.x == 128; step++) {
            int stage = step % STAGES;
            char *a = tiles + stage * 2 * TILE_BYTES;
            mbarrier_wait(&empty[stage], step / STAGES % 2 ^ 1);
            mbarrier_expect(&full[stage], 2 * TILE_BYTES);
            tma_load_2d(a, &map_a, &full[stage], step * SIDE, 0);
            tma_load_2d(a + TILE_BYTES, &map_b, &full[stage], 0, step * SIDE);
        }
        return;
    }
    float sum[32]; /* the other four multiply */
    for (int step = 0; step < steps; step++) {
        int stage = step % STAGES;
        const char *a = tiles + stage * 2 * TILE_BYTES;
        mbarrier_wait(&full[stage], step / STAGES % 2);
        multiply(sum, a, a + TILE_BYTES, step == 0);
        wgmma_wait<1>(); /* the step before is done, and its stage free */
        if (step > 0 && threadIdx.x == 0) mbarrier_arrive(&empty[(step - 1) % STAGES]);
    }
    wgmma_wait<0>(sum);
    if (threadIdx.x == 0) *clocks = clock64() - begin;
    store_sums(c, sum);
#endif
}

/* ---- step 6: can two blocks share? ---- */

__global__ void __cluster_dims__(2, 1, 1)
    cluster_kernel(float *c, const __grid_constant__ CUtensorMap map_a,
                   const __grid_constant__ CUtensorMap map_b, int steps, long long *clocks) {
#if HOPPER_CODE
    enum { STAGES = MORE_STAGES, HALF = TILE_BYTES / 2 };
    extern __shared__ char memory[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    char *tiles = aligned(memory);
    int rank = cluster_rank();
    long long begin = clock64();
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], 2); /* both blocks' warpgroups: my half is in both */
        }
        mbarrier_init_fence();
    }
    cluster_sync(); /* the other block's barriers are there, too */
    if (threadIdx.x >= 128) {
        for (int step = 0; step < steps && threadIdx.x == 128; step++) {
            int stage = step % STAGES;
            char *a = tiles + stage * 2 * TILE_BYTES, *b = a + TILE_BYTES;
            mbarrier_wait(&empty[stage], step / STAGES % 2 ^ 1);
            mbarrier_expect(&full[stage], 2 * TILE_BYTES); /* both halves of B come here */
            tma_load_2d(a, &map_a, &full[stage], step * SIDE, rank * SIDE);
            tma_load_2d_multicast(b + rank * HALF, &map_b, &full[stage], 3, 0,
                                  step * SIDE + rank * SIDE / 2);
        }
    } else {
        float sum[32];
        for (int step = 0; step < steps; step++) {
            int stage = step % STAGES;
            const char *a = tiles + stage * 2 * TILE_BYTES;
            mbarrier_wait(&full[stage], step / STAGES % 2);
            multiply(sum, a, a + TILE_BYTES, step == 0);
            wgmma_wait<1>();
            if (step > 0 && threadIdx.x < 2) /* thread 0 tells block 0, thread 1 block 1 */
                mbarrier_arrive_cluster(&empty[(step - 1) % STAGES], threadIdx.x);
        }
        wgmma_wait<0>(sum);
        if (threadIdx.x == 0 && rank == 0) *clocks = clock64() - begin;
        store_sums(c + rank * SIDE * SIDE, sum);
    }
    cluster_sync(); /* nobody leaves while the other may still write here */
#endif
}

int step_rows(StepWay way) { return way == STEP_CLUSTER ? 2 * SIDE : SIDE; }

double step_product_cuda(Gpu *gpu, StepWay way, float *c, const void *a, const void *b, int k) {
    CHECK(steps_available(gpu), "the steps need sm_90, this is sm_%d", gpu->compute_capability);
    CHECK(k > 0 && k % SIDE == 0 && (way != STEP_WGMMA || k == SIDE), "k is %d", k);
    CUtensorMap map_a = map_of(a, step_rows(way), k, SIDE, 1);
    CUtensorMap map_b = map_of(b, k, SIDE, way == STEP_CLUSTER ? SIDE / 2 : SIDE, 1);
    Clocks clocks(gpu);
    struct Launch {
        void (*kernel)(float *, CUtensorMap, CUtensorMap, int, long long *);
        int blocks, threads, stages;
    };
    static const Launch launches[STEP_WAYS] = {
        {ring_kernel<1>, 1, 128, 1},
        {ring_kernel<1>, 1, 128, 1},
        {ring_kernel<4>, 1, 128, 4},
        {specialised_kernel<4>, 1, 160, 4},
        {specialised_kernel<MORE_STAGES>, 1, 160, MORE_STAGES},
        {cluster_kernel, 2, 160, MORE_STAGES}};
    Launch l = launches[way];
    gpu_launch(gpu, l.kernel, l.blocks, l.threads, (size_t)l.stages * 2 * TILE_BYTES + 1024, c,
               map_a, map_b, k / SIDE, clocks.device);
    return clocks.per(k / SIDE);
}
