/*
 * The FP8 product by mma.sync: tensor cores that take their operands from registers.
 *
 * What changed against the plain rung: a block multiplies 128 x 128 from shared memory, where each
 * byte is read once for 128 numbers of the result, and a warp multiplies 16 x 32 by 32 x 8 in one
 * instruction. A step is 128 numbers of k, the reach of one scale: the tensor core's sums of a step
 * start from zero, are scaled, and are added to F32 registers.
 *
 *     fragments   ldmatrix moves rows of 16 bytes and does not ask what they hold. The layout of
 *                 m16n8k32 is that of m16n8k16 with four bytes where two halves were.
 *     sm_80       has no FP8. The same registers hold pairs of codes that BF16 can hold exactly:
 *                 one instruction becomes two, the first with bytes 0 and 1 of each four, the
 *                 second with 2 and 3. Which k's those are does not matter: A and B agree.
 *
 * Bytes: 32 KiB of shared memory for 4.2 million operations. What limits: every fragment travels
 * through registers, 4 ldmatrix for 8 mma.
 */
#include "08_quant/cuda/fp8_codes.cuh"
#include "08_quant/fp8_rungs.h"
#include "common/cuda/mma.cuh"

enum { TILE = 128, THREADS = 256, STAGES = 3, TILE_BYTES = TILE * FP8_STEP };
enum { SHARED_BYTES = STAGES * 2 * TILE_BYTES };

struct Product {
    bf16 *d;
    const bf16 *base; /* or NULL */
    const uint8_t *a, *b;
    const float *a_scale, *b_scale;
    int m, n, k, steps, a_stride;
};

/* D += A B, 16 x 32 by 32 x 8. */
static __device__ __forceinline__ void mma_fp8(float *d, const uint32_t *a, const uint32_t *b) {
#if __CUDA_ARCH__ >= 890
    asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    uint32_t low[4], high[4], b_low[2], b_high[2];
#pragma unroll
    for (int i = 0; i < 4; i++) bf16_of_codes(a[i], &low[i], &high[i]);
#pragma unroll
    for (int i = 0; i < 2; i++) bf16_of_codes(b[i], &b_low[i], &b_high[i]);
    mma_bf16(d, low, b_low);
    mma_bf16(d, high, b_high);
#endif
}

/* 128 rows of 128 bytes, pieces of 16 swizzled; zeros for what lies outside. */
static __device__ __forceinline__ void load_tile(char *to, const uint8_t *x, int row, int rows,
                                                 int k0, int k) {
    for (int i = threadIdx.x; i < TILE * 8; i += THREADS) {
        int r = i / 8, piece = i % 8, at = k0 + piece * 16;
        bool inside = row + r < rows && at < k;
        cp_async_16(to + r * 128 + (piece ^ r % 8) * 16,
                    inside ? x + (int64_t)(row + r) * k + at : x, inside);
    }
}

static __device__ __forceinline__ const char *piece_of(const char *tile, int row, int piece) {
    return tile + row * 128 + (piece ^ row % 8) * 16;
}

__global__ void __launch_bounds__(THREADS) fp8_mma_kernel(Product p) {
    extern __shared__ __align__(128) char shared[];
    int t = threadIdx.x, lane = t % 32, warp = t / 32;
    int m0 = blockIdx.x * TILE, n0 = blockIdx.y * TILE;
    int wm = warp % 2 * 64, wn = warp / 2 * 32; /* the warp's 64 x 32 */
    auto load = [&](int step) {
        char *to = shared + step % STAGES * 2 * TILE_BYTES;
        if (step < p.steps) {
            load_tile(to, p.a, m0, p.m, step * FP8_STEP, p.k);
            load_tile(to + TILE_BYTES, p.b, n0, p.n, step * FP8_STEP, p.k);
        }
        cp_async_commit();
    };
    for (int step = 0; step < STAGES - 1; step++) load(step);
    float sum[4][4][4] = {};
    for (int step = 0; step < p.steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); /* this step has come, and everybody is done with the one before */
        load(step + STAGES - 1);
        const char *a = shared + step % STAGES * 2 * TILE_BYTES, *b = a + TILE_BYTES;
        float sb = __ldg(p.b_scale + n0 / FP8_STEP * p.steps + step);
#pragma unroll
        for (int half = 0; half < 4; half += 2) { /* of the warp's rows, for registers' sake */
            float product[2][4][4] = {};
#pragma unroll
            for (int k = 0; k < 8; k += 2) { /* pieces of 16: 32 numbers */
                uint32_t fa[2][4], fb[2][4];
                for (int i = 0; i < 2; i++)
                    ldmatrix_x4(fa[i],
                                piece_of(a, wm + (half + i) * 16 + lane % 16, k + lane / 16));
                for (int j = 0; j < 2; j++)
                    ldmatrix_x4(fb[j], piece_of(b, wn + j * 16 + lane / 16 * 8 + lane % 8,
                                                k + lane / 8 % 2));
                for (int i = 0; i < 2; i++)
                    for (int j = 0; j < 4; j++)
                        mma_fp8(product[i][j], fa[i], &fb[j / 2][j % 2 * 2]);
            }
            for (int i = 0; i < 2; i++) {
                int row = m0 + wm + (half + i) * 16 + lane / 4;
                const float *sa = p.a_scale + (int64_t)step * p.a_stride + row;
                float s0 = row < p.m ? __ldg(sa) * sb : 0;
                float s1 = row + 8 < p.m ? __ldg(sa + 8) * sb : 0;
                for (int j = 0; j < 4; j++)
                    for (int e = 0; e < 4; e++)
                        sum[half + i][j][e] += (e < 2 ? s0 : s1) * product[i][j][e];
            }
        }
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e += 2) {
                int r = m0 + wm + i * 16 + lane / 4 + e * 4, c = n0 + wn + j * 8 + lane % 4 * 2;
                int64_t at = (int64_t)r * p.n + c;
                if (r < p.m && c < p.n)
                    store_two(p.d + at, p.base ? p.base + at : NULL, sum[i][j][e],
                              sum[i][j][e + 1]);
            }
}

int fp8_mma_available(Gpu *gpu, DType dtype, int64_t n, int64_t k) {
    return dtype == BF16 && gpu->compute_capability >= 80 && n % 2 == 0 && k % 16 == 0 && k > 0 &&
           gpu->shared_memory_max >= SHARED_BYTES;
}

void fp8_product_mma_cuda(Gpu *gpu, DType dtype, void *d, const void *base, const uint8_t *a,
                          const float *a_scale, const uint8_t *b, const float *b_scale, int64_t m,
                          int64_t n, int64_t k) {
    CHECK(fp8_mma_available(gpu, dtype, n, k),
          "FP8 by mma needs sm_80, results in BF16, n a multiple of 2 and k of 16: this is sm_%d, "
          "%s, n %lld, k %lld",
          gpu->compute_capability, dtype_name(dtype), (long long)n, (long long)k);
    if (!m || !n) return;
    Product p = {
        (bf16 *)d,          (const bf16 *)base,      a, b, a_scale, b_scale, (int)m, (int)n, (int)k,
        (int)fp8_blocks(k), (int)fp8_scale_stride(m)};
    dim3 grid((unsigned)ceil_div(m, TILE), (unsigned)ceil_div(n, TILE));
    gpu_launch(gpu, fp8_mma_kernel, grid, THREADS, SHARED_BYTES, p);
}
