/*
 * The grouped product on Hopper: forward, forward with SwiGLU, and the gradient of the
 * input.
 *
 * What changed against mma.sync: wgmma multiplies straight from shared memory, the copy engine
 * (TMA) fills it, as in 01_self_attention/cuda/matmul_hopper.cu. What is new is what to do about
 * rows: an expert has any number of them, and its first is at any row of x.
 *
 *     Y^T = W X^T     The tile is computed transposed: 64 rows of wgmma are fixed, its columns are
 *                     not, so the weights go down and the tokens across. A tile has up to 256
 *                     tokens in steps of 16 (or 32: pad()); an expert's rows are cut into tiles of
 *                     equal size (270 into 144 + 126, not 256 + 14).
 *     reading         past the expert's last row TMA brings its neighbour's, and past the last row
 *                     of x zeros. Either makes sums of columns that are not stored.
 *     storing         32 rows at a time: whole boxes by TMA, the last rows of an expert by threads.
 *     transposing     happens on the way to shared memory (stmatrix), and costs nothing.
 *     cluster         two blocks with the same tokens and different weights: 256 x 256 together,
 *                     and the tokens travel once for both.
 *
 * SwiGLU needs gate and up of the same output in the same thread. A thread holds rows r and r + 8
 * of its warp's 16: so one five-dimensional box brings 8 rows of the gate's weights, 8 of up's, and
 * so on; the two tensors are two slices along a dimension whose stride is the distance between
 * them.
 *
 * Operations for each byte from the L2 cache: 2 * 128 * 256 * 64 / (16 + 16 KiB of W and x) = 128.
 * What limits (Nsight Compute on an H200): with 1024 rows for an expert the tensor cores, busy 95 %
 * of the time, and the power the chip may draw, which holds the clock at 1.5 GHz. With 256 rows,
 * where each weight is read for one or two tiles only, memory: 3.4 TB/s, tensor cores at 64 %. With
 * k = 512 the end of a tile: both consumers store at the same time, and neither multiplies.
 */
#include "05_moe/cuda/grouped_hopper.cuh"
#include "05_moe/cuda/grouped_tiles.cuh"

enum Product { FORWARD, SWIGLU, INPUT };

enum { BOX_ROWS = 32, BOX_BYTES = BOX_ROWS * 128, TABLE_EXPERTS = 640 };
enum { SHARED_BYTES = RING_BYTES + 2 * OUT_BYTES };

struct RowsMaps {
    CUtensorMap w[2], x[2]; /* what is multiplied; for INPUT x is dy. INPUT may have two terms */
    CUtensorMap y[3];       /* SWIGLU: h, g, u */
};

struct RowsWork {
    const int32_t *offsets;
    int *next;    /* the scheduler's counter */
    bf16 *y[3];   /* y[1] NULL: g and u are not kept */
    int64_t rows; /* R */
    int experts, out;
    int pairs;             /* cluster tiles across `out` */
    int steps, term_steps; /* of 64 along k, of all terms and of the first */
    int add;               /* INPUT */
    int up_first;          /* SWIGLU: the lower of the two slices is up's */
};

#if HOPPER_CODE

/* Sizes of tiles: wgmma multiplies any multiple of 8 columns, but each size is code of its own. */
static __device__ __forceinline__ int pad(int rows) {
    return rows > 128 ? (rows + 15) / 16 * 16 : (rows + 31) / 32 * 32;
}

/* Tile number i, its place the pair of blocks across `out`; without rows: the end. By a warp;
 * `from` is an expert at or before the tile's own. */
static __device__ __forceinline__ Turn row_tile(const int *first, const RowsWork &work, int i,
                                                int from) {
    if (i >= first[work.experts] * work.pairs) return {};
    TilePlace place = tile_place(first, work.experts, work.pairs, i, from);
    int begin = __ldg(work.offsets + place.expert);
    int all = __ldg(work.offsets + place.expert + 1) - begin;
    int height = pad((all + place.row_tiles - 1) / place.row_tiles);
    int before = place.row_tile * height;
    return {place.expert, place.column, begin + before, min(height, all - before)};
}

