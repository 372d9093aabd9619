/*
 * Tensor cores since Ampere (sm_80): a warp multiplies 16 x 16 by 16 x 8, its operands in
 * registers.
 *
 *   cp.async   global memory to shared memory, 16 bytes a thread, without a stop in registers
 *   ldmatrix   shared memory to registers, four 8 x 8 blocks at once, in the layout mma wants
 *   mma        D (16 x 8, F32) = A (16 x 16, BF16) B (16 x 8, BF16) + D
 *
 * Layout of the fragments, thread t of the warp (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
 *   d[0], d[1] = row t / 4,     columns 2 (t % 4), + 1        d[2], d[3] = row t / 4 + 8
 *
 *   a[0] = row t / 4, columns 2 (t % 4), + 1
 *
 *   a[1] = row t / 4 + 8, the same columns
 *
 *   a[2], a[3] = the same rows, columns + 8
 *
 *   b[0] = rows 2 (t % 4), + 1 of column t / 4
 *
 *   b[1] = rows + 8 of the same column
 *
 * So two neighbouring d's, rounded and packed in pairs, are the a of the next product: attention's
 * probabilities never leave the registers.
 *
 * On older targets the functions compile to a trap; a launcher must not call such a kernel there.
 */
#ifndef COMMON_MMA_CUH
#define COMMON_MMA_CUH

#include <cuda_bf16.h>
#include <stdint.h>

#define MMA_CODE (__CUDA_ARCH__ >= 800)

/* The 32-bit address that instructions on shared memory take. */
__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Two F32 rounded to BF16 in one register, the first in the lower half. */
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#if MMA_CODE
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&pair;
#endif
}

/* 2^x by the special function unit: 16 results per clock and SM. 2^-inf = 0, and so is
 * everything below 2^-126. */
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 16 bytes, past the L1 cache; zeros are written instead when `valid` is false (nothing is read).
 * */
__device__ __forceinline__ void cp_async_16(void *shared, const void *global, bool valid) {
#if MMA_CODE
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
#else
    __trap();
#endif
}
/* The same with 4 bytes. */
__device__ __forceinline__ void cp_async_4(void *shared, const void *global, bool valid) {
#if MMA_CODE
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(valid ? 4 : 0)
                 : "memory");
#else
    __trap();
#endif
}
__device__ __forceinline__ void cp_async_commit() {
#if MMA_CODE
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/* Waits until at most N of this thread's newest groups are under way. */
template <int N> __device__ __forceinline__ void cp_async_wait() {
#if MMA_CODE
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/* Four 8 x 8 blocks of 16-bit numbers; thread t gives the address of row t % 8 of block t / 8. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t *r, const void *row) {
#if MMA_CODE
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    __trap();
#endif
}
/* The same, each block transposed: for a matrix that lies in memory the other way round. */
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t *r, const void *row) {
#if MMA_CODE
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    __trap();
#endif
}

__device__ __forceinline__ void mma_bf16(float *d, const uint32_t *a, const uint32_t *b) {
#if MMA_CODE
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();
#endif
}

/* The same with A and B in half precision. */
__device__ __forceinline__ void mma_f16(float *d, const uint32_t *a, const uint32_t *b) {
#if MMA_CODE
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();
#endif
}

#endif
