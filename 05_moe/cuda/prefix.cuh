/*
 * Prefix sums over the experts, made by one block in shared memory.
 */
#ifndef PREFIX_CUH
#define PREFIX_CUH

#include "common/cuda/gpu.cuh"

/* All threads of the block (a multiple of 32, at most 1024): first[e] = count_of(0) + ... +
 * count_of(e - 1) for e = 0 .. n. */
template <typename CountOf>
static __device__ void prefix_table(int *first, int n, CountOf count_of) {
    __shared__ int warp_total[32];
    int t = threadIdx.x, lane = t % 32, warp = t / 32, before = 0;
    for (int base = 0; base < n; base += blockDim.x) {
        int count = base + t < n ? count_of(base + t) : 0, sum = count;
        for (int step = 1; step < 32; step *= 2) {
            int left = __shfl_up_sync(~0u, sum, step);
            if (lane >= step) sum += left;
        }
        if (lane == 31) warp_total[warp] = sum;
        __syncthreads();
        for (int w = 0; w < warp; w++) sum += warp_total[w];
        if (base + t < n) first[base + t] = before + sum - count;
        for (int w = 0; w < (int)blockDim.x / 32; w++) before += warp_total[w];
        __syncthreads();
    }
    if (t == 0) first[n] = before;
    __syncthreads();
}

#endif
