/*
 * The FP8 product on Hopper, one block for an SM: y = x W^T, of one matrix and of every expert.
 *
 * What changed against a block for each tile (fp8_wgmma_hopper.cu): a warp of its own gives the
 * copy engine its orders, so that the next tile's first stages are on their way while this one is
 * stored; two blocks share what they both read; and the tile's shape follows the product's. An
 * expert's rows are cut into tiles as in 05_moe/cuda/grouped_hopper.cu; a slice of 64 without rows
 * is not multiplied.
 *
 *     many rows     256 x 128 for a block, 256 x 256 for the pair that shares A: 32 KiB from the L2
 *                   cache for 8.4 million operations. What limits is the power that the chip may
 *                   draw: an H200 does 1330 TFLOPS at first and 1150 when it is hot.
 *     few rows      one tile of rows: the weights are read once, so memory limits. Tiles of 112
 *                   columns by two halves of k: 128 blocks for 7168 columns, each with its own part
 *                   of the weights. The halves meet in shared memory (st.async to the first block).
 *     early start   beginning and end of a kernel are a tenth of its time when it is short: the
 *                   next one may set itself up while this one ends (griddepcontrol).
 */
#include "05_moe/cuda/grouped_tiles.cuh"
#include "08_quant/cuda/fp8_store.cuh"
#include "08_quant/fp8_rungs.h"
#include "common/cuda/few_rows_launch.cuh"

#include <math.h>

#if HOPPER_CODE

/* Tile number i; by a warp. Expert number `experts`: the end. */
template <typename S>
static __device__ __forceinline__ Turn row_tile(const int *first, const Fp8Work &work, int i,
                                                int from) {
    if (i >= first[work.experts] * work.across) return {work.experts};
    TilePlace place = tile_place(first, work.experts, work.across, i, from);
    int begin = work.offsets ? __ldg(work.offsets + place.expert) : 0;
    int end = work.offsets ? __ldg(work.offsets + place.expert + 1) : work.rows;
    int before = place.row_tile * S::ROWS;
    return {place.expert, place.column, begin + before, min(S::ROWS, end - begin - before)};
}

/* The same of dW. Its `row` and `rows` are the expert's steps, for which `first` is a table. */
static __device__ __forceinline__ Turn weight_tile(const int *first, const Fp8Work &work, int i) {
    int each = work.down * work.across, expert = i / each;
    if (expert >= work.experts) return {work.experts};
    return {expert, i % each, first[expert], first[expert + 1] - first[expert]};
}

template <typename S, int ACTIVE>
static __device__ __forceinline__ void consume_tile(const Fp8Maps &maps, const Fp8Work &work,
                                                    const Part &p, char *ring,
                                                    Barriers<S> *barriers, Ring<S::STAGES> &at,
                                                    uint32_t &sums_parity, int group, int rank) {
    float sum[S::WAVES][S::N / 2];
    multiply<S, ACTIVE>(sum, work, p, ring, barriers, at, group, rank);
    if (!ACTIVE || (work.add && p.first == p.last && S::SPLIT == 1)) return; /* nothing to add */
    if (S::SPLIT > 1) {
        uint32_t parity = sums_parity;
        sums_parity ^= 1;
        if (rank >= S::SHARES) {
            mbarrier_wait(&barriers->sums_empty[group], parity ^ 1);
            send_sums<S, ACTIVE>(sum, ring, barriers, group, rank);
            return;
        }
        add_sums<S, ACTIVE>(sum, ring, barriers, group, rank, parity);
    }
    int warp = threadIdx.x % 128 / 32;
    char *out = ring + S::OUT_AT + group * SLICE_BYTES + warp * 2048;
#pragma unroll
    for (int w = 0; w < ACTIVE; w++) {
        int row = (w * S::GROUPS + group) * 64 + warp * 16;
        if (S::USE == WEIGHT_USE)
            store_weights<S::N>(&maps.d, p.expert, p.row + row - warp * 16, p.column, work.add,
                                sum[w], ring + S::OUT_AT + group * S::GROUP_OUT, group);
        else
            store_rows<S::N>((bf16 *)work.d + (int64_t)(p.row + row) * work.n,
                             work.base ? work.base + (int64_t)(p.row + row) * work.n : NULL,
                             p.rows - row, work.n, p.column, sum[w], out);
    }
}