/* Where this block's 128 rows of the transposed tile begin in `out`; SwiGLU's are 64 outputs. */
template <Product P> static __device__ __forceinline__ int first_output(Turn tile, int rank) {
    return (tile.place * CLUSTER + rank) * (P == SWIGLU ? HALF_TILE / 2 : HALF_TILE);
}

/* ---- the producer: one warp walks, its first thread gives the orders ---- */

template <Product P>
static __device__ void produce(const RowsMaps &maps, const RowsWork &work, char *ring,
                               Barriers *barriers, int rank) {
    int count = 0;
    for (int turn = 0;; turn++) {
        Turn tile = take_turn(&barriers->turns, turn);
        if (!tile.rows) break;
        int out = first_output<P>(tile, rank);
        int boxes = (pad(tile.rows) + BOX_ROWS - 1) / BOX_ROWS;
        for (int step = 0; step < work.steps; step++, count++) {
            int stage = stage_to_fill(barriers, count);
            int term = step >= work.term_steps, k = (step - term * work.term_steps) * STEP_K;
            if (threadIdx.x == 0) {
                char *w = ring + stage * STAGE_BYTES, *x = w + HALF_BYTES;
                const CUtensorMap *w_map = &maps.w[term], *x_map = &maps.x[term];
                uint64_t *full = &barriers->full[stage];
                mbarrier_expect(full, HALF_BYTES + boxes * BOX_BYTES);
                if (P == FORWARD) tma_load_3d(w, w_map, full, k, out, tile.expert);
                if (P == SWIGLU) tma_load_5d(w, w_map, full, k, 0, 0, out / 8, tile.expert);
                if (P == INPUT)
                    for (int half = 0; half < 2; half++)
                        tma_load_3d(w + half * BLOCK_BYTES, w_map, full, out + 64 * half, k,
                                    tile.expert);
                for (int box = rank; box < boxes; box += CLUSTER)
                    tma_load_2d_multicast(x + box * BOX_BYTES, x_map, full, (1 << CLUSTER) - 1, k,
                                          tile.row + box * BOX_ROWS);
            }
            __syncwarp();
        }
    }
}

/* ---- the consumers ---- */

/* The thread of the consumer, as a number that may differ each time: or else the addresses for all
 * sizes of tiles would be computed before the loop and held in registers, which the sums need. */
static __device__ __forceinline__ int thread_now() {
    int t = threadIdx.x % 128;
    asm volatile("" : "+r"(t));
    return t;
}

/*
 * The sums of tokens 8 j .. 8 j + 7 and on, as bf16, to a staging tile [token][output] whose rows
 * are swizzled as TMA wants them. Plain: 64 outputs, 128 bytes a row, 16 tokens at a time.
 */
static __device__ __forceinline__ void stage_plain(char *to, const float *d, int token) {
    int t = thread_now(), lane = t % 32, warp = t / 32;
    uint32_t r[4] = {pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]), pack_bf16(d[4], d[5]),
                     pack_bf16(d[6], d[7])};
    int row = token + lane / 16 * 8 + lane % 8, piece = 2 * warp + lane / 8 % 2;
    stmatrix_x4_transposed(to + row * 128 + ((piece ^ lane % 8) * 16), r);
}

/* silu(gate) up. Beyond what exp can hold 1 / inf is 0, which is right. */
static __device__ __forceinline__ float swiglu(float gate, float up) {
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1 + exp2_fast(gate * -1.44269504f)));
    return gate * inverse * up;
}

/* 32 outputs, 64 bytes a row, 32 tokens at a time, of which there are 8 * eights (or more); three
 * tiles 2 KiB apart: h, g, u. */
