/*
 * Codes of few bits as BF16, in registers, exactly, without a table or a conversion of the
 * floating-point unit.
 *
 *     q + 8, q + 128    a BF16 between 128 and 256 counts in ones: put four or seven bits of the
 *                       code at its end, and subtract what is too much. The code's eighth bit says
 *                       whether that is 128 or 256
 *     E4M3              sign, four bits of exponent and three of mantissa have the same places in
 *                       BF16, which only counts exponents from another end: times 2^120. Numbers
 *                       below 2^-6 come out right, too. (There is no NaN: its code is 480.)
 *
 * Everything works on two numbers in the halves of a register.
 */
#ifndef COMMON_CODES_CUH
#define COMMON_CODES_CUH

#include "common/cuda/gpu.cuh"

#include <cuda_fp16.h>

/* Four bytes of q, each chosen by four bits: which byte, and 8: its sign, eight times. */
template <uint32_t CHOICE> __device__ __forceinline__ uint32_t choose_bytes(uint32_t q) {
    uint32_t r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(q), "r"(0), "n"(CHOICE));
    return r;
}

__device__ __forceinline__ uint32_t bf16_pair_minus(uint32_t a, uint32_t b) {
    __nv_bfloat162 d = __hsub2(*(__nv_bfloat162 *)&a, *(__nv_bfloat162 *)&b);
    return *(uint32_t *)&d;
}
__device__ __forceinline__ uint32_t bf16_pair_times(uint32_t a, uint32_t b) {
    __nv_bfloat162 d = __hmul2(*(__nv_bfloat162 *)&a, *(__nv_bfloat162 *)&b);
    return *(uint32_t *)&d;
}

/* Two of half precision, the first in the lower half. */
__device__ __forceinline__ uint32_t pack_f16(float a, float b) {
    __half2 h = __floats2half2_rn(a, b);
    return *(uint32_t *)&h;
}
__device__ __forceinline__ uint32_t f16_pair_times(uint32_t a, uint32_t b) {
    __half2 d = __hmul2(*(__half2 *)&a, *(__half2 *)&b);
    return *(uint32_t *)&d;
}

/* (a & mask) | ones, with INVERT (~a & mask) | ones: one instruction, of which the compiler would
 * make two where both are constants. */
template <int INVERT = 0>
__device__ __forceinline__ uint32_t mask_and_set(uint32_t a, uint32_t mask, uint32_t ones) {
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, %3, %4;"
        : "=r"(r)
        : "r"(a), "r"(mask), "r"(ones), "n"(INVERT ? 0xae : 0xea));
    return r;
}

/* Bytes A and B of q. */
template <int A, int B> __device__ __forceinline__ uint32_t int8_pair(uint32_t q) {
    uint32_t pair = choose_bytes<0x4040 | A | B << 8>(q);
    uint32_t number = mask_and_set(pair, 0x007f007fu, 0x43004300u);
    uint32_t too_much = mask_and_set<1>(pair, 0x00800080u, 0x43004300u);
    return bf16_pair_minus(number, too_much);
}

/* Four bits at the lower end of each half. */
__device__ __forceinline__ uint32_t int4_pair(uint32_t pair) {
    return bf16_pair_minus(mask_and_set(pair, 0x000f000fu, 0x43004300u), 0x43084308u);
}

/* Bytes A and B of q. */
template <int A, int B> __device__ __forceinline__ uint32_t e4m3_pair(uint32_t q) {
    /* as 16 bits with a sign, four places up: the sign at the top, then what is cleared */
    uint32_t pair = choose_bytes<A | (8 | A) << 4 | B << 8 | (8 | B) << 12>(q);
    return bf16_pair_times((pair << 4) & 0x87f087f0u, 0x7b807b80u);
}

/* Bytes 0 and 1, then 2 and 3, as half precision, which has all of E4M3's numbers, too: one
 * instruction for two since Ada. NaN stays NaN. */
__device__ __forceinline__ void e4m3_halves(uint32_t (&two)[2], uint32_t q) {
#if __CUDA_ARCH__ >= 890
    asm("{\n"
        ".reg .b16 low, high;\n"
        "mov.b32 {low, high}, %2;\n"
        "cvt.rn.f16x2.e4m3x2 %0, low;\n"
        "cvt.rn.f16x2.e4m3x2 %1, high;\n"
        "}\n"
        : "=r"(two[0]), "=r"(two[1])
        : "r"(q));
#else
    const uint32_t pair[2] = {choose_bytes<0x9180>(q), choose_bytes<0xb3a2>(q)};
    for (int i = 0; i < 2; i++) {
        uint32_t bits = (pair[i] << 7) & 0xbf80bf80u; /* exponents count from another end: 2^8 */
        __half2 d = __hmul2(*(__half2 *)&bits, __half2half2(__ushort_as_half(0x5c00)));
        two[i] = *(uint32_t *)&d | (__vcmpeq2(bits & 0x7fff7fffu, 0x3f803f80u) & 0x7fff7fffu);
    }
#endif
}

#endif