template <typename S>
static __device__ __forceinline__ void consume(const Fp8Maps &maps, const Fp8Work &work, char *ring,
                                               Barriers<S> *barriers, int group, int rank) {
    Ring<S::STAGES> at;
    uint32_t sums_parity = 0;
    for (int turn = 0;; turn++) {
        Turn tile = take_turn(&barriers->turns, turn);
        if (tile.expert == work.experts) break;
        Part p = part_of<S>(work, tile, rank);
        int slices = (p.rows + 63) / 64; /* of all groups; this one has every GROUPS-th */
        int active = p.rows <= 0 ? 0 : (slices - group + S::GROUPS - 1) / S::GROUPS;
        if (active >= S::WAVES)
            consume_tile<S, S::WAVES>(maps, work, p, ring, barriers, at, sums_parity, group, rank);
        else if (active > 0)
            consume_tile<S, 1>(maps, work, p, ring, barriers, at, sums_parity, group, rank);
        else
            consume_tile<S, 0>(maps, work, p, ring, barriers, at, sums_parity, group, rank);
    }
    if (S::USE == WEIGHT_USE && threadIdx.x % 128 == 0) tma_store_wait<0>();
}
#endif

template <typename S>
__global__ void __cluster_dims__(S::CLUSTER, 1, 1) __launch_bounds__(S::THREADS, S::PER_SM)
    fp8_kernel(const __grid_constant__ Fp8Maps maps, const __grid_constant__ Fp8Work work) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) char ring[];
    __shared__ Barriers<S> barriers;
    __shared__ int first[TABLE_EXPERTS + 1];
    if (shared_address(ring) % 1024) __trap(); /* the swizzle counts from multiples of 1024 */
    int rank = cluster_rank(), group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (threadIdx.x == 0) barriers_init(&barriers);
    few_rows_wait();
    few_rows_go(); /* every block runs already: the next kernel's take no SM from them */
    if (work.offsets)
        tile_table<S::USE == WEIGHT_USE ? FP8_STEP : S::ROWS>(first, work.offsets, work.experts);
    else if (threadIdx.x == 0) {
        first[0] = 0;
        first[1] = S::USE == WEIGHT_USE ? work.steps : (work.rows + S::ROWS - 1) / S::ROWS;
    }
    cluster_sync(); /* no block writes to a barrier of another before it is there */
    if (group == 0) {
        registers_release<S::PRODUCER>();
        if (threadIdx.x < 32) produce(maps, work, ring, &barriers, rank);
        if (threadIdx.x / 32 == 1 && rank == 0) {
            int expert = 0;
            int tiles = S::USE == WEIGHT_USE ? work.experts * work.down * work.across
                                             : first[work.experts] * work.across;
            schedule<S::CLUSTER>(&barriers.turns, work.next, tiles, [&](int i) {
                if (S::USE == WEIGHT_USE) return weight_tile(first, work, i);
                Turn tile = row_tile<S>(first, work, i, expert);
                expert = tile.expert;
                return tile;
            });
        }
    } else {
        registers_take<S::CONSUMER>();
        consume(maps, work, ring, &barriers, group - 1, rank);
    }
    cluster_sync(); /* nor leaves while another may still write to it */
#endif
}

/* ---- the host ---- */

/* A product, dense (offsets NULL) or grouped. */
struct Operands {
    void *d;
    const void *base;
    const uint8_t *a, *b;
    const float *a_scale, *b_scale;
    const int32_t *offsets;
    GroupedShape shape;
    int add;
};

/* How many clusters run at the same time: of four blocks not as many as SMs would suggest, for a
 * cluster is at home in one group of SMs. Whoever came later would find all tiles dealt out. */
template <typename S> static int clusters_of(Gpu *gpu) {
    static int clusters;
    if (clusters) return clusters;
    if (S::CLUSTER == 1) return clusters = gpu->sm_count * S::PER_SM;
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = S::CLUSTER;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(gpu->sm_count * S::PER_SM / S::CLUSTER * S::CLUSTER));
    config.blockDim = dim3(S::THREADS);
    config.dynamicSmemBytes = S::SHARED_BYTES;
    config.attrs = &cluster;
    config.numAttrs = 1;
    CUDA_CHECK(cudaFuncSetAttribute((const void *)fp8_kernel<S>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, S::SHARED_BYTES));
    CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, fp8_kernel<S>, &config));
    CHECK(clusters > 0, "no cluster of %d blocks with %d bytes fits on this GPU", S::CLUSTER,
          S::SHARED_BYTES);
    return clusters;
}