enum { NARROW_BYTES = BOX_ROWS * 64 };
static __device__ __forceinline__ void stage_swiglu(char *to, const float *d, int eights,
                                                    int up_first, int keep) {
    int t = thread_now(), lane = t % 32, warp = t / 32;
    uint32_t h[4], g[4], u[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float gate[2], up[2], y[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float low = j < eights ? d[4 * j + i] : 0, high = j < eights ? d[4 * j + 2 + i] : 0;
            gate[i] = up_first ? high : low;
            up[i] = up_first ? low : high;
            y[i] = swiglu(gate[i], up[i]);
        }
        h[j] = pack_bf16(y[0], y[1]);
        g[j] = pack_bf16(gate[0], gate[1]);
        u[j] = pack_bf16(up[0], up[1]);
    }
    to += lane * 64 + ((warp ^ lane / 2 % 4) * 16);
    stmatrix_x4_transposed(to, h);
    if (keep) {
        stmatrix_x4_transposed(to + NARROW_BYTES, g);
        stmatrix_x4_transposed(to + 2 * NARROW_BYTES, u);
    }
}

/* The first `rows` of a staged box to y, by the consumer's threads: the last rows of an expert. */
template <int PIECES>
static __device__ __forceinline__ void store_rows(bf16 *y, int64_t row, int rows, int column,
                                                  int out, int add, const char *staged) {
    for (int i = thread_now(); i < rows * PIECES; i += 128) {
        int r = i / PIECES, p = i % PIECES, c = column + 8 * p;
        int swizzled = PIECES == 8 ? p ^ r % 8 : p ^ r / 2 % 4;
        if (c >= out) continue;
        uint4 piece = *(const uint4 *)(staged + r * PIECES * 16 + swizzled * 16);
        uint4 *to = (uint4 *)(y + (row + r) * out + c);
        if (add) {
            uint4 old = *to;
            __nv_bfloat162 *a = (__nv_bfloat162 *)&piece, *b = (__nv_bfloat162 *)&old;
            for (int j = 0; j < 4; j++) a[j] = __hadd2_rn(a[j], b[j]);
        }
        *to = piece;
    }
}

/*
 * A 64 x N tile of sums, transposed, to y: a group of rows at a time, through two buffers. What is
 * left over by whole boxes belongs to the last group (pad() sees to that) and is stored after the
 * loop: code that stood in it would stand there for each group, and a tile's way to memory would no
 * longer fit into the cache for instructions.
 */
template <Product P, int N>
static __device__ __forceinline__ void store_tile(const RowsMaps &maps, const RowsWork &work,
                                                  Turn tile, const float (&sum)[N / 2], char *out,
                                                  int consumer, int rank) {
    constexpr int GROUP = P == SWIGLU ? 32 : 64, BUFFER = (N - 1) / GROUP % 2 * BLOCK_BYTES;
    int column = first_output<P>(tile, rank) + consumer * (P == SWIGLU ? 32 : 64);
    bool leader = thread_now() == 0, keep = P == SWIGLU && work.y[1];
    int results = keep ? 3 : 1;
#pragma unroll
    for (int first = 0; first < N; first += GROUP) {
        char *to = out + first / GROUP % 2 * BLOCK_BYTES;
        if (leader) { /* what stood in this buffer has left it */
            if (first)
                tma_store_wait_read<1>();
            else
                tma_store_wait_read<0>();
        }
        named_barrier_sync(1 + consumer, 128);
        if (P == SWIGLU) /* a tile may end with 16 tokens */
            stage_swiglu(to, sum + first / 2, (N - first) / 8, work.up_first, keep);
        else
#pragma unroll
            for (int token = 0; token < GROUP && first + token < N; token += 16)
                stage_plain(to, sum + (first + token) / 2, token);
        async_proxy_fence();
        named_barrier_sync(1 + consumer, 128);
        if (leader) {
#pragma unroll
            for (int box = 0; box < GROUP / BOX_ROWS; box++) {
                int row = tile.row + first + box * BOX_ROWS;
                if (first + (box + 1) * BOX_ROWS > tile.rows) continue;
                for (int i = 0; i < results; i++) {
                    const char *staged = to + (P == SWIGLU ? i * NARROW_BYTES : box * BOX_BYTES);
                    if (P == INPUT && work.add)
                        tma_reduce_add_2d(&maps.y[i], staged, column, row);
                    else
                        tma_store_2d(&maps.y[i], staged, column, row);
                }
            }
            tma_store_commit(); /* an empty group keeps the count right */
        }
    }
    int whole = tile.rows / BOX_ROWS * BOX_ROWS;
    for (int i = 0; i < results; i++)
        store_rows<P == SWIGLU ? 4 : 8>(
            work.y[i], tile.row + whole, tile.rows - whole, column, work.out,
            P == INPUT && work.add,
            out + BUFFER + (P == SWIGLU ? i * NARROW_BYTES : whole % GROUP / BOX_ROWS * BOX_BYTES));
}

