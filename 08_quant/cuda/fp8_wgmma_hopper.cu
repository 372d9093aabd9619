/*
 * The FP8 product by wgmma: a block for a tile.
 *
 * What changed against mma.sync: the copy engine (TMA) fills shared memory with whole tiles, and
 * wgmma multiplies from there; registers hold sums and nothing else. What FP8 adds to the BF16
 * kernel (01_self_attention/cuda/matmul_hopper.cu):
 *
 *     step        128 numbers of k are 128 bytes: one step of the ring is one block of scales
 *     promotion   the tensor core starts each step from zero. Its 64 x 128 sums are then multiplied
 *                 by both scales and added to F32 registers, which costs an FMA for each number
 *                 and step: 64 for 256 clocks of the tensor core, while the other warpgroup's
 *                 product runs
 *
 * The promotion is there for the scales, and it also mends Hopper's short accumulator: wgmma adds
 * E4M3 products with fewer bits than F32 has, and over thousands of them the error grows
 * (fp8_accumulate_cuda measures it).
 *
 * Bytes for a step of a tile: 32 KiB for 4.2 million operations, and every tile starts with an
 * empty ring and stores with idle tensor cores: that is what limits, and what the next rung mends.
 */
#include "08_quant/cuda/fp8_codes.cuh"
#include "08_quant/cuda/fp8_hopper.cuh"
#include "08_quant/fp8_rungs.h"

enum { TILE = 128, STAGES = 4, THREADS = 256, STAGE = 2 * TILE * FP8_STEP };

struct Product {
    const float *a_scale, *b_scale; /* NULL: no scales, d in F32 */
    void *d;
    const bf16 *base; /* or NULL */
    int m, n, steps, a_stride;
    int promote; /* steps that the tensor core adds up by itself */
};

template <bool SCALED>
__global__ void __launch_bounds__(THREADS, 1)
    fp8_wgmma_kernel(const __grid_constant__ CUtensorMap map_a,
                     const __grid_constant__ CUtensorMap map_b, Product p) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) char ring[];
    __shared__ uint64_t full[STAGES];
    int t = threadIdx.x, group = t / 128, m0 = blockIdx.x * TILE, n0 = blockIdx.y * TILE;
    int row = m0 + group * 64 + t % 128 / 32 * 16 + t % 32 / 4;
    auto load = [&](int step) {
        char *a = ring + step % STAGES * STAGE;
        uint64_t *barrier = &full[step % STAGES];
        mbarrier_expect(barrier, STAGE);
        tma_load_2d(a, &map_a, barrier, step * FP8_STEP, m0);
        tma_load_2d(a + STAGE / 2, &map_b, barrier, step * FP8_STEP, n0);
    };
    if (t == 0) {
        for (int i = 0; i < STAGES; i++) mbarrier_init(&full[i], 1);
        mbarrier_init_fence();
        for (int step = 0; step < STAGES && step < p.steps; step++) load(step);
    }
    __syncthreads();
    float sum[TILE / 2] = {}, product[TILE / 2];
    for (int step = 0; step < p.steps; step++) {
        float s0 = 1, s1 = 1;
        if (SCALED) {
            const float *a = p.a_scale + (int64_t)step * p.a_stride;
            float b = __ldg(p.b_scale + n0 / FP8_STEP * p.steps + step);
            s0 = row < p.m ? __ldg(a + row) * b : 0;
            s1 = row + 8 < p.m ? __ldg(a + row + 8) * b : 0;
        }
        char *tile = ring + step % STAGES * STAGE;
        mbarrier_wait(&full[step % STAGES], step / STAGES % 2);
        uint64_t a = wgmma_k_major(tile + group * SLICE_BYTES);
        uint64_t b = wgmma_k_major(tile + STAGE / 2);
        int more = !SCALED && step % p.promote > 0;
        wgmma_fence(product);
#pragma unroll
        for (int k = 0; k < FP8_STEP / 32; k++)
            Wgmma<TILE>::fp8(product, a + k * WGMMA_K_STEP, b + k * WGMMA_K_STEP, more || k > 0);
        wgmma_commit();
        wgmma_wait<0>(product);
        __syncthreads(); /* everybody has read this stage */
        if (t == 0 && step + STAGES < p.steps) load(step + STAGES);
        if (SCALED || (step + 1) % p.promote == 0 || step + 1 == p.steps)
#pragma unroll
            for (int j = 0; j < TILE / 2; j++) sum[j] += (j % 4 < 2 ? s0 : s1) * product[j];
    }
#pragma unroll
    for (int j = 0; j < TILE / 2; j += 2) {
        int r = row + j % 4 / 2 * 8, c = n0 + j / 4 * 8 + t % 4 * 2;
        if (r >= p.m || c >= p.n) continue;
        int64_t at = (int64_t)r * p.n + c;
        if (SCALED)
            store_two((bf16 *)p.d + at, p.base ? p.base + at : NULL, sum[j], sum[j + 1]);
        else
            *(float2 *)((float *)p.d + at) = make_float2(sum[j], sum[j + 1]);
    }
#endif
}

template <bool SCALED>
static void launch(Gpu *gpu, const uint8_t *a, const uint8_t *b, int64_t k, Product p) {
    CHECK(
        fp8_hopper_available(gpu, BF16, p.n, k),
        "FP8 by wgmma needs sm_90, results in BF16, n a multiple of 8 and k of 16: this is sm_%d, "
        "n %d, k %lld",
        gpu->compute_capability, p.n, (long long)k);
    if (!p.m) return;
    CUtensorMap map_a, map_b;
    CHECK(map_codes(&map_a, a, p.m, k, TILE) && map_codes(&map_b, b, p.n, k, TILE),
          "a tensor cannot be mapped for TMA: does it begin at a multiple of 16 bytes?");
    p.steps = (int)fp8_blocks(k);
    dim3 grid((unsigned)ceil_div(p.m, TILE), (unsigned)ceil_div(p.n, TILE));
    gpu_launch(gpu, fp8_wgmma_kernel<SCALED>, grid, THREADS, STAGES * STAGE, map_a, map_b, p);
}

void fp8_product_wgmma_cuda(Gpu *gpu, DType dtype, void *d, const void *base, const uint8_t *a,
                            const float *a_scale, const uint8_t *b, const float *b_scale, int64_t m,
                            int64_t n, int64_t k) {
    CHECK(dtype == BF16, "FP8 by wgmma writes BF16, not %s", dtype_name(dtype));
    launch<true>(
        gpu, a, b, k,
        {a_scale, b_scale, d, (const bf16 *)base, (int)m, (int)n, 0, (int)fp8_scale_stride(m), 1});
}

void fp8_accumulate_cuda(Gpu *gpu, float *d, const uint8_t *a, const uint8_t *b, int64_t m,
                         int64_t n, int64_t k, int64_t promote) {
    int steps = promote ? (int)(promote / FP8_STEP) : (int)fp8_blocks(k);
    launch<false>(gpu, a, b, k, {NULL, NULL, d, NULL, (int)m, (int)n, 0, 0, steps});
}
