/*
 * Rows of eight bits (latent_row.h) on the GPU: written by a warp, read number by number.
 */
#ifndef LATENT_ROW_CUH
#define LATENT_ROW_CUH

#include "04_mla/latent_row.h"
#include "common/cuda/gpu.cuh"

#include <cuda_fp8.h>

/* A row from numbers c(i) and k(i); called by a warp. A lane has four neighbours of each group. */
template <typename C, typename K>
__device__ __forceinline__ void latent_row_write(unsigned char *row, int c_width, int rope_width,
                                                 C c, K k) {
    int lane = threadIdx.x % 32;
    for (int first = 0; first < c_width; first += LATENT_GROUP) {
        int mine = first + 4 * lane;
        float x[4] = {}, amax = 0;
        bool bad = false;
        for (int i = 0; i < 4 && mine < c_width; i++) {
            x[i] = c(mine + i);
            amax = fmaxf(amax, fabsf(x[i]));
            bad |= !(fabsf(x[i]) <= FLT_MAX);
        }
        bad = __any_sync(~0u, bad);
        float scale = latent_row_scale(bad ? NAN : warp_max(amax)), inverse = 1.0f / scale;
        uint32_t codes = 0;
        for (int i = 0; i < 4; i++)
            codes |= (uint32_t)__nv_cvt_float_to_fp8(x[i] * inverse, __NV_SATFINITE, __NV_E4M3)
                     << 8 * i;
        if (mine < c_width) *(uint32_t *)(row + mine) = codes;
        if (lane == 0)
            *(float *)(row + latent_row_scales(c_width) + first / LATENT_GROUP * 4) = scale;
    }
    for (int i = lane; i < rope_width; i += 32)
        ((bf16 *)(row + latent_row_key(c_width)))[i] = __float2bfloat16_rn(k(i));
}

/* Number i of c_kv, and of k_rope. */
__device__ __forceinline__ float latent_row_c(const unsigned char *row, int i, int c_width) {
    __half_raw h = __nv_cvt_fp8_to_halfraw(row[i], __NV_E4M3);
    float scale = *(const float *)(row + latent_row_scales(c_width) + i / LATENT_GROUP * 4);
    return scale * __half2float(*(__half *)&h);
}
__device__ __forceinline__ float latent_row_k(const unsigned char *row, int i, int c_width) {
    return to_float(((const bf16 *)(row + latent_row_key(c_width)))[i]);
}

#endif