template <Product P, int N>
static __device__ __forceinline__ void consume_tile(const RowsMaps &maps, const RowsWork &work,
                                                    Turn tile, char *ring, Barriers *barriers,
                                                    int turn, int consumer, int rank) {
    float sum[N / 2];
    multiply_stages<N, P == INPUT, 0>(sum, ring, barriers, turn * work.steps, work.steps, consumer,
                                      STEP_K);
    store_tile<P, N>(maps, work, tile, sum, ring + RING_BYTES + consumer * OUT_BYTES, consumer,
                     rank);
}

template <Product P>
static __device__ __forceinline__ void consume(const RowsMaps &maps, const RowsWork &work,
                                               char *ring, Barriers *barriers, int consumer,
                                               int rank) {
    for (int turn = 0;; turn++) {
        Turn tile = take_turn(&barriers->turns, turn);
#define TOKENS(n)                                                                   \
    case n:                                                                         \
        consume_tile<P, n>(maps, work, tile, ring, barriers, turn, consumer, rank); \
        break
        switch (pad(tile.rows)) {
            TOKENS(32);
            TOKENS(64);
            TOKENS(96);
            TOKENS(128);
            TOKENS(144);
            TOKENS(160);
            TOKENS(176);
            TOKENS(192);
            TOKENS(208);
            TOKENS(224);
            TOKENS(240);
            TOKENS(256);
        default: /* no rows: the end */
            if (threadIdx.x % 128 == 0) tma_store_wait<0>();
            return;
        }
#undef TOKENS
    }
}

/* dx of tokens that no expert has. */
static __device__ __forceinline__ void clear_rest(const RowsWork &work) {
    int64_t i = work.offsets[work.experts] * (int64_t)work.out / 8;
    int64_t end = work.rows * (int64_t)work.out / 8;
    for (i += blockIdx.x * THREADS + threadIdx.x; i < end; i += gridDim.x * THREADS)
        ((uint4 *)work.y[0])[i] = make_uint4(0, 0, 0, 0);
}
#endif

template <Product P>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    grouped_hopper_kernel(const __grid_constant__ RowsMaps maps,
                          const __grid_constant__ RowsWork work) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) char ring[];
    __shared__ Barriers barriers;
    __shared__ int first[TABLE_EXPERTS + 1];
    if (shared_address(ring) % 1024) __trap(); /* the swizzle counts from multiples of 1024 */
    int rank = cluster_rank(), group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (threadIdx.x == 0) barriers_init(&barriers);
    tile_table<WIDE_TILE>(first, work.offsets, work.experts);
    if (P == INPUT && !work.add) clear_rest(work);
    cluster_sync(); /* no block writes to a barrier of the other before it is there */
    if (group == 0) {
        registers_release<40>();
        if (threadIdx.x < 32) produce<P>(maps, work, ring, &barriers, rank);
        if (threadIdx.x / 32 == 1 && rank == 0) {
            int expert = 0;
            schedule<CLUSTER>(&barriers.turns, work.next, first[work.experts] * work.pairs,
                              [&](int i) {
                                  Turn tile = row_tile(first, work, i, expert);
                                  expert = tile.expert;
                                  return tile;
                              });
        }
    } else {
        registers_take<232>();
        consume<P>(maps, work, ring, &barriers, group - 1, rank);
    }
    cluster_sync(); /* nor leaves while the other may still write to it */
