/*
 * E4M3 on the device, by CUDA's own conversions: one instruction from sm_89 on, a few before.
 */
#ifndef FP8_CODES_CUH
#define FP8_CODES_CUH

#include "common/cuda/gpu.cuh"
#include "common/cuda/mma.cuh"

#include <cuda_fp8.h>

/* To the nearest, ties to even; too large: 448. */
static __device__ __forceinline__ uint8_t code_of(float x) {
    return (uint8_t)__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}

static __device__ __forceinline__ uint32_t four_codes(float a, float b, float c, float d) {
    uint32_t low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
    uint32_t high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
    return low | high << 16;
}

static __device__ __forceinline__ float2 two_of_codes(uint32_t codes) {
    __half2_raw h = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)codes, __NV_E4M3);
    return __half22float2(*(__half2 *)&h);
}
static __device__ __forceinline__ float of_code(uint8_t code) { return two_of_codes(code).x; }

/* Four codes as BF16, which holds each exactly: numbers 0 and 1, 2 and 3. */
static __device__ __forceinline__ void bf16_of_codes(uint32_t codes, uint32_t *low,
                                                     uint32_t *high) {
    float2 a = two_of_codes(codes & 0xffff), b = two_of_codes(codes >> 16);
    *low = pack_bf16(a.x, a.y);
    *high = pack_bf16(b.x, b.y);
}

/* amax / 448, or the next power of two from there up; as fp8_scale() in fp8_cpu.c, bit by bit. */
static __device__ __forceinline__ float scale_of(float amax, int power_of_two) {
    float s = __fdiv_rn(fmaxf(amax, 1e-4f), 448.0f);
    if (power_of_two) {
        uint32_t bits = __float_as_uint(s);
        s = __uint_as_float((bits + 0x7fffff) & 0x7f800000);
    }
    return s;
}

/* Two results that lie side by side, onto those of base, if there is one. */
static __device__ __forceinline__ void store_two(bf16 *d, const bf16 *base, float x, float y) {
    if (base) {
        float2 b = __bfloat1622float2(*(const __nv_bfloat162 *)base);
        x += b.x, y += b.y;
    }
    *(uint32_t *)d = pack_bf16(x, y);
}

#endif
