/*
 * The grouped product on tensor cores by mma.sync: BF16 on every GPU since Ampere.
 *
 * What changed against cuBLAS for every expert: one kernel does all experts and finds out by itself
 * how many rows each of them has (grouped_tiles.cuh). Nothing waits for the host, and small experts
 * run beside each other instead of one after the other.
 *
 * The tile is that of 01_self_attention/cuda/matmul_cuda.cu's tensor rung: 128 x 128 sums for four
 * warps, 64 x 64 each; operands arrive 64 k's at a time by cp.async, three stages deep; two blocks
 * on an SM. Four products are one kernel with other operands:
 *
 *     FORWARD   y  = x W^T     A x [row][k]     B W [out][k]
 *     SWIGLU    h  = silu(x Wg^T) * (x Wu^T)    B 64 rows of Wg and 64 of Wu, so that gate and up
 *                                               of an output lie in the same thread
 *     INPUT     dx = dy W      A dy [row][k]    B W [k][in]
 *     WEIGHT    dW = dy^T x    A dy [k][out]    B x [k][in]     k: the expert's rows
 *
 * An operand that lies [k][...] is transposed by ldmatrix on the way to the registers. A copy
 * beyond the expert's rows, or the matrix's columns, brings zeros and reads nothing.
 *
 * Operations for each byte from the L2 cache: 2 * 128 * 128 * 64 / 32 KiB = 64. What limits: every
 * operand passes through registers, and a tile of 128 rows is done whole for an expert's last few.
 */
#include "05_moe/cuda/grouped_tiles.cuh"
#include "05_moe/grouped_rungs.h"
#include "common/cuda/mma_tile.cuh"

enum Product { FORWARD, SWIGLU, INPUT, WEIGHT };
enum { TILE = 128, TILE_K = 64, STAGES = 3, THREADS = 128, TILE_BYTES = TILE * TILE_K * 2 };

struct MmaWork {
    const bf16 *a, *b, *b2; /* the operands; SWIGLU: b is gate's, b2 up's */
    void *y;                /* bf16; WEIGHT: float */
    bf16 *g, *u;            /* SWIGLU; may be NULL */
    const int32_t *offsets;
    int64_t rows;
    int experts, in, out, columns; /* tiles across the result (SWIGLU: of 64) */
    int add;
};

/* One tile of work: which numbers of A, B and the result. */
struct MmaTile {
    int expert, row, end; /* rows of x: this tile's first, and the end of the expert's */
    int m, n, k_end;      /* WEIGHT: the first of `out` and of `in`; others: n alone */
};

/* 16 bytes of each of ROWS x PIECES: element (r, 8 q), r rows and q pieces from here on, to
 * swizzled shared memory; wider tiles as blocks of 64 columns. from(row) gives the row's address,
 * NULL for zeros. */
template <int ROWS, int PIECES, typename From>
static __device__ __forceinline__ void load_tile(char *shared, const bf16 *any, int col, int cols,
                                                 From from) {
    enum { STEP = THREADS / PIECES };
    int r = threadIdx.x / PIECES, q = threadIdx.x % PIECES, c = col + 8 * q;
    char *to = shared + q / 8 * (ROWS * 128) + r * 128 + ((q % 8 ^ r % 8) * 16);
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++, to += STEP * 128) {
        const bf16 *row = c < cols ? from(r + i * STEP) : NULL;
        cp_async_16(to, row ? row + c : any, row != NULL);
    }
}

/* The operands of k's k .. k + 63. */
template <Product P>
static __device__ __forceinline__ void load_stage(const MmaWork &w, const MmaTile &tile, char *at,
                                                  int k) {
    char *b = at + TILE_BYTES;
    int64_t in = w.in, out = w.out;
    const bf16 *weights = P == WEIGHT ? NULL : w.b + tile.expert * in * out;
    auto x_row = [&](int r) { /* a row of x or dy in A */
                              return tile.row + r < tile.end
                                         ? w.a + (tile.row + r) * (P == INPUT ? out : in)
                                         : NULL;
    };
    if (P == WEIGHT) {
        load_tile<TILE_K, 16>(at, w.a, tile.m, w.out, [&](int r) {
            return tile.row + k + r < tile.end ? w.a + (tile.row + k + r) * out : NULL;
        });
        load_tile<TILE_K, 16>(b, w.b, tile.n, w.in, [&](int r) {
            return tile.row + k + r < tile.end ? w.b + (tile.row + k + r) * in : NULL;
        });
    } else {
        load_tile<TILE, 8>(at, w.a, k, tile.k_end, x_row);
        if (P == INPUT)
            load_tile<TILE_K, 16>(b, w.b, tile.n, w.in, [&](int r) {
                return k + r < w.out ? weights + (k + r) * in : NULL;
            });
        else
            load_tile<TILE, 8>(b, w.b, k, tile.k_end, [&](int r) -> const bf16 * {
                /* SwiGLU: a warp's 64 columns are 32 of gate and 32 of up */
                int n = tile.n + (P == SWIGLU ? r / 64 * 32 + r % 32 : r);
                const bf16 *from =
                    P == SWIGLU && r / 32 % 2 ? w.b2 + tile.expert * in * out : weights;
                return n < w.out ? from + n * in : NULL;
            });
    }
}