#endif
}

/* ---- the host: maps ---- */

/* TMA wants rows that begin at multiples of 16 bytes; the table has room for TABLE_EXPERTS. */
int grouped_hopper_available(Gpu *gpu, DType dtype, GroupedShape shape) {
    return dtype == BF16 && gpu->compute_capability == 90 && shape.in % 8 == 0 &&
           shape.out % 8 == 0 && shape.in > 0 && shape.out > 0 && shape.experts <= TABLE_EXPERTS;
}

static void check(Gpu *gpu, DType dtype, GroupedShape shape) {
    CHECK(grouped_hopper_available(gpu, dtype, shape),
          "wgmma with TMA needs sm_90, BF16, in and out that are multiples of 8 and at most %d "
          "experts: this is sm_%d, %s, in %lld, out %lld, %d experts",
          TABLE_EXPERTS, gpu->compute_capability, dtype_name(dtype), (long long)shape.in,
          (long long)shape.out, shape.experts);
}

/* W [E, rows, cols] in boxes of one expert. */
static int map_weights(CUtensorMap *map, const void *w, int64_t experts, int64_t rows, int64_t cols,
                       int box_rows) {
    uint64_t sizes[3] = {(uint64_t)cols, (uint64_t)rows, (uint64_t)experts};
    uint64_t strides[2] = {(uint64_t)cols * 2, (uint64_t)(rows * cols) * 2};
    uint32_t box[3] = {64, (uint32_t)box_rows, 1};
    return tensor_map_make(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, w, 3, sizes, strides, box,
                           CU_TENSOR_MAP_SWIZZLE_128B);
}

/* Two tensors [E, out, in] as one: 8 rows of `low`, 8 of `high`, and so on. */
static int map_two_weights(CUtensorMap *map, const char *low, const char *high, GroupedShape s) {
    uint64_t row = (uint64_t)s.in * 2;
    uint64_t sizes[5] = {(uint64_t)s.in, 8, 2, (uint64_t)s.out / 8, (uint64_t)s.experts};
    uint64_t strides[4] = {row, (uint64_t)(high - low), 8 * row, (uint64_t)s.out * row};
    uint32_t box[5] = {64, 8, 2, HALF_TILE / 16, 1};
    return tensor_map_make(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, low, 5, sizes, strides, box,
                           CU_TENSOR_MAP_SWIZZLE_128B);
}

