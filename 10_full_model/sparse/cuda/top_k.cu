/*
 * The k largest of each row: the plain kernel, a block for a row, which reads the scores five
 * times, from memory or the L2 cache; and who picks.
 *
 * What limits it: a block is one processor's. With 64 rows half of them have nothing to do, and
 * with one row nearly all.
 */
#include "10_full_model/sparse/cuda/top_k.cuh"

static __global__ void __launch_bounds__(TOP_K_THREADS)
    plain_kernel(int32_t *selected, const float *scores, int k, IndexShape shape) {
    __shared__ TopKShared s;
    int row = blockIdx.x, n = top_k_seen(shape, row);
    int32_t *to = top_k_list(selected, shape, row, k);
    if (n <= k) {
        top_k_all(to, n, k, threadIdx.x, TOP_K_THREADS);
        return;
    }
    const float *x = scores + (int64_t)row * shape.kv_len;
    auto key = [&](int i) { return top_k_ordered(x[i]); };
    TopKThreshold t = {0, 0, k};
    for (int pass = 0; pass < 3; pass++) {
        for (int i = threadIdx.x; i < TOP_K_BINS; i += TOP_K_THREADS) s.bins[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i - (int)(threadIdx.x % 32) < n; i += TOP_K_THREADS) {
            uint32_t mine = i < n ? key(i) : 0;
            top_k_count(s.bins, mine >> top_k_shift(pass) & top_k_mask(pass),
                        i < n && (mine & t.known) == t.key);
        }
        __syncthreads();
        top_k_digit(s, t.left, [&](uint32_t bin) { return (int)s.bins[bin]; });
        top_k_know(t, s, pass);
        __syncthreads(); /* all have read them */
    }
    top_k_counts(s, 0, n, key, t);
    top_k_take(
        s, 0, n, key, [&](int at, int i) { to[at] = i; }, t, 0, 0);
}

void top_k_plain_cuda(Gpu *gpu, DType dtype, int32_t *selected, const float *scores, int k,
                      IndexShape shape) {
    (void)dtype; /* scores are F32 whatever the model is */
    gpu_launch(gpu, plain_kernel, (unsigned)shape.batch * (unsigned)shape.count, TOP_K_THREADS, 0,
               selected, scores, k, shape);
}

void top_k_cuda(Gpu *gpu, DType dtype, int32_t *selected, const float *scores, int k,
                IndexShape shape) {
    if (top_k_hopper_supports(gpu, shape))
        top_k_hopper_cuda(gpu, dtype, selected, scores, k, shape);
    else
        top_k_plain_cuda(gpu, dtype, selected, scores, k, shape);
}
