/*
 * The backward of attention on any GPU, and the choice among the rungs of its ladder.
 *
 * With P = exp(scale Q K^T - lse), which is the forward's softmax without a second pass, and delta
 * = rowsum(dO O):
 *
 *     dV = P^T dO        dS = P (dO V^T - delta)        dQ = scale dS K        dK = scale dS^T Q
 *
 * delta is what the softmax's backward subtracts, sum_j P_ij dP_ij; since o_i = sum_j P_ij v_j, it
 * is also dO_i o_i, which costs D products instead of T (Dao et al. 2022, section B.2).
 *
 * This rung: CUDA cores, F32 sums, every dtype and dimension up to 256. Two kernels, so that no two
 * blocks add to the same number and every run gives the same bits:
 *
 *     owns keys, streams queries:   S^T = K Q^T, dP^T = V dO^T;   dV += P^T dO, dK += dS^T Q
 *     owns queries, streams keys:   S = Q K^T,   dP = dO V^T;     dQ += dS K
 *
 * Seen from the owner, both are one kernel: scores of owned rows against streamed rows, and sums
 * over the streamed rows. Owned and streamed rows lie in shared memory in F32, the sums in
 * registers.
 *
 * Operations: 7 products of 2 T^2 D per head, half of it when causal; S and dP are computed by both
 * kernels. Bytes: the streamed rows once per owned tile, from the L2 cache. What limits: shared
 * memory. A thread computes 4 x 2 scores from 6 vectors of 16 bytes (at D <= 64), which takes as
 * long to load as to multiply.
 */
#include "02_causal/cuda/causal_common.cuh"

enum { SIDE = 16, TILED_THREADS = SIDE * SIDE };

/*
 * D: the dimensions' upper limit, 64, 128 or 256. The sums of a thread, 16 for each gradient, fix
 * the owned rows; shared memory (64 KB on the smallest GPU) the streamed ones. Rows are 4 numbers
 * longer than D: 16-byte loads of 8 neighbouring rows then fall into different banks.
 */
template <int D> struct TiledShared {
    enum { OWNED = 4096 / D, STREAM = 2048 / D, ROW = D + 4, SCORES = STREAM + 4 };
    float owned_qk[OWNED][ROW], owned_v[OWNED][ROW];
    float qk[STREAM][ROW], v[STREAM][ROW];
    float p[OWNED][SCORES]; /* P, then dS */
};

template <typename T> struct TiledArguments {
    T *grad_qk, *grad_v; /* dK and dV, or dQ and nothing */
    int add_qk, add_v;
    const T *q, *k, *v, *d_o;
    const float *lse, *delta; /* [batch, heads, q_len] */
    AttentionShape shape;
};

/* Rows first .. first + rows - 1 of a head, zeros past len and past dim. */
template <int ROW, typename T>
__device__ void fill(float (*tile)[ROW], int rows, const T *head, int64_t stride, int first,
                     int len, int dim) {
    constexpr int D = ROW - 4;
    for (int i = threadIdx.x; i < rows * D; i += TILED_THREADS) {
        int row = i / D, column = i % D;
        bool valid = first + row < len && column < dim;
        tile[row][column] = valid ? to_float(head[(first + row) * stride + column]) : 0;
    }
}

/* d[i][j] = owned row ty + 16 i times streamed row tx + 16 j (of which there may be fewer than 16:
 * the rest repeat). */
template <int D, int STREAM, int I, int J>
__device__ __forceinline__ void dots(float (&d)[I][J], const float (*owned)[D + 4],
                                     const float (*streamed)[D + 4]) {
    int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
#pragma unroll
    for (int i = 0; i < I; i++)
#pragma unroll
        for (int j = 0; j < J; j++) d[i][j] = 0;
#pragma unroll 4
    for (int c = 0; c < D; c += 4) {
        float4 a[I], b[J];
#pragma unroll
        for (int i = 0; i < I; i++) a[i] = *(const float4 *)&owned[ty + SIDE * i][c];
#pragma unroll
        for (int j = 0; j < J; j++)
            b[j] = *(const float4 *)&streamed[min(tx + SIDE * j, STREAM - 1)][c];
#pragma unroll
        for (int i = 0; i < I; i++)
#pragma unroll
            for (int j = 0; j < J; j++) {
                d[i][j] = fmaf(a[i].x, b[j].x, d[i][j]), d[i][j] = fmaf(a[i].y, b[j].y, d[i][j]);
                d[i][j] = fmaf(a[i].z, b[j].z, d[i][j]), d[i][j] = fmaf(a[i].w, b[j].w, d[i][j]);
            }
    }
}

