/*
 * The matrix product on the GPU: the first four rungs (the fifth, for Hopper, is matmul_hopper.cu),
 * and cuBLASLt.
 *
 *     naive      one thread for each c_ij, every operand from memory
 *     shared     a block of threads fetches a tile of A and of B once for all of them
 *     registers  a thread makes 8 x 8 numbers of C: 16 numbers from shared memory feed 64
 *                multiply-adds
 *     tensor     the same tiles on tensor cores (BF16): an instruction does 16 x 8 x 16 of them
 *
 * Each rung asks the same: how many operations for each byte that is fetched, and from where?
 */
#include "01_self_attention/matmul.h"
#include "common/cuda/gpu_matmul.cuh"
#include "common/cuda/mma_tile.cuh"

/* ---- rung 1: one thread, one number of C ----
 * 2 k operations need 2 k numbers: a quarter of an operation for each byte in F32. Neighbouring
 * threads take neighbouring columns, so B is read in whole pieces of 128 bytes, and the caches save
 * the worst. What limits: load instructions. */
template <typename T>
__global__ void naive_kernel(T *c, const T *a, const T *b, int64_t m, int64_t n, int64_t k) {
    int64_t col = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    int64_t row = blockIdx.y * (int64_t)blockDim.y + threadIdx.y;
    if (row >= m || col >= n) return;
    float sum = 0;
    for (int64_t p = 0; p < k; p++) sum += to_float(a[row * k + p]) * to_float(b[p * n + col]);
    c[row * n + col] = from_float<T>(sum);
}

void matmul_naive_cuda(Gpu *gpu, DType dtype, void *c, const void *a, const void *b, int64_t m,
                       int64_t n, int64_t k) {
    if (!m || !n) return;
    dim3 threads(32, 8), blocks(ceil_div(n, 32), ceil_div(m, 8));
    DTYPE_SWITCH(dtype, T, gpu_launch(gpu, naive_kernel<T>, blocks, threads, 0, c, a, b, m, n, k));
}

/* ---- rung 2: tiles in shared memory ----
 * 32 x 32 threads fetch a 32 x 32 tile of A and one of B, one number each, then every number is
 * used 32 times: 8 operations for each byte of memory traffic. What limits: two loads from shared
 * memory for each multiply-add. */
/* [shared] */
template <typename T>
__global__ void shared_kernel(T *c, const T *a, const T *b, int64_t m, int64_t n, int64_t k) {
    __shared__ float tile_a[32][32], tile_b[32][32];
    int x = threadIdx.x, y = threadIdx.y;
    int64_t col = blockIdx.x * 32ll + x, row = blockIdx.y * 32ll + y;
    float sum = 0;
    for (int64_t p0 = 0; p0 < k; p0 += 32) {
        tile_a[y][x] = row < m && p0 + x < k ? to_float(a[row * k + p0 + x]) : 0;
        tile_b[y][x] = p0 + y < k && col < n ? to_float(b[(p0 + y) * n + col]) : 0;
        __syncthreads(); /* the tile is complete */
        for (int p = 0; p < 32; p++) sum += tile_a[y][p] * tile_b[p][x];
        __syncthreads(); /* all threads are done with it */
    }
    if (row < m && col < n) c[row * n + col] = from_float<T>(sum);
}
/* [/shared] */

void matmul_shared_cuda(Gpu *gpu, DType dtype, void *c, const void *a, const void *b, int64_t m,
                        int64_t n, int64_t k) {
    if (!m || !n) return;
    dim3 threads(32, 32), blocks(ceil_div(n, 32), ceil_div(m, 32));
    DTYPE_SWITCH(dtype, T, gpu_launch(gpu, shared_kernel<T>, blocks, threads, 0, c, a, b, m, n, k));
}

/* ---- rung 3: a tile of C in registers ----
 * A block makes 128 x 128 numbers of C, a thread 8 x 8 of them. For each k a thread loads 8 numbers
 * of A and 8 of B from shared memory, as four loads of 16 bytes, and does 64 multiply-adds: the
 * loads no longer matter. The next tiles are on their way from memory to registers while the
 * present ones are multiplied, and go to the other half of the shared memory. What limits: no more
 * than the F32 units could be reached, 67 TFLOPS on an H200, where tensor cores have twelve times
 * as many in BF16. This rung reaches 36 of them and cuBLAS 51; what takes the rest was not
 * profiled. */
