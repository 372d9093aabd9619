/*
 * The product of two tiles in shared memory on Ampere's tensor cores: 64 x 64 sums for a warp, 64
 * k's. What the matrix product and the grouped product share.
 *
 * Rows of a tile are 128 bytes; piece q of row r (16 bytes) lies at q ^ r % 8, so that the eight
 * rows that an ldmatrix reads lie in eight different groups of banks. mma
 * wants k innermost in both operands; one that lies [k][..] instead, in blocks of 64 columns, is
 * transposed by ldmatrix on the way.
 */
#ifndef COMMON_MMA_TILE_CUH
#define COMMON_MMA_TILE_CUH

#include "common/cuda/mma.cuh"

enum { MMA_TILE_K = 64 };

/* The operands of one step of 16 k's: 64 rows of A and 64 columns of B, for this warp. */
struct MmaFragments {
    uint32_t a[4][4], b[4][4];
};

template <bool A_TRANSPOSED, bool B_TRANSPOSED>
__device__ __forceinline__ void mma_tile_load(MmaFragments &f, const char *a, const char *b,
                                              int warp_row, int warp_col, int step) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (A_TRANSPOSED) {
            int k = step * 16 + lane / 16 * 8 + lane % 8, q = 2 * i + lane / 8 % 2;
            ldmatrix_x4_transposed(f.a[i], a + warp_row * (MMA_TILE_K * 128) + k * 128 +
                                               ((q ^ k % 8) * 16));
        } else {
            int row = warp_row * 64 + i * 16 + lane % 16, q = 2 * step + lane / 16;
            ldmatrix_x4(f.a[i], a + row * 128 + ((q ^ row % 8) * 16));
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (B_TRANSPOSED) {
            int k = step * 16 + lane % 16, q = 2 * j + lane / 16;
            ldmatrix_x4_transposed(f.b[j], b + warp_col * (MMA_TILE_K * 128) + k * 128 +
                                               ((q ^ k % 8) * 16));
        } else {
            int n = warp_col * 64 + j * 16 + lane / 16 * 8 + lane % 8, q = 2 * step + lane / 8 % 2;
            ldmatrix_x4(f.b[j], b + n * 128 + ((q ^ n % 8) * 16));
        }
    }
}

/* sum += A B for one pair of tiles. The fragments of the next step are on their way while this
 * step's are multiplied. */
template <bool A_TRANSPOSED, bool B_TRANSPOSED>
__device__ __forceinline__ void mma_tile(float (&sum)[4][8][4], const char *a, const char *b,
                                         int warp_row, int warp_col) {
    MmaFragments f[2];
    mma_tile_load<A_TRANSPOSED, B_TRANSPOSED>(f[0], a, b, warp_row, warp_col, 0);
#pragma unroll
    for (int step = 0; step < MMA_TILE_K / 16; step++) {
        MmaFragments &now = f[step % 2];
        if (step + 1 < MMA_TILE_K / 16)
            mma_tile_load<A_TRANSPOSED, B_TRANSPOSED>(f[(step + 1) % 2], a, b, warp_row, warp_col,
                                                      step + 1);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 8; j++) mma_bf16(sum[i][j], now.a[i], &now.b[j / 2][j % 2 * 2]);
    }
}

#endif