/* sum[i][4 c + ..] += p[owned row ty + 16 i] x streamed rows, columns 4 tx + 64 c .. + 3. */
template <int D, int I, int STREAM>
__device__ __forceinline__ void add_products(float (&sum)[I][D / SIDE],
                                             const float (*p)[STREAM + 4],
                                             const float (*streamed)[D + 4]) {
    int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
    for (int r = 0; r < STREAM; r += 4) {
        float weight[I][4];
#pragma unroll
        for (int i = 0; i < I; i++) *(float4 *)weight[i] = *(const float4 *)&p[ty + SIDE * i][r];
#pragma unroll
        for (int s = 0; s < 4; s++)
#pragma unroll
            for (int c = 0; c < D / 64; c++) {
                float4 x = *(const float4 *)&streamed[r + s][4 * tx + 64 * c];
#pragma unroll
                for (int i = 0; i < I; i++) {
                    float w = weight[i][s], *to = &sum[i][4 * c];
                    to[0] = fmaf(w, x.x, to[0]), to[1] = fmaf(w, x.y, to[1]);
                    to[2] = fmaf(w, x.z, to[2]), to[3] = fmaf(w, x.w, to[3]);
                }
            }
    }
}

template <int D, int I, typename T>
__device__ void write_sums(T *head, int64_t stride, const float (&sum)[I][D / SIDE], float scale,
                           int add, int first, int len, int dim) {
    int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
#pragma unroll
    for (int i = 0; i < I; i++)
#pragma unroll
        for (int c = 0; c < D / SIDE; c++) {
            int row = first + ty + SIDE * i, column = 4 * tx + 64 * (c / 4) + c % 4;
            if (row >= len || column >= dim) continue;
            T *to = head + row * stride + column;
            *to = from_float<T>(sum[i][c] * scale + (add ? to_float(*to) : 0));
        }
}

/* s = P and dp = dS of one tile; the pairs that the mask hides, and those past the ends, get 0. */
template <int I, int J, bool KEYS_OWNED, int STREAM>
__device__ __forceinline__ void scores_backward(float (&s)[I][J], float (&dp)[I][J],
                                                const float *lse, const float *delta,
                                                int first_owned, int first_streamed,
                                                const AttentionShape &shape) {
    int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
#pragma unroll
    for (int i = 0; i < I; i++)
#pragma unroll
        for (int j = 0; j < J; j++) {
            int owner = first_owned + ty + SIDE * i, other = first_streamed + tx + SIDE * j;
            int query = KEYS_OWNED ? other : owner, key = KEYS_OWNED ? owner : other;
            bool seen = query < shape.q_len && key <= last_key(shape, query);
            float p = seen ? expf(s[i][j] * shape.scale - lse[query]) : 0;
            s[i][j] = p;
            dp[i][j] = seen ? p * (dp[i][j] - delta[query]) : 0;
        }
}

template <int I, int J, int STREAM>
__device__ __forceinline__ void share(float (*p)[STREAM + 4], const float (&x)[I][J]) {
    int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
#pragma unroll
    for (int i = 0; i < I; i++)
#pragma unroll
        for (int j = 0; j < J; j++)
            if (tx + SIDE * j < STREAM) p[ty + SIDE * i][tx + SIDE * j] = x[i][j];
}

