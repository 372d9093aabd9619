/*
 * The router on the GPU: a warp for each token, everything between logits and weights in one
 * kernel (router.cuh).
 *
 * Bytes: E logits read and E scores written for each token; for V3's 8192 x 256 that is 16 MB, 4
 * microseconds on an H200. It takes 46 with V3's groups and 20 without. What limits: the
 * instructions of the choosing, one candidate after the other.
 */
#include "05_moe/cuda/router.cuh"

enum { WARPS = 4 }; /* of a block, a token each */

/* ---- forward ---- */

template <int V>
__global__ void __launch_bounds__(32 * WARPS)
    route_kernel(float *scores, int32_t *indices, float *weights, int32_t *status,
                 const float *logits, const float *bias, const RouteShape shape) {
    int64_t n = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
    if (n >= shape.tokens) return;
    bool bad = route_token<V>(scores + n * shape.experts, indices + n * shape.top_k,
                              weights + n * shape.top_k, logits + n * shape.experts, bias, shape);
    if (bad) report_bad(status, n);
}

/* A thread for each token: K is small, and most tokens keep what they have. */
__global__ void route_replay_kernel(int32_t *indices, float *weights, const int32_t *replay,
                                    const float *scores, const RouteShape shape) {
    int64_t n = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (n >= shape.tokens) return;
    int k = shape.top_k;
    int32_t *chosen = indices + n * k;
    const int32_t *instead = replay + n * k;
    float *w = weights + n * k, sum = 0;
    bool bad = isnan(w[0]), same = true;
    for (int j = 0; j < k; j++) same &= chosen[j] == instead[j];
    if (same || instead[0] == ROUTE_FREE) return;
    for (int j = 0; j < k; j++) {
        chosen[j] = instead[j];
        sum += w[j] = chosen[j] < 0 ? 0 : scores[n * shape.experts + chosen[j]];
    }
    float factor = shape.norm ? shape.scale / (sum + 1e-20f) : shape.scale;
    for (int j = 0; j < k; j++) w[j] = bad ? NAN : w[j] * factor;
}

/* ---- backward ---- */

__global__ void __launch_bounds__(32 * WARPS)
    route_weights_backward_kernel(float *dscores, int add, const float *dweights,
                                  const float *weights, const float *scores, const int32_t *indices,
                                  const RouteShape shape) {
    int64_t n = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
    if (n >= shape.tokens) return;
    int lane = threadIdx.x % 32, k = shape.top_k;
    float *ds = dscores + n * shape.experts, sum = 0, dot = 0;
    const float *s = scores + n * shape.experts, *dw = dweights + n * k, *w = weights + n * k;
    const int32_t *chosen = indices + n * k;
    if (!add)
        for (int e = lane; e < shape.experts; e += 32) ds[e] = 0;
    if (chosen[0] < 0) return; /* nobody */
    if (shape.norm) {
        for (int j = lane; j < k; j += 32) sum += s[chosen[j]], dot += dw[j] * w[j];
        sum = warp_sum(sum), dot = warp_sum(dot);
    }
    __syncwarp(); /* the zeros are there */
    for (int j = lane; j < k; j += 32)
        ds[chosen[j]] +=
            shape.norm ? (shape.scale * dw[j] - dot) / (sum + 1e-20f) : shape.scale * dw[j];
}

__global__ void __launch_bounds__(32 * WARPS)
    route_scores_backward_kernel(float *dlogits, int add, const float *dscores, const float *scores,
                                 const RouteShape shape) {
    int64_t n = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
    if (n >= shape.tokens) return;
    int lane = threadIdx.x % 32;
    float *dz = dlogits + n * shape.experts, dot = 0;
    const float *ds = dscores + n * shape.experts, *s = scores + n * shape.experts;
    if (!shape.sigmoid) {
        for (int e = lane; e < shape.experts; e += 32) dot += ds[e] * s[e];
        dot = warp_sum(dot);
    }
    for (int e = lane; e < shape.experts; e += 32) {
        float g = shape.sigmoid ? ds[e] * s[e] * (1 - s[e]) : s[e] * (ds[e] - dot);
        dz[e] = add ? dz[e] + g : g;
    }
}

/* ---- launches ---- */

static unsigned blocks_for(RouteShape shape) { return (unsigned)ceil_div(shape.tokens, WARPS); }

void route_forward_cuda(Gpu *gpu, DType dtype, float *scores, int32_t *indices, float *weights,
                        int32_t *status, const float *logits, const float *bias, RouteShape shape) {
    (void)dtype;
    CHECK(shape.experts <= ROUTER_MAX_EXPERTS, "router: %d experts, at most %d fit a warp",
          shape.experts, ROUTER_MAX_EXPERTS);
    if (!shape.tokens) return;
    auto kernel = shape.experts <= 32    ? route_kernel<1>
                  : shape.experts <= 64  ? route_kernel<2>
                  : shape.experts <= 128 ? route_kernel<4>
                  : shape.experts <= 256 ? route_kernel<8>
                                         : route_kernel<ROUTER_MAX_EXPERTS / 32>;
    gpu_launch(gpu, kernel, blocks_for(shape), 32 * WARPS, 0, scores, indices, weights, status,
               logits, bias, shape);
}

void route_replay_cuda(Gpu *gpu, DType dtype, int32_t *indices, float *weights,
                       const int32_t *replay, const float *scores, RouteShape shape) {
    (void)dtype;
    if (!shape.tokens) return;
    gpu_launch(gpu, route_replay_kernel, (unsigned)ceil_div(shape.tokens, 128), 128, 0, indices,
               weights, replay, scores, shape);
}

void route_weights_backward_cuda(Gpu *gpu, DType dtype, float *dscores, int add,
                                 const float *dweights, const float *weights, const float *scores,
                                 const int32_t *indices, RouteShape shape) {
    (void)dtype;
    if (!shape.tokens) return;
    gpu_launch(gpu, route_weights_backward_kernel, blocks_for(shape), 32 * WARPS, 0, dscores, add,
               dweights, weights, scores, indices, shape);
}

void route_scores_backward_cuda(Gpu *gpu, DType dtype, float *dlogits, int add,
                                const float *dscores, const float *scores, RouteShape shape) {
    (void)dtype;
    if (!shape.tokens) return;
    gpu_launch(gpu, route_scores_backward_kernel, blocks_for(shape), 32 * WARPS, 0, dlogits, add,
               dscores, scores, shape);
}