template <Product P>
static void launch(Gpu *gpu, RowsMaps &maps, int mapped, RowsWork &work, const void *x,
                   const void *second_x, int64_t k, GroupedShape shape, int64_t out) {
    if (!shape.rows || !shape.experts) return;
    int narrow = P == SWIGLU;
    mapped &= map_rows(&maps.x[0], x, shape.rows, k, 64, BOX_ROWS, CU_TENSOR_MAP_SWIZZLE_128B);
    if (second_x)
        mapped &=
            map_rows(&maps.x[1], second_x, shape.rows, k, 64, BOX_ROWS, CU_TENSOR_MAP_SWIZZLE_128B);
    for (int i = 0; i < 3; i++) /* without g and u their maps go unused */
        mapped &= map_rows(&maps.y[i], work.y[i] ? work.y[i] : work.y[0], shape.rows, out,
                           narrow ? 32 : 64, BOX_ROWS,
                           narrow ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B);
    CHECK(mapped, "a tensor cannot be mapped for TMA: does it begin at a multiple of 16 bytes?");
    work.rows = shape.rows;
    work.experts = shape.experts;
    work.out = (int)out;
    work.pairs = (int)ceil_div(out, CLUSTER * HALF_TILE / (narrow ? 2 : 1));
    work.term_steps = (int)ceil_div(k, STEP_K);
    work.steps = work.term_steps * (second_x ? 2 : 1);
    work.next = (int *)gpu->workspace; /* cuBLASLt's, whose turn it is not */
    CUDA_CHECK(cudaMemsetAsync(work.next, 0, sizeof *work.next, gpu->stream));
    auto kernel = grouped_hopper_kernel<P>;
    gpu_launch(gpu, kernel, gpu->sm_count / CLUSTER * CLUSTER, THREADS, SHARED_BYTES, maps, work);
}

void grouped_forward_hopper_cuda(Gpu *gpu, DType dtype, void *y, const void *x, const void *w,
                                 const int32_t *offsets, GroupedShape shape) {
    check(gpu, dtype, shape);
    RowsMaps maps;
    RowsWork work = {};
    work.offsets = offsets;
    work.y[0] = (bf16 *)y;
    int mapped = map_weights(&maps.w[0], w, shape.experts, shape.out, shape.in, HALF_TILE);
    launch<FORWARD>(gpu, maps, mapped, work, x, NULL, shape.in, shape, shape.out);
}

void grouped_swiglu_forward_hopper_cuda(Gpu *gpu, DType dtype, void *h, void *g, void *u,
                                        const void *x, const void *gate, const void *up,
                                        const int32_t *offsets, GroupedShape shape) {
    check(gpu, dtype, shape);
    RowsMaps maps;
    RowsWork work = {};
    work.offsets = offsets;
    work.y[0] = (bf16 *)h;
    if (g && u) work.y[1] = (bf16 *)g, work.y[2] = (bf16 *)u;
    work.up_first = (uintptr_t)up < (uintptr_t)gate;
    const char *low = (const char *)(work.up_first ? up : gate);
    const char *high = (const char *)(work.up_first ? gate : up);
    int mapped = map_two_weights(&maps.w[0], low, high, shape);
    launch<SWIGLU>(gpu, maps, mapped, work, x, NULL, shape.in, shape, shape.out);
}

/* dx = or += dy W, and if there is a second dy and W, dx = or += dy W + dy2 W2. */
static void backward_input(Gpu *gpu, DType dtype, void *dx, int add, const void *dy, const void *w,
                           const void *dy2, const void *w2, const int32_t *offsets,
                           GroupedShape shape) {
    check(gpu, dtype, shape);
    RowsMaps maps;
    RowsWork work = {};
    work.offsets = offsets;
    work.y[0] = (bf16 *)dx;
    work.add = add;
    int mapped = map_weights(&maps.w[0], w, shape.experts, shape.out, shape.in, 64);
    if (w2) mapped &= map_weights(&maps.w[1], w2, shape.experts, shape.out, shape.in, 64);
    launch<INPUT>(gpu, maps, mapped, work, dy, dy2, shape.out, shape, shape.in);
}

void grouped_backward_input_hopper_cuda(Gpu *gpu, DType dtype, void *dx, int add, const void *dy,
                                        const void *w, const int32_t *offsets, GroupedShape shape) {
    backward_input(gpu, dtype, dx, add, dy, w, NULL, NULL, offsets, shape);
}

void grouped_swiglu_backward_input_hopper_cuda(Gpu *gpu, DType dtype, void *dx, int add,
                                               const void *dg, const void *gate, const void *du,
                                               const void *up, const int32_t *offsets,
                                               GroupedShape shape) {
    backward_input(gpu, dtype, dx, add, dg, gate, du, up, offsets, shape);
}
