/*
 * wgmma, Hopper's matrix product ("Asynchronous Warpgroup Level Matrix Instructions"). Part of
 * hopper.cuh, which includes it.
 *
 * D (64 x N, F32, registers) = A (64 x 16, BF16) B (16 x N, BF16) + D, by the 128 threads of a
 * warpgroup together.
 *
 * Registers. Warp w of the group owns rows 16 w .. 16 w + 15. Thread t of the warp holds, in
 * d[4 j .. 4 j + 3], columns 8 j + 2 (t % 4) and + 1 of row t / 4, then of row t / 4 + 8. A from
 * registers has mma.m16n8k16's layout (mma.cuh): d[8 k .. 8 k + 7], rounded and packed in pairs,
 * is the A of K step k.
 *
 * Shared memory. Tiles are stored in blocks 64 numbers (128 bytes) wide: element (r, c) of a block
 * lies in row r, and of the row's eight 16-byte pieces the one at c / 8 ^ r % 8. This swizzle is
 * what TMA writes with CU_TENSOR_MAP_SWIZZLE_128B; it spreads a column of pieces over all 32 banks.
 * A block starts at a multiple of 1024 bytes.
 *
 *   K-major   a row is an m (or n), and runs along k. Eight rows are 1024 bytes; the 16 k's of one
 *             instruction are 32 bytes of each row, so the next K step's descriptor is desc + 2
 *             (addresses count in 16 bytes).
 *   MN-major  a row is a k, and runs along m (or n). The 16 k's of one instruction are 2 groups of
 *             8 rows, 1024 bytes apart; the next K step starts 2048 bytes on: desc + 128. N > 64
 *             takes several blocks, `block_bytes` apart.
 *
 * FP8 (E4M3): a number is one byte, so a block is 128 numbers wide, one instruction multiplies 32
 * k's, and they are 32 bytes again. Both operands are K-major: there is no other way for bytes.
 */
#ifndef COMMON_WGMMA_CUH
#define COMMON_WGMMA_CUH

#include "common/cuda/hopper.cuh"

#if HOPPER_CODE

__device__ __forceinline__ uint64_t wgmma_descriptor(const void *shared, int leading_bytes,
                                                     int stride_bytes) {
    uint64_t address = shared_address(shared) & 0x3FFFF;
    return address >> 4 | (uint64_t)(leading_bytes >> 4) << 16 |
           (uint64_t)(stride_bytes >> 4) << 32 | (uint64_t)1 << 62; /* 1: 128-byte swizzle */
}
__device__ __forceinline__ uint64_t wgmma_k_major(const void *shared) {
    return wgmma_descriptor(shared, 16, 1024); /* the leading offset is not used */
}
__device__ __forceinline__ uint64_t wgmma_mn_major(const void *shared, int block_bytes) {
    return wgmma_descriptor(shared, block_bytes, 1024);
}
enum { WGMMA_K_STEP = 32 >> 4, WGMMA_MN_STEP = 2048 >> 4 }; /* descriptor increments for 16 k's */

/* Byte offset of element (row, column) in one swizzled block, for threads that read or write a tile
 * themselves. */
__device__ __forceinline__ int swizzle_128(int row, int column) {
    return row * 128 + ((column / 8 ^ row % 8) * 16) + column % 8 * 2;
}

/*
 * stmatrix, ldmatrix's counterpart: four 8 x 8 blocks of 16-bit numbers from the registers'
 * fragment layout to shared memory; thread t gives the address of row t % 8 of block t / 8.
 */
__device__ __forceinline__ void stmatrix_x4(void *row, const uint32_t *r) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
/* The same, each block transposed. */
__device__ __forceinline__ void stmatrix_x4_transposed(void *row, const uint32_t *r) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

/* Tells the compiler that these registers change here: it must not move their uses across. No
 * instruction. */
template <int N> __device__ __forceinline__ void wgmma_touch(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i]));
}
template <int N> __device__ __forceinline__ void wgmma_touch(uint32_t (&a)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(a[i]));
}

/*
 * Before the first wgmma that reads registers or an accumulator which other instructions wrote.
 * Name these registers: the compiler would otherwise compute them after the fence, notice, and put
 * a second one in (C7519), or give up on running wgmmas side by side (C7520).
 */
