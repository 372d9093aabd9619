/*
 * The backward of attention with mma.sync (sm_80 and later): BF16 operands, sums in F32.
 *
 * What changed against the rung below (causal_backward_cuda.cu): the products run on the tensor
 * cores, the tiles of the streamed rows arrive by cp.async while the tile before is worked on, and
 * the scores never leave the registers. The plan is the same, two kernels with no sum between
 * blocks:
 *
 *     owns 64 keys, streams queries:   S^T = K Q^T, dP^T = V dO^T;   dV += P^T dO, dK += dS^T Q
 *     owns 64 queries, streams keys:   S = Q K^T,   dP = dO V^T;     dQ += dS K
 *
 * Seen from the owner, both are one kernel: scores of owned rows against streamed rows, and sums
 * over the streamed rows. A warp owns 16 rows. mma's output has the layout of its A operand, so P
 * and dS go straight into the next product.
 *
 * Operations: 7 products of 2 T^2 D per head (half of it when causal), 5 of which are needed: S and
 * dP come twice. That is the price of sums in a fixed order without a scratch; the next rung pays
 * in another coin. Bytes: the streamed rows once per 64 owned rows, from the L2 cache. What limits:
 * mma.sync itself, which on Hopper cannot reach the rate of wgmma, and shared memory: an
 * operand fragment is loaded by every warp for itself.
 *
 * Dimensions are multiples of 8 up to 192 (q, k) and 128 (v); the tiles are filled up with zeros.
 */
#include "02_causal/cuda/causal_common.cuh"
#include "common/cuda/mma.cuh"

enum { OWNED = 64, WARPS = OWNED / 16, THREADS = WARPS * 32 };

/* A row of DIM numbers in 16-byte pieces, piece c of row r at c ^ r % 8: the eight rows that
 * ldmatrix reads at once lie in different banks. column is a multiple of 8. */
template <int DIM> __device__ __forceinline__ bf16 *at(bf16 *tile, int row, int column) {
    return tile + row * DIM + ((column / 8) ^ (row % 8)) * 8;
}

template <int QK, int V, int STREAM> struct MmaShared {
    bf16 owned_qk[OWNED * QK], owned_v[OWNED * V];
    bf16 qk[2][STREAM * QK], v[2][STREAM * V];
    float lse[2][STREAM], delta[2][STREAM]; /* of streamed queries */
};

/* Rows first .. first + ROWS - 1 of a head, zeros past len and past dim. */
template <int ROWS, int DIM>
__device__ void load_rows(bf16 *tile, const bf16 *head, int64_t stride, int first, int len,
                          int dim) {
    for (int i = threadIdx.x; i < ROWS * DIM / 8; i += THREADS) {
        int row = i / (DIM / 8), column = i % (DIM / 8) * 8;
        bool valid = first + row < len && column < dim;
        cp_async_16(at<DIM>(tile, row, column),
                    valid ? head + (first + row) * stride + column : head, valid);
    }
}

/* d [16 owned, STREAM] = owned rows of this warp x streamed rows, over DIM. */
template <int DIM, int STREAM>
__device__ __forceinline__ void scores(float (&d)[STREAM / 8][4], bf16 *owned, bf16 *streamed) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int j = 0; j < STREAM / 8; j++) d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0;
#pragma unroll
    for (int k = 0; k < DIM; k += 16) {
        uint32_t a[4], b[4];
        ldmatrix_x4(a, at<DIM>(owned, warp * 16 + lane % 16, k + lane / 16 * 8));
#pragma unroll
        for (int j = 0; j < STREAM / 8; j += 2) {
            ldmatrix_x4(b,
                        at<DIM>(streamed, j * 8 + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8));
            mma_bf16(d[j], a, b);
            mma_bf16(d[j + 1], a, b + 2);
        }
    }
}

/* d [16 owned, DIM] += a [16 owned, STREAM] x streamed rows [STREAM, DIM]. */
template <int DIM, int STREAM>
__device__ __forceinline__ void accumulate(float (&d)[DIM / 8][4], const uint32_t (&a)[STREAM / 4],
                                           bf16 *streamed) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < STREAM / 16; k++) {
#pragma unroll
        for (int j = 0; j < DIM / 8; j += 2) {
            uint32_t b[4];
            ldmatrix_x4_transposed(b, at<DIM>(streamed, k * 16 + lane % 16, j * 8 + lane / 16 * 8));
            mma_bf16(d[j], a + 4 * k, b);
            mma_bf16(d[j + 1], a + 4 * k, b + 2);
        }
    }
}

