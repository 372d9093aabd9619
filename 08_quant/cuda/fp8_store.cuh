/*
 * Where the sums of the persistent FP8 kernels go: from a part of k to the block that adds up, and
 * from there to memory.
 *
 *     y     BF16, by way of 2 KiB of shared memory for each warp: rows begin anywhere (an expert's
 *           first is at any row), so threads store, in whole pieces of 16 bytes
 *     dW    F32, four bytes for each number where little was multiplied: a tile's way to memory
 *           takes as long as its sums. The copy engine stores it while the next one is multiplied.
 */
#ifndef FP8_STORE_CUH
#define FP8_STORE_CUH

#include "08_quant/cuda/fp8_hopper.cuh"

#if HOPPER_CODE

/* ---- SPLIT: the other parts' sums to the first ---- */

template <typename S, int ACTIVE>
static __device__ __forceinline__ void send_sums(const float (&sum)[S::WAVES][S::N / 2], char *ring,
                                                 Barriers<S> *barriers, int group, int rank) {
    uint32_t to = shared_address(ring + S::SUMS_AT) +
                  ((rank / S::SHARES - 1) * S::GROUPS + group) * S::WAVES * 64 * S::N * 4 +
                  threadIdx.x % 128 * 16;
    uint32_t barrier = shared_address(&barriers->sums_full[group]);
    asm volatile("mapa.shared::cluster.u32 %0, %0, %2;\nmapa.shared::cluster.u32 %1, %1, %2;\n"
                 : "+r"(to), "+r"(barrier)
                 : "r"(rank % S::SHARES));
#pragma unroll
    for (int w = 0; w < ACTIVE; w++)
#pragma unroll
        for (int j = 0; j < S::N / 2; j += 4)
            asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], "
                         "{%2, %3, %4, %5}, [%1];" ::"r"(to + (w * S::N / 8 + j / 4) * 2048),
                         "r"(barrier), "f"(sum[w][j]), "f"(sum[w][j + 1]), "f"(sum[w][j + 2]),
                         "f"(sum[w][j + 3])
                         : "memory");
}

template <typename S, int ACTIVE>
static __device__ __forceinline__ void add_sums(float (&sum)[S::WAVES][S::N / 2], char *ring,
                                                Barriers<S> *barriers, int group, int rank,
                                                uint32_t parity) {
    if (threadIdx.x % 128 == 0)
        mbarrier_expect(&barriers->sums_full[group], (S::SPLIT - 1) * ACTIVE * 64 * S::N * 4);
    mbarrier_wait(&barriers->sums_full[group], parity);
    const char *from =
        ring + S::SUMS_AT + group * S::WAVES * 64 * S::N * 4 + threadIdx.x % 128 * 16;
#pragma unroll
    for (int other = 0; other < S::SPLIT - 1; other++, from += S::M * S::N * 4)
#pragma unroll
        for (int w = 0; w < ACTIVE; w++)
#pragma unroll
            for (int j = 0; j < S::N / 2; j += 4) {
                float4 f = *(const float4 *)(from + (w * S::N / 8 + j / 4) * 2048);
                sum[w][j] += f.x, sum[w][j + 1] += f.y;
                sum[w][j + 2] += f.z, sum[w][j + 3] += f.w;
            }
    __syncwarp();
    for (int part = 1; part < S::SPLIT; part++)
        if (lane_arrives())
            mbarrier_arrive_cluster(&barriers->sums_empty[group], part * S::SHARES + rank);
}

/* ---- storing ---- */

/* A warp's 16 rows of a slice, 64 columns at a time: through 2 KiB of its own, from where rows are
 * read in pieces of 16 bytes. `rows`: how many of the 16 there are. */
template <int N>
static __device__ __forceinline__ void store_rows(bf16 *d, const bf16 *base, int rows, int n,
                                                  int column, const float (&sum)[N / 2],
                                                  char *out) {
    int lane = threadIdx.x % 32, row = lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
    for (int c = 0; c < N; c += 64) {
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 64 && c + j < N; j += 16) {
            const float *s = sum + (c + j) / 2;
            uint32_t r[4] = {pack_bf16(s[0], s[1]), pack_bf16(s[2], s[3]), pack_bf16(s[4], s[5]),
                             pack_bf16(s[6], s[7])};
            stmatrix_x4(out + row * 128 + ((j / 8 + lane / 16) ^ row % 8) * 16, r);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = i * 4 + lane / 8, p = lane % 8, at = column + c + 8 * p;
            if (r >= rows || c + 8 * p >= N || at >= n) continue;
            uint4 piece = *(const uint4 *)(out + r * 128 + (p ^ r % 8) * 16);
            if (base) {
                uint4 old = *(const uint4 *)(base + (int64_t)r * n + at);
                __nv_bfloat162 *x = (__nv_bfloat162 *)&piece, *y = (__nv_bfloat162 *)&old;
#pragma unroll
                for (int j = 0; j < 4; j++) x[j] = __hadd2_rn(x[j], y[j]);
            }
            *(uint4 *)(d + (int64_t)r * n + at) = piece;
        }
    }
}

/* A slice of dW, 32 columns at a time, through two buffers: the copy engine stores, or adds in the
 * L2 cache, while the next tile is multiplied. */
template <int N>
static __device__ __forceinline__ void store_weights(const CUtensorMap *map, int expert, int row,
                                                     int column, int add, const float (&sum)[N / 2],
                                                     char *out, int group) {
    int t = threadIdx.x % 128, r = t / 32 * 16 + t % 32 / 4;
#pragma unroll
    for (int c = 0; c < N; c += 32) {
        char *to = out + c / 32 % 2 * SLICE_BYTES;
        if (t == 0) tma_store_wait_read<1>(); /* the store before the last has left its buffer */
        named_barrier_sync(1 + group, 128);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *d = &sum[c / 2 + 4 * j];
            int place = ((2 * j + t % 4 / 2) ^ r % 8) * 16 + t % 2 * 8; /* 4 numbers a piece */
            *(float2 *)(to + r * 128 + place) = make_float2(d[0], d[1]);
            *(float2 *)(to + (r + 8) * 128 + place) = make_float2(d[2], d[3]);
        }
        async_proxy_fence();
        named_barrier_sync(1 + group, 128);
        if (t == 0) {
            if (add)
                tma_reduce_add_3d(map, to, column + c, row, expert);
            else
                tma_store_3d(map, to, column + c, row, expert);
            tma_store_commit();
        }
    }
}

#endif
#endif