/* Two neighbouring numbers of a row, or added to those that are there. */
static __device__ __forceinline__ void put(bf16 *to, int add, float x, float y) {
    if (add) {
        __nv_bfloat162 old = *(__nv_bfloat162 *)to;
        x = __bfloat162float(from_float<bf16>(x)) + __low2float(old);
        y = __bfloat162float(from_float<bf16>(y)) + __high2float(old);
    }
    *(uint32_t *)to = pack_bf16(x, y);
}
static __device__ __forceinline__ void put(float *to, int add, float x, float y) {
    float2 old = add ? *(float2 *)to : make_float2(0, 0);
    *(float2 *)to = make_float2(old.x + x, old.y + y);
}

static __device__ __forceinline__ void store_swiglu(const MmaWork &w, int64_t at, const float *gate,
                                                    const float *up) {
    float h[2];
    for (int e = 0; e < 2; e++) h[e] = __fdividef(gate[e], 1 + __expf(-gate[e])) * up[e];
    put((bf16 *)w.y + at, 0, h[0], h[1]);
    if (!w.g) return;
    put(w.g + at, 0, gate[0], gate[1]);
    put(w.u + at, 0, up[0], up[1]);
}

template <Product P>
static __device__ __forceinline__ void store_sums(const MmaWork &w, const MmaTile &tile,
                                                  const float (&sum)[4][8][4], int warp_row,
                                                  int warp_col) {
    int lane = threadIdx.x % 32, width = P == INPUT || P == WEIGHT ? w.in : w.out;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int r = warp_row * 64 + i * 16 + half * 8 + lane / 4;
            int64_t row = P == WEIGHT ? (int64_t)tile.expert * w.out + tile.m + r : tile.row + r;
            if (P == WEIGHT ? tile.m + r >= w.out : tile.row + r >= tile.end) continue;
#pragma unroll
            for (int j = 0; j < (P == SWIGLU ? 4 : 8); j++) {
                int col = tile.n + warp_col * (P == SWIGLU ? 32 : 64) + j * 8 + lane % 4 * 2;
                if (col >= width) continue;
                int64_t at = row * width + col;
                const float *d = &sum[i][j][2 * half];
                if (P == SWIGLU)
                    store_swiglu(w, at, d, &sum[i][(j + 4) % 8][2 * half]);
                else if (P == WEIGHT)
                    put((float *)w.y + at, w.add, d[0], d[1]);
                else
                    put((bf16 *)w.y + at, w.add, d[0], d[1]);
            }
        }
}

template <Product P>
static __device__ __forceinline__ void work_tile(const MmaWork &w, const MmaTile &tile,
                                                 char *shared) {
    int k_all = P == WEIGHT ? tile.end - tile.row : tile.k_end, warp = threadIdx.x / 32;
    int steps = (k_all + TILE_K - 1) / TILE_K, warp_row = warp / 2, warp_col = warp % 2;
    if (P == WEIGHT && !steps && w.add) return;
    auto load = [&](int step) {
        if (step < steps)
            load_stage<P>(w, tile, shared + step % STAGES * (2 * TILE_BYTES), step * TILE_K);
        cp_async_commit(); /* an empty group keeps the count right */
    };
    float sum[4][8][4] = {};
    __syncthreads(); /* the tile before is read */
    for (int s = 0; s < STAGES - 1; s++) load(s);
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>(); /* this step's operands are here (this thread's part) */
        __syncthreads();             /* (all threads' parts), and those of step - 1 are free */
        load(step + STAGES - 1);
        const char *at = shared + step % STAGES * (2 * TILE_BYTES);
        mma_tile<P == WEIGHT, P == WEIGHT || P == INPUT>(sum, at, at + TILE_BYTES, warp_row,
                                                         warp_col);
    }
    store_sums<P>(w, tile, sum, warp_row, warp_col);
}

