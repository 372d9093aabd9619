/*
 * The grouped product on Hopper: the gradient of the weights.
 *
 *     dW_e [out, in] = dY_e^T X_e        for every expert e, in F32
 *
 * Here the expert's rows are what is summed over, and the tile of the output is the same for all
 * experts: 128 x 256 for a block, two blocks of a cluster one below the other with the same columns
 * of X. Both operands lie with the summed index outermost (MN-major), which wgmma takes as it is.
 *
 *     the last step   64 rows at a time seldom end where the expert does. What follows is the
 *                     neighbour's, or rows that no kernel wrote; the consumers overwrite it with
 *                     zeros in shared memory.
 *     no rows         such an expert costs nothing when adding, and a tile of zeros otherwise.
 *     adding          the copy engine adds in the L2 cache.
 *
 *     parts           a few experts of moderate size have fewer tiles than the GPU has clusters: 8
 *                     of 512 x 512 have 32, for 66. Then an expert's rows are cut into parts, and
 *                     each part of a tile is work of its own. The parts add in turn, so that the
 *                     sum is the same every time: a part waits for the one before it, which
 *                     some block took up earlier and which waits for none after it: no deadlock.
 *
 * Bytes: dW is written once, 4 bytes for each of out x in numbers: with 256 rows for an expert that
 * is 128 operations for each byte written, less than the chip's 190 for each byte of memory. Then
 * memory limits (3.5 TB/s on an H200, tensor cores at 44 %); with 1024 rows the tensor cores do.
 */
#include "05_moe/cuda/grouped_hopper.cuh"

enum { SHARED_BYTES = RING_BYTES + 2 * OUT_BYTES, OUT_COLUMNS = 32 };
enum { MOST_PARTS = 8, PART_STEPS = 8 };

struct WeightMaps {
    CUtensorMap dy, x, dw;
};

struct WeightWork {
    const int32_t *offsets;
    int *next;  /* the scheduler's counter */
    int *added; /* [tiles][CLUSTER][2]: how many parts each consumer's share of a tile has */
    float *dw;
    int experts, out, in;
    int pairs, columns; /* cluster tiles down `out`, tiles across `in` */
    int parts;          /* of an expert's rows, at most */
    int add;
};

#if HOPPER_CODE

struct WeightTile {
    int expert, out, in;  /* this block's first; expert == experts: the end */
    int row, rows, steps; /* the part's, and how many steps of 64 they are */
    int part;
    int *added; /* of this tile and block; one for each consumer */
};

/* Number i: an expert, a tile of it and a part of its rows. Few rows make fewer parts, the others
 * are empty. */
static __device__ __forceinline__ Turn weight_turn(const WeightWork &work, int i) {
    int each = work.pairs * work.columns * work.parts, expert = i / each, part = i % work.parts;
    if (expert >= work.experts) return {work.experts};
    int begin = __ldg(work.offsets + expert), rows = __ldg(work.offsets + expert + 1) - begin;
    int steps = (rows + STEP_K - 1) / STEP_K, parts = max(min(work.parts, steps), 1);
    int first = min(part, parts) * steps / parts * STEP_K;
    int end = min(part + 1, parts) * steps / parts * STEP_K;
    return {expert, i % each, begin + first, min(end, rows) - min(first, rows)};
}

static __device__ __forceinline__ WeightTile weight_tile(const WeightWork &work, Barriers *barriers,
                                                         int turn, int rank) {
    Turn what = take_turn(&barriers->turns, turn);
    int inside = what.place / work.parts, row = inside % work.pairs, column = inside / work.pairs;
    WeightTile tile;
    tile.expert = what.expert;
    tile.out = (row * CLUSTER + rank) * HALF_TILE;
    tile.in = column * WIDE_TILE;
    tile.row = what.row;
    tile.rows = what.rows;
    tile.steps = (what.rows + STEP_K - 1) / STEP_K;
    tile.part = what.place % work.parts;
    int number = what.expert * work.pairs * work.columns + inside;
    tile.added = work.added + (number * CLUSTER + rank) * 2;
    return tile;
}