/* gpu_launch() of a kernel that reads nothing before few_rows_wait(): it may start while the one
 * before it ends, in a graph or not. */
static void launch_behind(LaunchOn on, void (*kernel)(Fp8Maps, Fp8Work), int grid, int threads,
                          int shared, const Fp8Maps &maps, const Fp8Work &work) {
    CUDA_CHECK(cudaFuncSetAttribute((const void *)kernel,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)grid);
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = (size_t)shared;
    config.stream = on.gpu->stream;
    config.attrs = &early;
    config.numAttrs = 1;
    cudaError_t status = cudaLaunchKernelEx(&config, kernel, maps, work);
    if (status != cudaSuccess)
        fatal("%s:%d: the launch failed: %s", on.file, on.line, cudaGetErrorString(status));
}

template <typename S> static void launch(Gpu *gpu, const Operands &o) {
    constexpr bool WEIGHT = S::USE == WEIGHT_USE;
    GroupedShape s = o.shape;
    int64_t a_rows = WEIGHT ? s.out : s.rows, b_rows = WEIGHT ? s.in : s.experts * s.out;
    int64_t k = WEIGHT ? fp8_padded_rows(s.rows, o.offsets ? s.experts : 1) : s.in;
    Fp8Maps maps;
    CHECK(map_codes(&maps.a, o.a, a_rows, k, S::M / (S::SHARE == SHARE_A ? 2 : 1)) &&
              map_codes(&maps.b, o.b, b_rows, k, S::N / (S::SHARE == SHARE_B ? 2 : 1)),
          "a tensor cannot be mapped for TMA: does it begin at a multiple of 16 bytes?");
    if (WEIGHT) {
        uint64_t sizes[3] = {(uint64_t)s.in, (uint64_t)s.out, (uint64_t)s.experts};
        uint64_t strides[2] = {(uint64_t)s.in * 4, (uint64_t)(s.out * s.in) * 4};
        uint32_t box[3] = {32, 64, 1};
        CHECK(tensor_map_make(&maps.d, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, o.d, 3, sizes, strides, box,
                              CU_TENSOR_MAP_SWIZZLE_128B),
              "dW cannot be mapped for TMA: does it begin at a multiple of 16 bytes?");
    }
    Fp8Work work = {};
    work.offsets = o.offsets;
    work.d = o.d;
    work.base = (const bf16 *)o.base;
    work.add = o.add;
    work.a_scale = o.a_scale;
    work.b_scale = o.b_scale;
    work.a_stride = (int)fp8_scale_stride(a_rows);
    work.b_stride = (int)fp8_scale_stride(b_rows);
    work.rows = (int)a_rows;
    work.experts = s.experts;
    work.n = (int)(WEIGHT ? s.in : s.out);
    work.down = (int)ceil_div(a_rows, S::ROWS);
    work.across = (int)ceil_div(work.n, S::COLUMNS);
    work.steps = (int)fp8_blocks(k);
    work.b_blocks = (int)fp8_blocks(s.out);
    if (o.offsets) {
        work.next = (int *)gpu->workspace; /* cuBLASLt's, whose turn it is not */
        CUDA_CHECK(cudaMemsetAsync(work.next, 0, sizeof *work.next, gpu->stream));
    }
    launch_behind(gpu, fp8_kernel<S>, clusters_of<S>(gpu) * S::CLUSTER, S::THREADS, S::SHARED_BYTES,
                  maps, work);
}

/* A shape, and what choosing one needs to know of it. */
struct ShapeEntry {
    const char *name;
    int groups, waves, n, rows, columns, shares, split, per_sm; /* rows, columns: the cluster's */
    int (*clusters)(Gpu *);
    void (*launch)(Gpu *, const Operands &);
};

template <typename S> static constexpr ShapeEntry shape_entry(const char *name) {
    return {name,      S::GROUPS, S::WAVES,  S::N,           S::ROWS,  S::COLUMNS,
            S::SHARES, S::SPLIT,  S::PER_SM, clusters_of<S>, launch<S>};
}
#define SHAPE_ENTRY(name, ...)  shape_entry<Shape<ROWS_USE, __VA_ARGS__>>(name)
#define WEIGHT_ENTRY(name, ...) shape_entry<Shape<WEIGHT_USE, __VA_ARGS__>>(name)