/* Two neighbouring column blocks of scores, rounded: the A operand of 16 streamed rows. */
template <int STREAM>
__device__ __forceinline__ void pack(uint32_t (&a)[STREAM / 4], const float (&d)[STREAM / 8][4]) {
#pragma unroll
    for (int j = 0; j < STREAM / 8; j++) {
        a[2 * j] = pack_bf16(d[j][0], d[j][1]);
        a[2 * j + 1] = pack_bf16(d[j][2], d[j][3]);
    }
}

/*
 * Scores and their gradients, from s = q k and dp = dO v to s = P and dp = dS. Of a pair (query,
 * key), the owner is one and the column the other. lse is +inf for queries that do not exist: their
 * P is 0.
 */
template <int STREAM, bool KEYS_OWNED>
__device__ __forceinline__ void softmax_backward(float (&s)[STREAM / 8][4],
                                                 float (&dp)[STREAM / 8][4], const float *lse,
                                                 const float *delta, const float (&row_lse)[2],
                                                 const float (&row_delta)[2], int first_owned,
                                                 int first_streamed, bool edge,
                                                 const AttentionShape &shape) {
    int lane = threadIdx.x % 32, row = first_owned + threadIdx.x / 32 * 16 + lane / 4;
    float scale = shape.scale * 1.44269504f; /* log2 e */
#pragma unroll
    for (int j = 0; j < STREAM / 8; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int column = j * 8 + lane % 4 * 2 + i % 2;
            float l = KEYS_OWNED ? lse[column] : row_lse[i / 2];
            float t = KEYS_OWNED ? delta[column] : row_delta[i / 2];
            float p = exp2_fast(fmaf(s[j][i], scale, -l));
            if (edge) {
                int owner = row + i / 2 * 8, other = first_streamed + column;
                int query = KEYS_OWNED ? other : owner, key = KEYS_OWNED ? owner : other;
                if (key > last_key(shape, query)) p = 0;
            }
            s[j][i] = p;
            dp[j][i] = p * (dp[j][i] - t);
        }
    }
}

/* Sums times scale to their tensor, two numbers a thread. */
template <int DIM>
__device__ void store_rows(bf16 *head, int64_t stride, const float (&d)[DIM / 8][4], float scale,
                           int add, int first, int len, int dim) {
    int lane = threadIdx.x % 32, row = first + threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < DIM / 8; j++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (row + i * 8 >= len || j * 8 >= dim) continue;
            bf16 *p = head + (row + i * 8) * stride + j * 8 + lane % 4 * 2;
            float x = d[j][2 * i] * scale, y = d[j][2 * i + 1] * scale;
            if (add) x += to_float(p[0]), y += to_float(p[1]);
            *(uint32_t *)p = pack_bf16(x, y);
        }
    }
}

struct MmaArguments {
    bf16 *grad_qk, *grad_v; /* dK and dV, or dQ and nothing */
    int add_qk, add_v;
    const bf16 *q, *k, *v, *d_o;
    const float *lse, *delta; /* [batch, heads, q_len] */
    AttentionShape shape;
};

/* A tile of streamed rows, and for queries their lse (in powers of two) and delta. */
template <int QK, int V, int STREAM, bool KEYS_OWNED>
__device__ __forceinline__ void load_streamed(MmaShared<QK, V, STREAM> &sm, int stage,
                                              const MmaArguments &z, int tile, int head,
                                              int kv_head, int batch) {
    const AttentionShape &shape = z.shape;
    int first = tile * STREAM;
    if (KEYS_OWNED) {
        load_rows<STREAM, QK>(sm.qk[stage], head_row(z.q, shape.q, batch, 0, head), shape.q.token,
                              first, shape.q_len, shape.qk_dim);
        load_rows<STREAM, V>(sm.v[stage], head_row(z.d_o, shape.o, batch, 0, head), shape.o.token,
                             first, shape.q_len, shape.v_dim);
        if (threadIdx.x < STREAM) {
            int query = first + threadIdx.x;
            int64_t i = ((int64_t)batch * shape.heads + head) * shape.q_len + query;
            bool exists = query < shape.q_len;
            sm.lse[stage][threadIdx.x] = exists ? z.lse[i] * 1.44269504f : INFINITY;
            sm.delta[stage][threadIdx.x] = exists ? z.delta[i] : 0;
        }
    } else {
        load_rows<STREAM, QK>(sm.qk[stage], head_row(z.k, shape.k, batch, 0, kv_head),
                              shape.k.token, first, shape.kv_len, shape.qk_dim);
        load_rows<STREAM, V>(sm.v[stage], head_row(z.v, shape.v, batch, 0, kv_head), shape.v.token,
                             first, shape.kv_len, shape.v_dim);
    }
    cp_async_commit();
}