enum {
    TILE = 128,
    DEPTH = 8,
    PITCH = TILE + 4 /* keeps the transposed stores off each other's banks */
};
template <typename T>
__global__ void __launch_bounds__(256, 2)
    registers_kernel(T *c, const T *a, const T *b, int64_t m, int64_t n, int64_t k) {
    __shared__ __align__(16) float tile_a[2][DEPTH][PITCH]; /* transposed: [k][row] */
    __shared__ __align__(16) float tile_b[2][DEPTH][PITCH];
    int t = threadIdx.x, tx = t % 16, ty = t / 16;
    int64_t row0 = blockIdx.y * (int64_t)TILE, col0 = blockIdx.x * (int64_t)TILE;
    T next_a[4], next_b[4];
    auto fetch = [&](int64_t p0) {
        for (int i = 0; i < 4; i++) {
            int64_t row = row0 + t / 8 + 32 * i, p = p0 + t % 8;
            next_a[i] = row < m && p < k ? a[row * k + p] : from_float<T>(0);
            int64_t q = p0 + t / 128 + 2 * i, col = col0 + t % 128;
            next_b[i] = q < k && col < n ? b[q * n + col] : from_float<T>(0);
        }
    };
    auto put = [&](int half) {
        for (int i = 0; i < 4; i++) {
            tile_a[half][t % 8][t / 8 + 32 * i] = to_float(next_a[i]);
            tile_b[half][t / 128 + 2 * i][t % 128] = to_float(next_b[i]);
        }
    };
    float sum[8][8] = {};
    fetch(0);
    put(0);
    __syncthreads();
    for (int64_t p0 = 0, half = 0; p0 < k; p0 += DEPTH, half ^= 1) {
        fetch(p0 + DEPTH); /* past the end it brings zeros */
#pragma unroll
        for (int p = 0; p < DEPTH; p++) {
            /* Rows 4 ty .. + 3 and 64 + 4 ty .. + 3: 16 bytes each, and a warp's addresses share no
             * bank. */
            float4 a0 = *(float4 *)&tile_a[half][p][4 * ty];
            float4 a1 = *(float4 *)&tile_a[half][p][64 + 4 * ty];
            float4 b0 = *(float4 *)&tile_b[half][p][4 * tx];
            float4 b1 = *(float4 *)&tile_b[half][p][64 + 4 * tx];
            float x[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
            float y[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) sum[i][j] += x[i] * y[j];
        }
        put(half ^ 1); /* no thread reads that half: all passed the barrier after its last use */
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int64_t row = row0 + i / 4 * 64 + 4 * ty + i % 4;
            int64_t col = col0 + j / 4 * 64 + 4 * tx + j % 4;
            if (row < m && col < n) c[row * n + col] = from_float<T>(sum[i][j]);
        }
}

void matmul_registers_cuda(Gpu *gpu, DType dtype, void *c, const void *a, const void *b, int64_t m,
                           int64_t n, int64_t k) {
    if (!m || !n) return;
    dim3 blocks(ceil_div(n, TILE), ceil_div(m, TILE));
    DTYPE_SWITCH(dtype, T, gpu_launch(gpu, registers_kernel<T>, blocks, 256, 0, c, a, b, m, n, k));
}

/* ---- rung 4: tensor cores ----
 * A block of four warps makes 128 x 128 numbers of C, a warp 64 x 64 of them, in steps of 16 along
 * k: 4 + 4 ldmatrix bring 64 x 16 of A and 16 x 64 of B into registers, and 32 mma instructions
 * multiply them. cp.async fills a ring of three pairs of tiles in shared memory, two ahead of the
 * arithmetic, without passing through registers. (The warp's part is in common/cuda/mma_tile.cuh.)
 * What limits: every operand passes through registers, twice 64 rows of it in every warp, and on
 * Hopper mma.sync reaches only a part of what the tensor cores can do (the next rung). */
enum { BLOCK_K = 64, STAGES = 3, TENSOR_THREADS = 128, TILE_BYTES = 128 * BLOCK_K * 2 };

/* 8 numbers of a row, from memory that may not be aligned and may end within them. */
static __device__ uint4 load_ragged(const bf16 *row, int64_t col, int64_t cols, bool valid) {
    alignas(16) bf16 piece[8];
    for (int i = 0; i < 8; i++)
        piece[i] = valid && col + i < cols ? row[col + i] : from_float<bf16>(0);
    return *(uint4 *)piece;
}

/* ROWS x (8 PIECES) numbers into swizzled shared memory; wider tiles as blocks of 64 columns. A
 * thread keeps its column and goes down by a multiple of 8 rows, so its place in the swizzle stays
 * the same. */
template <bool ALIGNED, int ROWS, int PIECES>
static __device__ __forceinline__ void load_tile(char *shared, const bf16 *x, int64_t row0,
                                                 int64_t col0, int64_t rows, int64_t cols) {
    enum { STEP = TENSOR_THREADS / PIECES };
    int r = threadIdx.x / PIECES, q = threadIdx.x % PIECES;
    int64_t row = row0 + r, col = col0 + 8 * q;
    const bf16 *from = x + row * cols;
    char *to = shared + q / 8 * (ROWS * 128) + r * 128 + ((q % 8 ^ r % 8) * 16);
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++, from += STEP * cols, to += STEP * 128) {
        bool valid = row + i * STEP < rows && col < cols;
        if (ALIGNED) /* the address must be legal even where nothing is read */
            cp_async_16(to, valid ? from + col : x, valid);
        else
            *(uint4 *)to = load_ragged(from, col, cols, valid);
    }
}