template <int D, bool KEYS_OWNED, typename T>
__global__ void __launch_bounds__(TILED_THREADS) backward_tiled_kernel(TiledArguments<T> z) {
    typedef TiledShared<D> Shared;
    constexpr int OWNED = Shared::OWNED, STREAM = Shared::STREAM, ROW = Shared::ROW;
    constexpr int I = OWNED / SIDE, J = (STREAM + SIDE - 1) / SIDE;
    extern __shared__ __align__(16) char memory[];
    Shared &sm = *(Shared *)memory;
    const AttentionShape &shape = z.shape;
    int group = shape.heads / shape.kv_heads, batch = blockIdx.z, first = blockIdx.x * OWNED;
    int kv_head = KEYS_OWNED ? blockIdx.y : blockIdx.y / group;
    int head = KEYS_OWNED ? blockIdx.y * group : blockIdx.y,
        last = KEYS_OWNED ? head + group : head + 1;
    int qk_dim = shape.qk_dim, v_dim = shape.v_dim;
    HeadStrides sq = KEYS_OWNED ? shape.k : shape.q, sv = KEYS_OWNED ? shape.v : shape.o;
    int owner = KEYS_OWNED ? kv_head : head, len = KEYS_OWNED ? shape.kv_len : shape.q_len;
    fill<ROW>(sm.owned_qk, OWNED, head_row(KEYS_OWNED ? z.k : z.q, sq, batch, 0, owner), sq.token,
              first, len, qk_dim);
    fill<ROW>(sm.owned_v, OWNED, head_row(KEYS_OWNED ? z.v : z.d_o, sv, batch, 0, owner), sv.token,
              first, len, v_dim);
    int begin = 0, end = KEYS_OWNED ? shape.q_len : keys_seen(shape, first, OWNED);
    if (KEYS_OWNED && shape.causal) begin = max(0, first - (shape.kv_len - shape.q_len));
    HeadStrides tq = KEYS_OWNED ? shape.q : shape.k, tv = KEYS_OWNED ? shape.o : shape.v;
    float sum_qk[I][D / SIDE] = {}, sum_v[KEYS_OWNED ? I : 1][D / SIDE] = {};
    for (; head < last; head++) {
        int from = KEYS_OWNED ? head : kv_head;
        int64_t row = ((int64_t)batch * shape.heads + head) * shape.q_len;
        for (int at = begin; at < end; at += STREAM) {
            __syncthreads();
            fill<ROW>(sm.qk, STREAM, head_row(KEYS_OWNED ? z.q : z.k, tq, batch, 0, from), tq.token,
                      at, end, qk_dim);
            fill<ROW>(sm.v, STREAM, head_row(KEYS_OWNED ? z.d_o : z.v, tv, batch, 0, from),
                      tv.token, at, end, v_dim);
            __syncthreads();
            float s[I][J], dp[I][J];
            dots<D, STREAM>(s, sm.owned_qk, sm.qk);
            dots<D, STREAM>(dp, sm.owned_v, sm.v);
            scores_backward<I, J, KEYS_OWNED, STREAM>(s, dp, z.lse + row, z.delta + row, first, at,
                                                      shape);
            if constexpr (KEYS_OWNED) {
                share<I, J, STREAM>(sm.p, s);
                __syncthreads();
                add_products<D, I, STREAM>(sum_v, sm.p, sm.v);
                __syncthreads();
            }
            share<I, J, STREAM>(sm.p, dp);
            __syncthreads();
            add_products<D, I, STREAM>(sum_qk, sm.p, sm.qk);
        }
    }
    if (z.grad_qk)
        write_sums<D>(head_row(z.grad_qk, sq, batch, 0, owner), sq.token, sum_qk, shape.scale,
                      z.add_qk, first, len, qk_dim);
    if constexpr (KEYS_OWNED)
        if (z.grad_v)
            write_sums<D>(head_row(z.grad_v, sv, batch, 0, owner), sv.token, sum_v, 1, z.add_v,
                          first, len, v_dim);
}