/* Which rows a block owns and which tiles it streams; heads first .. first + heads - 1 of the
 * queries. */
struct MmaWork {
    int first, tile_begin, tile_end, kv_head, head, heads, batch;
};

template <int STREAM, bool KEYS_OWNED>
__device__ __forceinline__ MmaWork mma_work(const AttentionShape &shape) {
    MmaWork w;
    int group = shape.heads / shape.kv_heads;
    w.batch = blockIdx.z;
    w.heads = KEYS_OWNED ? group : 1;
    w.head = KEYS_OWNED ? blockIdx.y * group : blockIdx.y;
    w.kv_head = KEYS_OWNED ? blockIdx.y : blockIdx.y / group;
    /* The longest work first: the first keys are seen by all queries, the last queries see all
     * keys. */
    w.first = (KEYS_OWNED ? blockIdx.x : gridDim.x - 1 - blockIdx.x) * OWNED;
    w.tile_begin = 0;
    if (KEYS_OWNED && shape.causal)
        w.tile_begin = max(0, w.first - (shape.kv_len - shape.q_len)) / STREAM;
    int rows = KEYS_OWNED ? shape.q_len : keys_seen(shape, w.first, OWNED);
    w.tile_end = (rows + STREAM - 1) / STREAM;
    return w;
}

template <int QK, int V, int STREAM, bool KEYS_OWNED>
__global__ void __launch_bounds__(THREADS) backward_mma_kernel(MmaArguments z) {
    extern __shared__ __align__(128) char memory[];
    MmaShared<QK, V, STREAM> &sm = *(MmaShared<QK, V, STREAM> *)memory;
    const AttentionShape &shape = z.shape;
    MmaWork w = mma_work<STREAM, KEYS_OWNED>(shape);
    HeadStrides sq = KEYS_OWNED ? shape.k : shape.q, sv = KEYS_OWNED ? shape.v : shape.o;
    int head = KEYS_OWNED ? w.kv_head : w.head, len = KEYS_OWNED ? shape.kv_len : shape.q_len;
    load_rows<OWNED, QK>(sm.owned_qk, head_row(KEYS_OWNED ? z.k : z.q, sq, w.batch, 0, head),
                         sq.token, w.first, len, shape.qk_dim);
    load_rows<OWNED, V>(sm.owned_v, head_row(KEYS_OWNED ? z.v : z.d_o, sv, w.batch, 0, head),
                        sv.token, w.first, len, shape.v_dim);
    float row_lse[2] = {INFINITY, INFINITY}, row_delta[2] = {0, 0};
    for (int i = 0; i < 2 && !KEYS_OWNED; i++) {
        int query = w.first + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i * 8;
        if (query >= len) continue;
        int64_t j = ((int64_t)w.batch * shape.heads + w.head) * shape.q_len + query;
        row_lse[i] = z.lse[j] * 1.44269504f, row_delta[i] = z.delta[j];
    }
    float sum_qk[QK / 8][4] = {}, sum_v[KEYS_OWNED ? V / 8 : 1][4] = {};
    int tiles = w.tile_end - w.tile_begin, steps = tiles * w.heads;
    load_streamed<QK, V, STREAM, KEYS_OWNED>(sm, 0, z, w.tile_begin, w.head, w.kv_head, w.batch);
    for (int step = 0; step < steps; step++) {
        int stage = step % 2, next = step + 1, first = (w.tile_begin + step % tiles) * STREAM;
        if (next < steps) {
            load_streamed<QK, V, STREAM, KEYS_OWNED>(sm, stage ^ 1, z, w.tile_begin + next % tiles,
                                                     w.head + next / tiles, w.kv_head, w.batch);
            cp_async_wait<1>();
        } else
            cp_async_wait<0>();
        __syncthreads();
        float s[STREAM / 8][4], dp[STREAM / 8][4];
        scores<QK, STREAM>(s, sm.owned_qk, sm.qk[stage]);
        scores<V, STREAM>(dp, sm.owned_v, sm.v[stage]);
        int query = KEYS_OWNED ? first : w.first, key = KEYS_OWNED ? w.first : first;
        int last = key + (KEYS_OWNED ? OWNED : STREAM) - 1;
        bool edge = last > last_key(shape, query);
        softmax_backward<STREAM, KEYS_OWNED>(s, dp, sm.lse[stage], sm.delta[stage], row_lse,
                                             row_delta, w.first, first, edge, shape);
        uint32_t a[STREAM / 4];
        if constexpr (KEYS_OWNED) {
            pack<STREAM>(a, s);
            accumulate<V, STREAM>(sum_v, a, sm.v[stage]);
        }
        pack<STREAM>(a, dp);
        accumulate<QK, STREAM>(sum_qk, a, sm.qk[stage]);
        __syncthreads();
    }
    if (z.grad_qk)
        store_rows<QK>(head_row(z.grad_qk, sq, w.batch, 0, head), sq.token, sum_qk, shape.scale,
                       z.add_qk, w.first, len, shape.qk_dim);
    if constexpr (KEYS_OWNED)
        if (z.grad_v)
            store_rows<V>(head_row(z.grad_v, sv, w.batch, 0, head), sv.token, sum_v, 1, z.add_v,
                          w.first, len, shape.v_dim);
}