/* Blocks are numbered so that those which run at the same time form a square: 8 tile rows, then the
 * next column. They share rows of A and columns of B in the L2 cache. */
static __device__ __forceinline__ void block_position(int64_t m_tiles, int64_t n_tiles, int64_t *im,
                                                      int64_t *in) {
    int64_t group = blockIdx.x / (8 * n_tiles), first = group * 8;
    int64_t height = m_tiles - first < 8 ? m_tiles - first : 8;
    int64_t i = blockIdx.x - group * 8 * n_tiles;
    *im = first + i % height;
    *in = i / height;
}

template <bool ALIGNED>
__global__ void __launch_bounds__(TENSOR_THREADS, 2)
    tensor_kernel(bf16 *c, const bf16 *a, const bf16 *b, int64_t m, int64_t n, int64_t k) {
    extern __shared__ __align__(1024) char shared[];
    int64_t im, in;
    block_position((m + 127) / 128, (n + 127) / 128, &im, &in);
    int64_t row0 = im * 128, col0 = in * 128, steps = (k + BLOCK_K - 1) / BLOCK_K;
    int warp_row = threadIdx.x / 64, warp_col = threadIdx.x / 32 % 2, lane = threadIdx.x % 32;
    auto load = [&](int64_t step) {
        char *at = shared + step % STAGES * (2 * TILE_BYTES);
        if (step < steps) {
            load_tile<ALIGNED, 128, 8>(at, a, row0, step * BLOCK_K, m, k);
            load_tile<ALIGNED, BLOCK_K, 16>(at + TILE_BYTES, b, step * BLOCK_K, col0, k, n);
        }
        cp_async_commit(); /* an empty group keeps the count right */
    };
    float sum[4][8][4] = {};
    for (int s = 0; s < STAGES - 1; s++) load(s);
    for (int64_t step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>(); /* this step's tiles are here (this thread's part) */
        __syncthreads();             /* (all threads' parts), and the tiles of step - 1 are free */
        load(step + STAGES - 1);
        const char *at = shared + step % STAGES * (2 * TILE_BYTES);
        /* B lies [k][n], in blocks of 64 columns: this warp has one */
        mma_tile<false, true>(sum, at, at + TILE_BYTES + warp_col * (BLOCK_K * 128), warp_row, 0);
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int64_t row = row0 + warp_row * 64 + i * 16 + h * 8 + lane / 4;
                int64_t col = col0 + warp_col * 64 + j * 8 + lane % 4 * 2;
                bf16 *to = c + row * n + col;
                uint32_t pair = pack_bf16(sum[i][j][2 * h], sum[i][j][2 * h + 1]);
                if (row < m && col + 1 < n && n % 2 == 0)
                    *(uint32_t *)to = pair;
                else if (row < m && col < n) {
                    to[0] = ((bf16 *)&pair)[0];
                    if (col + 1 < n) to[1] = ((bf16 *)&pair)[1];
                }
            }
}

int matmul_tensor_available(Gpu *gpu, DType dtype) {
    return dtype == BF16 && gpu->compute_capability >= 80 &&
           gpu->shared_memory_max >= STAGES * 2 * TILE_BYTES;
}

void matmul_tensor_cuda(Gpu *gpu, DType dtype, void *c, const void *a, const void *b, int64_t m,
                        int64_t n, int64_t k) {
    CHECK(matmul_tensor_available(gpu, dtype),
          "BF16 tensor cores need sm_80 or newer, this is sm_%d", gpu->compute_capability);
    if (!m || !n) return;
    /* cp.async moves 16 bytes: rows must begin at multiples of 8 numbers. */
    auto kernel = k % 8 == 0 && n % 8 == 0 ? tensor_kernel<true> : tensor_kernel<false>;
    int bytes = STAGES * 2 * TILE_BYTES;
    gpu_launch(gpu, kernel, ceil_div(m, 128) * ceil_div(n, 128), TENSOR_THREADS, bytes, c, a, b, m,
               n, k);
}

/* ---- in use: cuBLASLt ---- */

void matmul_batched_cuda(Gpu *gpu, DType dtype, void *c, int add, const void *a, int transpose_a,
                         const void *b, int transpose_b, int64_t batch, int64_t m, int64_t n,
                         int64_t k, float scale) {
    GpuMatmul product = gpu_product(dtype, dtype, transpose_a, transpose_b, m, n, k);
    product.batch = batch;
    product.stride_a = m * k, product.stride_b = k * n, product.stride_c = m * n;
    product.alpha = scale, product.beta = (float)add;
    gpu_matmul(gpu, &product, c, a, b, NULL);
}