static __device__ void produce(const WeightMaps &maps, const WeightWork &work, char *ring,
                               Barriers *barriers, int rank) {
    int count = 0;
    for (int turn = 0;; turn++) {
        WeightTile tile = weight_tile(work, barriers, turn, rank);
        if (tile.expert == work.experts) break;
        for (int step = 0; step < tile.steps; step++, count++) {
            int stage = stage_to_fill(barriers, count), row = tile.row + step * STEP_K;
            char *dy = ring + stage * STAGE_BYTES, *x = dy + HALF_BYTES;
            uint64_t *full = &barriers->full[stage];
            if (threadIdx.x == 0) {
                mbarrier_expect(full, STAGE_BYTES);
                for (int half = 0; half < 2; half++)
                    tma_load_2d(dy + half * BLOCK_BYTES, &maps.dy, full, tile.out + 64 * half, row);
                for (int block = 2 * rank; block < 2 * rank + 2; block++) /* mine, to both of us */
                    tma_load_2d_multicast(x + block * BLOCK_BYTES, &maps.x, full,
                                          (1 << CLUSTER) - 1, tile.in + 64 * block, row);
            }
            __syncwarp();
        }
    }
}

/* 64 x 256 sums to memory, 32 columns at a time, through two buffers in turn. */
static __device__ __forceinline__ void store_tile(const WeightMaps &maps, const WeightWork &work,
                                                  const WeightTile &tile, const float (&sum)[128],
                                                  char *out, int consumer) {
    int t = threadIdx.x % 128, r = t / 32 * 16 + t % 32 / 4, *added = tile.added + consumer;
    if (t == 0 && tile.part) {
        while (load_acquire(added) != tile.part) {}
        async_proxy_fence_global();
    }
#pragma unroll
    for (int c = 0; c < WIDE_TILE; c += OUT_COLUMNS) {
        char *to = out + c / OUT_COLUMNS % 2 * BLOCK_BYTES;
        if (t == 0) tma_store_wait_read<1>(); /* the store before the last has left its buffer */
        named_barrier_sync(1 + consumer, 128);
#pragma unroll
        for (int j = 0; j < OUT_COLUMNS / 8; j++) {
            const float *d = &sum[c / 2 + 4 * j];
            int place = ((2 * j + t % 4 / 2) ^ r % 8) * 16 + t % 2 * 8; /* 4 numbers a piece */
            *(float2 *)(to + r * 128 + place) = make_float2(d[0], d[1]);
            *(float2 *)(to + (r + 8) * 128 + place) = make_float2(d[2], d[3]);
        }
        async_proxy_fence();
        named_barrier_sync(1 + consumer, 128);
        if (t == 0) {
            int first = tile.out + 64 * consumer;
            if (work.add || tile.part)
                tma_reduce_add_3d(&maps.dw, to, tile.in + c, first, tile.expert);
            else
                tma_store_3d(&maps.dw, to, tile.in + c, first, tile.expert);
            tma_store_commit();
        }
    }
    if (t == 0 && work.parts > 1) { /* the next part may add when this one has arrived */
        tma_store_wait<0>();
        async_proxy_fence_global();
        store_release(added, tile.part + 1);
    }
}

/* The tile of an expert without rows: this consumer's 64 rows of it. */
static __device__ __forceinline__ void clear_tile(const WeightWork &work, const WeightTile &tile,
                                                  int consumer) {
    int width = min(WIDE_TILE, work.in - tile.in) / 4, first = tile.out + 64 * consumer;
    int height = min(64, work.out - first);
    float *to = work.dw + ((int64_t)tile.expert * work.out + first) * work.in + tile.in;
    for (int i = threadIdx.x % 128; i < height * width; i += 128)
        *(float4 *)(to + (int64_t)(i / width) * work.in + i % width * 4) = make_float4(0, 0, 0, 0);
}

static __device__ __forceinline__ void consume(const WeightMaps &maps, const WeightWork &work,
                                               char *ring, Barriers *barriers, int consumer,
                                               int rank) {
    for (int turn = 0, count = 0;; turn++) {
        WeightTile tile = weight_tile(work, barriers, turn, rank);
        if (tile.expert == work.experts) break;
        if (tile.steps) {
            float sum[WIDE_TILE / 2];
            multiply_stages<WIDE_TILE, 1, 1>(sum, ring, barriers, count, tile.steps, consumer,
                                             tile.rows - (tile.steps - 1) * STEP_K);
            count += tile.steps;
            store_tile(maps, work, tile, sum, ring + RING_BYTES + consumer * OUT_BYTES, consumer);
        } else if (!work.add && !tile.part)
            clear_tile(work, tile, consumer);
    }
    if (threadIdx.x % 128 == 0) tma_store_wait<0>();
}
#endif