template <int QK, int V, int STREAM, bool KEYS_OWNED>
static void launch(Gpu *gpu, const MmaArguments &z) {
    auto kernel = backward_mma_kernel<QK, V, STREAM, KEYS_OWNED>;
    int bytes = sizeof(MmaShared<QK, V, STREAM>);
    int rows = KEYS_OWNED ? z.shape.kv_len : z.shape.q_len;
    dim3 grid((unsigned)ceil_div(rows, OWNED), KEYS_OWNED ? z.shape.kv_heads : z.shape.heads,
              z.shape.batch);
    gpu_launch(gpu, kernel, grid, THREADS, bytes, z);
}

int causal_backward_mma_supports(const Gpu *gpu, DType dtype, const void *dq, const void *dk,
                                 const void *dv, const void *d_o, const void *q, const void *k,
                                 const void *v, AttentionShape s) {
    return gpu->compute_capability >= 80 && dtype == BF16 && s.qk_dim <= 192 && s.v_dim <= 128 &&
           rows_of_16_bytes(q, s.q, s.qk_dim) && rows_of_16_bytes(dq, s.q, s.qk_dim) &&
           rows_of_16_bytes(k, s.k, s.qk_dim) && rows_of_16_bytes(dk, s.k, s.qk_dim) &&
           rows_of_16_bytes(v, s.v, s.v_dim) && rows_of_16_bytes(dv, s.v, s.v_dim) &&
           rows_of_16_bytes(d_o, s.o, s.v_dim);
}

void causal_backward_mma_cuda(Gpu *gpu, DType dtype, void *dq, int add_q, void *dk, int add_k,
                              void *dv, int add_v, float *scratch, const void *d_o, const void *q,
                              const void *k, const void *v, const void *o, const float *lse,
                              AttentionShape shape) {
    CHECK(causal_backward_mma_supports(gpu, dtype, dq, dk, dv, d_o, q, k, v, shape),
          "causal_backward_mma: this GPU, dtype, shape or alignment is not supported");
    causal_delta_cuda(gpu, dtype, scratch, d_o, o, shape);
    MmaArguments z = {(bf16 *)dk,
                      (bf16 *)dv,
                      add_k,
                      add_v,
                      (const bf16 *)q,
                      (const bf16 *)k,
                      (const bf16 *)v,
                      (const bf16 *)d_o,
                      lse,
                      scratch,
                      shape};
    bool small = shape.qk_dim <= 64 && shape.v_dim <= 64, large = shape.qk_dim > 128;
    if (dk || dv) {
        if (small)
            launch<64, 64, 64, true>(gpu, z);
        else if (!large)
            launch<128, 128, 64, true>(gpu, z);
        else
            launch<192, 128, 32, true>(gpu, z);
    }
    if (!dq) return;
    z.grad_qk = (bf16 *)dq, z.add_qk = add_q;
    if (small)
        launch<64, 64, 64, false>(gpu, z);
    else if (!large)
        launch<128, 128, 64, false>(gpu, z);
    else
        launch<192, 128, 32, false>(gpu, z);
}