/* x2: two blocks for an SM. A: pairs that share A. The first is for experts: their last tiles are
 * seldom full, and 192 rows waste less than 256. */
static const ShapeEntry shapes[] = {
    SHAPE_ENTRY("192x128", 3, 1, 128),
    SHAPE_ENTRY("192x128 A", 3, 1, 128, SHARE_A),
    SHAPE_ENTRY("256x128", 2, 2, 128),
    SHAPE_ENTRY("256x128 A", 2, 2, 128, SHARE_A),
    SHAPE_ENTRY("128x192", 2, 1, 192),
    SHAPE_ENTRY("128x128x2", 1, 2, 128, ALONE, 1, 2),
    SHAPE_ENTRY("128x64", 2, 1, 64),
    SHAPE_ENTRY("128x112 k/2", 2, 1, 112, ALONE, 2),
    SHAPE_ENTRY("128x64 k/2", 2, 1, 64, ALONE, 2),
    SHAPE_ENTRY("64x192", 1, 1, 192),
    SHAPE_ENTRY("64x128x2", 1, 1, 128, ALONE, 1, 2),
    SHAPE_ENTRY("64x112 k/2", 1, 1, 112, ALONE, 2),
    SHAPE_ENTRY("64x64x2 k/2", 1, 1, 64, ALONE, 2, 2),
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

int fp8_shape_count(void) { return SHAPES; }
const char *fp8_shape_name(int shape) { return shapes[shape].name; }

/*
 * About how many clocks a shape takes: its rounds of tiles, each a fixed part and for every step
 * the slowest of the tensor cores (2 N clocks for a slice of 64 rows), of a group's chain of
 * product and promotion, and of the L2 cache; and never less than memory does. Constants: fitted to
 * the times of 12 shapes at 18 sizes on an H200; what it picks is within 4 % of the best in the
 * mean, 16 % at worst.
 */
static double clocks_of(Gpu *gpu, const ShapeEntry &s, int64_t m, int64_t n, int64_t k) {
    int64_t tiles = ceil_div(m, s.rows) * ceil_div(n, s.columns);
    double rounds = (double)ceil_div(tiles, s.clusters(gpu));
    double steps = (double)ceil_div(fp8_blocks(k), s.split);
    int64_t tile_rows = 64 * s.groups * s.waves;
    double slices = (double)ceil_div(m < tile_rows ? m : tile_rows, 64);
    double tensor = slices * 2 * s.n * s.per_sm;
    double chain = (double)ceil_div((int64_t)slices, s.groups) * (2 * s.n + 150);
    double cache = (double)(tile_rows / s.shares + s.n) * FP8_STEP * s.per_sm / 40;
    double step = tensor > chain ? tensor : chain;
    step = step > cache ? step : cache;
    double all = rounds * (steps * step + 4000 + (s.split > 1 ? 3000 : 0) + slices * s.n * 8);
    double memory = (double)(m * k + n * k + 2 * m * n) / 2400;
    return all > memory ? all : memory;
}

int fp8_shape_best(Gpu *gpu, int64_t m, int64_t n, int64_t k) {
    int best = 0;
    double least = INFINITY;
    for (int i = 0; i < SHAPES; i++) {
        double clocks = clocks_of(gpu, shapes[i], m, n, k);
        if (clocks < least) least = clocks, best = i;
    }
    return best;
}

int fp8_hopper_available(Gpu *gpu, DType dtype, int64_t n, int64_t k) {
    return dtype == BF16 && gpu->compute_capability == 90 && n % 8 == 0 && k % 16 == 0 && n > 0 &&
           k > 0;
}

static void check(Gpu *gpu, DType dtype, int64_t n, int64_t k) {
    CHECK(
        fp8_hopper_available(gpu, dtype, n, k),
        "FP8 by wgmma needs sm_90, results in BF16, n a multiple of 8 and k of 16: this is sm_%d, "
        "%s, n %lld, k %lld",
        gpu->compute_capability, dtype_name(dtype), (long long)n, (long long)k);
}

void fp8_product_shape_cuda(Gpu *gpu, int shape, void *d, const void *base, const uint8_t *a,
                            const float *a_scale, const uint8_t *b, const float *b_scale, int64_t m,
                            int64_t n, int64_t k) {
    check(gpu, BF16, n, k);
    if (m) shapes[shape].launch(gpu, {d, base, a, b, a_scale, b_scale, NULL, {m, k, n, 1}, 0});
}

void fp8_product_persistent_cuda(Gpu *gpu, DType dtype, void *d, const void *base, const uint8_t *a,
                                 const float *a_scale, const uint8_t *b, const float *b_scale,
                                 int64_t m, int64_t n, int64_t k) {
    check(gpu, dtype, n, k);
    fp8_product_shape_cuda(gpu, fp8_shape_best(gpu, m, n, k), d, base, a, a_scale, b, b_scale, m, n,
                           k);
}

void fp8_grouped_shape_cuda(Gpu *gpu, int shape, void *y, const void *base, const uint8_t *x,
                            const float *x_scale, const uint8_t *w, const float *w_scale,
                            const int32_t *offsets, GroupedShape s) {
    check(gpu, BF16, s.out, s.in);
    if (s.rows && s.experts)
        shapes[shape].launch(gpu, {y, base, x, w, x_scale, w_scale, offsets, s, 0});
}

void fp8_grouped_persistent_cuda(Gpu *gpu, DType dtype, void *y, const void *base, const uint8_t *x,
                                 const float *x_scale, const uint8_t *w, const float *w_scale,
                                 const int32_t *offsets, GroupedShape s) {
    check(gpu, dtype, s.out, s.in);
    fp8_grouped_shape_cuda(gpu, 0, y, base, x, x_scale, w, w_scale, offsets, s);
}

/* ---- dW ---- */

int fp8_weight_hopper_available(Gpu *gpu, GroupedShape s) {
    return gpu->compute_capability == 90 && s.in % 4 == 0 && s.in > 0 && s.out > 0 &&
           s.experts <= TABLE_EXPERTS;
}

static const ShapeEntry weight_shapes[] = {
    WEIGHT_ENTRY("192x128 A", 3, 1, 128, SHARE_A),
    WEIGHT_ENTRY("256x128 A", 2, 2, 128, SHARE_A),
    WEIGHT_ENTRY("128x128", 2, 1, 128),
    WEIGHT_ENTRY("128x128 k/2", 2, 1, 128, ALONE, 2),
    WEIGHT_ENTRY("128x64 k/4", 2, 1, 64, ALONE, 4),
};
enum { WEIGHT_SHAPES = sizeof weight_shapes / sizeof *weight_shapes };

int fp8_weight_shape_count(void) { return WEIGHT_SHAPES; }
const char *fp8_weight_shape_name(int shape) { return weight_shapes[shape].name; }

void fp8_weight_shape_cuda(Gpu *gpu, int shape, float *dw, int add, const uint8_t *dy_t,
                           const float *dy_scale, const uint8_t *x_t, const float *x_scale,
                           const int32_t *offsets, GroupedShape s) {
    CHECK(fp8_weight_hopper_available(gpu, s),
          "FP8 by wgmma needs sm_90, a multiple of 4 inputs and at most %d experts: this is "
          "sm_%d, in %lld, %d experts",
          TABLE_EXPERTS, gpu->compute_capability, (long long)s.in, s.experts);
    if (!offsets) s.experts = 1;
    if (!s.experts) return;
    if (!s.rows) { /* a map has no empty side */
        if (!add)
            CUDA_CHECK(cudaMemsetAsync(dw, 0, (size_t)(s.experts * s.out * s.in) * sizeof *dw,
                                       gpu->stream));
        return;
    }
    weight_shapes[shape].launch(gpu, {dw, NULL, dy_t, x_t, dy_scale, x_scale, offsets, s, add});
}

/* Few tiles: the tokens in two or four parts, so that every SM has work. */
void fp8_weight_hopper_cuda(Gpu *gpu, DType dtype, float *dw, int add, const uint8_t *dy_t,
                            const float *dy_scale, const uint8_t *x_t, const float *x_scale,
                            const int32_t *offsets, GroupedShape s) {
    (void)dtype;
    int64_t tiles = (offsets ? s.experts : 1) * ceil_div(s.out, 128) * ceil_div(s.in, 128);
    int shape = tiles >= 2 * gpu->sm_count ? 0 : 2 * tiles > gpu->sm_count ? 2 : tiles > 24 ? 3 : 4;
    fp8_weight_shape_cuda(gpu, shape, dw, add, dy_t, dy_scale, x_t, x_scale, offsets, s);
}