__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    grouped_weight_hopper_kernel(const __grid_constant__ WeightMaps maps,
                                 const __grid_constant__ WeightWork work) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) char ring[];
    __shared__ Barriers barriers;
    if (shared_address(ring) % 1024) __trap(); /* the swizzle counts from multiples of 1024 */
    int rank = cluster_rank(), group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (threadIdx.x == 0) barriers_init(&barriers);
    cluster_sync(); /* no block writes to a barrier of the other before it is there */
    if (group == 0) {
        registers_release<40>();
        if (threadIdx.x < 32) produce(maps, work, ring, &barriers, rank);
        if (threadIdx.x / 32 == 1 && rank == 0)
            schedule<CLUSTER>(&barriers.turns, work.next,
                              work.experts * work.pairs * work.columns * work.parts,
                              [&](int i) { return weight_turn(work, i); });
    } else {
        registers_take<232>();
        consume(maps, work, ring, &barriers, group - 1, rank);
    }
    cluster_sync(); /* nor leaves while the other may still write to it */
#endif
}

/*
 * Into how many parts: with p of them the clusters go ceil(tiles p / clusters) rounds of 1 / p of
 * the work. More parts must be worth a tenth; and one of fewer than PART_STEPS steps saves less
 * than storing its sums costs.
 */
static int parts_of(const Gpu *gpu, GroupedShape shape, int tiles) {
    int64_t most = shape.rows / shape.experts / (STEP_K * PART_STEPS);
    int clusters = gpu->sm_count / CLUSTER, best = 1;
    double least = (double)ceil_div(tiles, clusters);
    for (int parts = 2; parts <= MOST_PARTS && parts <= most; parts++) {
        double rounds = (double)ceil_div(tiles * parts, clusters) / parts;
        if (rounds < 0.9 * least) least = rounds, best = parts;
    }
    return best;
}

void grouped_backward_weight_hopper_cuda(Gpu *gpu, DType dtype, float *dw, int add, const void *dy,
                                         const void *x, const int32_t *offsets,
                                         GroupedShape shape) {
    CHECK(
        grouped_hopper_available(gpu, dtype, shape),
        "wgmma with TMA needs sm_90, BF16, and in and out that are multiples of 8: this is sm_%d, "
        "%s, in %lld, out %lld",
        gpu->compute_capability, dtype_name(dtype), (long long)shape.in, (long long)shape.out);
    if (!shape.experts) return;
    int64_t rows = shape.rows ? shape.rows : 1; /* a map has no empty side; nothing is read */
    uint64_t sizes[3] = {(uint64_t)shape.in, (uint64_t)shape.out, (uint64_t)shape.experts};
    uint64_t strides[2] = {(uint64_t)shape.in * 4, (uint64_t)(shape.out * shape.in) * 4};
    uint32_t box[3] = {OUT_COLUMNS, 64, 1};
    WeightMaps maps;
    CHECK(map_rows(&maps.dy, dy, rows, shape.out, 64, STEP_K, CU_TENSOR_MAP_SWIZZLE_128B) &&
              map_rows(&maps.x, x, rows, shape.in, 64, STEP_K, CU_TENSOR_MAP_SWIZZLE_128B) &&
              tensor_map_make(&maps.dw, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, dw, 3, sizes, strides, box,
                              CU_TENSOR_MAP_SWIZZLE_128B),
          "a tensor cannot be mapped for TMA: does it begin at a multiple of 16 bytes?");
    WeightWork work = {};
    work.offsets = offsets;
    work.dw = dw;
    work.experts = shape.experts;
    work.out = (int)shape.out;
    work.in = (int)shape.in;
    work.pairs = (int)ceil_div(shape.out, CLUSTER * HALF_TILE);
    work.columns = (int)ceil_div(shape.in, WIDE_TILE);
    work.add = add;
    int tiles = work.experts * work.pairs * work.columns;
    work.parts = parts_of(gpu, shape, tiles);
    work.next = (int *)gpu->workspace; /* cuBLASLt's, whose turn it is not */
    work.added = work.next + 1;
    size_t counters = 1 + (work.parts > 1 ? (size_t)tiles * CLUSTER * 2 : 0);
    CUDA_CHECK(cudaMemsetAsync(work.next, 0, counters * sizeof *work.next, gpu->stream));
    gpu_launch(gpu, grouped_weight_hopper_kernel, gpu->sm_count / CLUSTER * CLUSTER, THREADS,
               SHARED_BYTES, maps, work);
}