/* A warp for each row of [batch, heads, q_len]. */
template <typename T>
__global__ void delta_kernel(float *delta, const T *d_o, const T *o, AttentionShape shape,
                             int64_t rows) {
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    int t = row % shape.q_len, head = row / shape.q_len % shape.heads;
    int batch = row / shape.q_len / shape.heads;
    const T *a = head_row(d_o, shape.o, batch, t, head), *b = head_row(o, shape.o, batch, t, head);
    float sum = 0;
    for (int i = threadIdx.x % 32; i < shape.v_dim; i += 32)
        sum = fmaf(to_float(a[i]), to_float(b[i]), sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[row] = sum;
}

void causal_delta_cuda(Gpu *gpu, DType dtype, float *delta, const void *d_o, const void *o,
                       AttentionShape shape) {
    int64_t rows = (int64_t)shape.batch * shape.heads * shape.q_len;
    DTYPE_SWITCH(
        dtype, T,
        gpu_launch(gpu, delta_kernel<T>, ceil_div(rows, 8), 256, 0, delta, d_o, o, shape, rows));
}

template <int D, bool KEYS_OWNED, typename T>
static void launch(Gpu *gpu, const TiledArguments<T> &z) {
    auto kernel = backward_tiled_kernel<D, KEYS_OWNED, T>;
    int bytes = sizeof(TiledShared<D>), rows = KEYS_OWNED ? z.shape.kv_len : z.shape.q_len;
    dim3 grid((unsigned)ceil_div(rows, TiledShared<D>::OWNED),
              KEYS_OWNED ? z.shape.kv_heads : z.shape.heads, z.shape.batch);
    gpu_launch(gpu, kernel, grid, TILED_THREADS, bytes, z);
}

template <bool KEYS_OWNED, typename T>
static void launch_by_dim(Gpu *gpu, const TiledArguments<T> &z) {
    int dim = z.shape.qk_dim > z.shape.v_dim ? z.shape.qk_dim : z.shape.v_dim;
    if (dim <= 64)
        launch<64, KEYS_OWNED>(gpu, z);
    else if (dim <= 128)
        launch<128, KEYS_OWNED>(gpu, z);
    else
        launch<256, KEYS_OWNED>(gpu, z);
}

void causal_backward_tiled_cuda(Gpu *gpu, DType dtype, void *dq, int add_q, void *dk, int add_k,
                                void *dv, int add_v, float *scratch, const void *d_o, const void *q,
                                const void *k, const void *v, const void *o, const float *lse,
                                AttentionShape shape) {
    CHECK(shape.qk_dim <= 256 && shape.v_dim <= 256,
          "causal_backward: dimensions %d (q, k) and %d (v), must be at most 256", shape.qk_dim,
          shape.v_dim);
    causal_delta_cuda(gpu, dtype, scratch, d_o, o, shape);
    DTYPE_SWITCH(dtype, T, {
        TiledArguments<T> z = {(T *)dk,      (T *)dv,      add_k,        add_v,
                               (const T *)q, (const T *)k, (const T *)v, (const T *)d_o,
                               lse,          scratch,      shape};
        if (dk || dv) launch_by_dim<true>(gpu, z);
        z.grad_qk = (T *)dq, z.add_qk = add_q;
        if (dq) launch_by_dim<false>(gpu, z);
    });
}

void causal_backward_cuda(Gpu *gpu, DType dtype, void *dq, int add_q, void *dk, int add_k, void *dv,
                          int add_v, float *scratch, const void *d_o, const void *q, const void *k,
                          const void *v, const void *o, const float *lse, AttentionShape shape) {
    auto rung = causal_backward_tiled_cuda;
    if (causal_backward_mma_supports(gpu, dtype, dq, dk, dv, d_o, q, k, v, shape))
        rung = causal_backward_mma_cuda;
    if (causal_backward_hopper_supports(gpu, dtype, dq, dk, dv, d_o, q, k, v, o, shape))
        rung = causal_backward_hopper_cuda;
    rung(gpu, dtype, dq, add_q, dk, add_k, dv, add_v, scratch, d_o, q, k, v, o, lse, shape);
}

/* delta for the lower rungs, dQ in F32 and more for Hopper's. By dtype and dimensions alone:
 * alignment is not known here. */
size_t causal_backward_scratch_cuda(Gpu *gpu, DType dtype, AttentionShape shape) {
    size_t delta = (size_t)shape.batch * shape.heads * shape.q_len * sizeof(float);
    bool hopper = causal_backward_hopper_supports(gpu, dtype, NULL, NULL, NULL, NULL, NULL, NULL,
                                                  NULL, NULL, shape);
    return hopper ? causal_backward_scratch_hopper_cuda(shape) : delta;
}