template <typename... Registers> __device__ __forceinline__ void wgmma_fence(Registers &...d) {
    (wgmma_touch(d), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/* The wgmmas since the last commit become a group, to be waited for together. */
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most N of the newest groups still run; the accumulators named are then ready to be
 * read. */
template <int N, typename... Registers>
__device__ __forceinline__ void wgmma_wait(Registers &...d) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
    (wgmma_touch(d), ...);
}

/*
 * Wgmma<N>::shared<A_MN, B_MN>(d, a, b, accumulate): A and B from shared memory, descriptors a, b.
 *
 * Wgmma<N>::registers<B_MN>(d, a, b, accumulate): A from registers. ::halves: the same in half
 * precision.
 *
 * Wgmma<N>::fp8(d, a, b, accumulate): 64 x 32 by 32 x N numbers in E4M3, from shared memory;
 * ::fp8_registers: A from registers, whose layout is that of 16-bit numbers for pairs of codes. The
 * sums inside one instruction, and d while it accumulates, keep fewer bits than F32 has
 * (08_quant/fp8_rungs.h measures it).
 *
 * A_MN / B_MN: 1 when that operand is MN-major. accumulate 0 overwrites d.
 */
template <int N> struct Wgmma;

/* "%0, %1, ..." for the first 8 n accumulators, and the operands that belong to them. */
#define WGMMA_R1  "%0,%1,%2,%3,%4,%5,%6,%7"
#define WGMMA_R2  WGMMA_R1 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define WGMMA_R3  WGMMA_R2 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define WGMMA_R4  WGMMA_R3 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_R5  WGMMA_R4 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define WGMMA_R6  WGMMA_R5 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define WGMMA_R7  WGMMA_R6 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define WGMMA_R8  WGMMA_R7 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_R9  WGMMA_R8 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define WGMMA_R10 WGMMA_R9 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define WGMMA_R11 WGMMA_R10 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define WGMMA_R12 WGMMA_R11 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define WGMMA_R13 WGMMA_R12 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define WGMMA_R14 WGMMA_R13 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define WGMMA_R15 WGMMA_R14 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define WGMMA_R16 WGMMA_R15 ",%120,%121,%122,%123,%124,%125,%126,%127"
#define WGMMA_D(i)                                                                              \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_D1  WGMMA_D(0)
#define WGMMA_D2  WGMMA_D1, WGMMA_D(8)
#define WGMMA_D3  WGMMA_D2, WGMMA_D(16)
#define WGMMA_D4  WGMMA_D3, WGMMA_D(24)
#define WGMMA_D5  WGMMA_D4, WGMMA_D(32)
#define WGMMA_D6  WGMMA_D5, WGMMA_D(40)
#define WGMMA_D7  WGMMA_D6, WGMMA_D(48)
#define WGMMA_D8  WGMMA_D7, WGMMA_D(56)
#define WGMMA_D9  WGMMA_D8, WGMMA_D(64)
#define WGMMA_D10 WGMMA_D9, WGMMA_D(72)
#define WGMMA_D11 WGMMA_D10, WGMMA_D(80)
#define WGMMA_D12 WGMMA_D11, WGMMA_D(88)
#define WGMMA_D13 WGMMA_D12, WGMMA_D(96)
#define WGMMA_D14 WGMMA_D13, WGMMA_D(104)
#define WGMMA_D15 WGMMA_D14, WGMMA_D(112)
#define WGMMA_D16 WGMMA_D15, WGMMA_D(120)

/* groups = N / 16; i0 .. i6 are the numbers of the operands after the N / 2 accumulators. */
#define WGMMA_DEFINE(N, groups, i0, i1, i2, i3, i4, i5, i6)                                        \
    template <> struct Wgmma<N> {                                                                  \
        template <int A_MN, int B_MN>                                                              \
        static __device__ __forceinline__ void shared(float (&d)[N / 2], uint64_t a, uint64_t b,   \
                                                      int accumulate) {                            \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i2 ", 0;\n"                         \
                         "wgmma.mma_async.sync.aligned.m64n" #N                                    \
                         "k16.f32.bf16.bf16 {" WGMMA_R##groups                                     \
                         "}, %" #i0 ", %" #i1 ", p, 1, 1, %" #i3 ", %" #i4 ";\n}\n"                \
                         : WGMMA_D##groups                                                         \
                         : "l"(a), "l"(b), "r"(accumulate), "n"(A_MN), "n"(B_MN));                 \
        }                                                                                          \
        template <int B_MN>                                                                        \
        static __device__ __forceinline__ void registers(float (&d)[N / 2], const uint32_t *a,     \
                                                         uint64_t b, int accumulate) {             \
            asm volatile(                                                                          \
                "{\n.reg .pred p;\nsetp.ne.b32 p, %" #i5 ", 0;\n"                                  \
                "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" WGMMA_R##groups       \
                "}, {%" #i0 ",%" #i1 ",%" #i2 ",%" #i3 "}, %" #i4 ", p, 1, 1, %" #i6 ";\n}\n"      \
                : WGMMA_D##groups                                                                  \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(B_MN)); \
        }                                                                                          \
        template <int B_MN>                                                                        \
        static __device__ __forceinline__ void halves(float (&d)[N / 2], const uint32_t *a,        \
                                                      uint64_t b, int accumulate) {                \
            asm volatile(                                                                          \
                "{\n.reg .pred p;\nsetp.ne.b32 p, %" #i5 ", 0;\n"                                  \
                "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" WGMMA_R##groups         \
                "}, {%" #i0 ",%" #i1 ",%" #i2 ",%" #i3 "}, %" #i4 ", p, 1, 1, %" #i6 ";\n}\n"      \
                : WGMMA_D##groups                                                                  \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(B_MN)); \
        }                                                                                          \
        static __device__ __forceinline__ void fp8(float (&d)[N / 2], uint64_t a, uint64_t b,      \
                                                   int accumulate) {                               \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i2 ", 0;\n"                         \
                         "wgmma.mma_async.sync.aligned.m64n" #N                                    \
                         "k32.f32.e4m3.e4m3 {" WGMMA_R##groups "}, %" #i0 ", %" #i1                \
                                                               ", p, 1, 1;\n}\n"                   \
                         : WGMMA_D##groups                                                         \
                         : "l"(a), "l"(b), "r"(accumulate));                                       \
        }                                                                                          \
        static __device__ __forceinline__ void fp8_registers(float (&d)[N / 2], const uint32_t *a, \
                                                             uint64_t b, int accumulate) {         \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i5 ", 0;\n"                         \
                         "wgmma.mma_async.sync.aligned.m64n" #N                                    \
                         "k32.f32.e4m3.e4m3 {" WGMMA_R##groups                                     \
                         "}, {%" #i0 ",%" #i1 ",%" #i2 ",%" #i3 "}, %" #i4 ", p, 1, 1;\n}\n"       \
                         : WGMMA_D##groups                                                         \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));   \
        }                                                                                          \
    };
WGMMA_DEFINE(16, 1, 8, 9, 10, 11, 12, 13, 14)
WGMMA_DEFINE(32, 2, 16, 17, 18, 19, 20, 21, 22)
WGMMA_DEFINE(64, 4, 32, 33, 34, 35, 36, 37, 38)
WGMMA_DEFINE(80, 5, 40, 41, 42, 43, 44, 45, 46)
WGMMA_DEFINE(96, 6, 48, 49, 50, 51, 52, 53, 54)
WGMMA_DEFINE(112, 7, 56, 57, 58, 59, 60, 61, 62)
WGMMA_DEFINE(128, 8, 64, 65, 66, 67, 68, 69, 70)
WGMMA_DEFINE(144, 9, 72, 73, 74, 75, 76, 77, 78)
WGMMA_DEFINE(160, 10, 80, 81, 82, 83, 84, 85, 86)
WGMMA_DEFINE(176, 11, 88, 89, 90, 91, 92, 93, 94)
WGMMA_DEFINE(192, 12, 96, 97, 98, 99, 100, 101, 102)
WGMMA_DEFINE(208, 13, 104, 105, 106, 107, 108, 109, 110)
WGMMA_DEFINE(224, 14, 112, 113, 114, 115, 116, 117, 118)
WGMMA_DEFINE(240, 15, 120, 121, 122, 123, 124, 125, 126)
WGMMA_DEFINE(256, 16, 128, 129, 130, 131, 132, 133, 134)

#endif /* HOPPER_CODE */
#endif