template <Product P>
__global__ void __launch_bounds__(THREADS, 2) grouped_mma_kernel(const MmaWork w) {
    extern __shared__ __align__(1024) char shared[];
    int *first = (int *)(shared + STAGES * 2 * TILE_BYTES), expert = 0, total;
    int down = (w.out + TILE - 1) / TILE; /* WEIGHT */
    if (P == WEIGHT)
        total = w.experts * down * w.columns;
    else {
        tile_table<TILE>(first, w.offsets, w.experts);
        total = first[w.experts] * w.columns;
    }
    for (int i = blockIdx.x; i < total; i += gridDim.x) {
        MmaTile tile;
        if (P == WEIGHT) {
            int inside = i % (down * w.columns);
            tile.expert = i / (down * w.columns);
            tile.m = inside % down * TILE;
            tile.n = inside / down * TILE;
            tile.row = w.offsets[tile.expert];
            tile.k_end = 0;
        } else {
            TilePlace place = tile_place(first, w.experts, w.columns, i, expert);
            tile.expert = expert = place.expert;
            tile.m = 0;
            tile.n = place.column * (P == SWIGLU ? TILE / 2 : TILE);
            tile.row = w.offsets[expert] + place.row_tile * TILE;
            tile.k_end = P == INPUT ? w.out : w.in;
        }
        tile.end = w.offsets[tile.expert + 1];
        work_tile<P>(w, tile, shared);
    }
    if (P == INPUT && !w.add) { /* dx of tokens that no expert has */
        int64_t i = w.offsets[w.experts] * (int64_t)w.in / 8, end = w.rows * (int64_t)w.in / 8;
        for (i += blockIdx.x * THREADS + threadIdx.x; i < end; i += gridDim.x * THREADS)
            ((uint4 *)w.y)[i] = make_uint4(0, 0, 0, 0);
    }
}

static int shared_bytes(GroupedShape shape) {
    return STAGES * 2 * TILE_BYTES + (shape.experts + 1) * (int)sizeof(int);
}

/* cp.async moves 16 bytes: rows begin at multiples of 8 numbers. */
int grouped_mma_available(Gpu *gpu, DType dtype, GroupedShape shape) {
    return dtype == BF16 && gpu->compute_capability >= 80 && shape.in % 8 == 0 &&
           shape.out % 8 == 0 && gpu->shared_memory_max >= shared_bytes(shape);
}

/* w: the operands; the rest is filled in here. */
template <Product P>
static void launch(Gpu *gpu, DType dtype, MmaWork w, const int32_t *offsets, GroupedShape shape) {
    CHECK(grouped_mma_available(gpu, dtype, shape),
          "BF16 tensor cores need sm_80 or newer, and in and out that are multiples of 8: this is "
          "sm_%d, %s, in %lld, out %lld",
          gpu->compute_capability, dtype_name(dtype), (long long)shape.in, (long long)shape.out);
    if (!shape.experts || (!shape.rows && P != WEIGHT)) return;
    w.offsets = offsets;
    w.rows = shape.rows;
    w.experts = shape.experts;
    w.in = (int)shape.in;
    w.out = (int)shape.out;
    int64_t across = P == INPUT || P == WEIGHT ? shape.in : shape.out;
    w.columns = (int)ceil_div(across, P == SWIGLU ? TILE / 2 : TILE);
    auto kernel = grouped_mma_kernel<P>;
    int bytes = shared_bytes(shape), blocks = 0;
    CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, THREADS, bytes));
    gpu_launch(gpu, kernel, gpu->sm_count * (blocks > 0 ? blocks : 1), THREADS, bytes, w);
}

void grouped_forward_mma_cuda(Gpu *gpu, DType dtype, void *y, const void *x, const void *w,
                              const int32_t *offsets, GroupedShape shape) {
    MmaWork work = {(const bf16 *)x, (const bf16 *)w, NULL, y};
    launch<FORWARD>(gpu, dtype, work, offsets, shape);
}

void grouped_swiglu_forward_mma_cuda(Gpu *gpu, DType dtype, void *h, void *g, void *u,
                                     const void *x, const void *gate, const void *up,
                                     const int32_t *offsets, GroupedShape shape) {
    MmaWork work = {(const bf16 *)x, (const bf16 *)gate, (const bf16 *)up, h};
    if (g && u) work.g = (bf16 *)g, work.u = (bf16 *)u;
    launch<SWIGLU>(gpu, dtype, work, offsets, shape);
}

void grouped_backward_input_mma_cuda(Gpu *gpu, DType dtype, void *dx, int add, const void *dy,
                                     const void *w, const int32_t *offsets, GroupedShape shape) {
    MmaWork work = {(const bf16 *)dy, (const bf16 *)w, NULL, dx};
    work.add = add;
    launch<INPUT>(gpu, dtype, work, offsets, shape);
}

void grouped_backward_weight_mma_cuda(Gpu *gpu, DType dtype, float *dw, int add, const void *dy,
                                      const void *x, const int32_t *offsets, GroupedShape shape) {
    MmaWork work = {(const bf16 *)dy, (const bf16 *)x, NULL, dw};
    work.add = add;
    launch<WEIGHT>(gpu, dtype, work, offsets, shape);
}
