/*
 * Rung (c) of causal attention: tensor cores, on every GPU since Ampere (BF16).
 *
 * Against the rung below: the two products go to the tensor cores (mma.sync), and tiles come by
 * cp.async, which copies while the warps compute: the values of a tile during its scores and its
 * softmax, the next keys during the product with the values.
 *
 *   S = Q K^T     a warp owns 16 M queries and all BK keys of the tile: a row lies in four lanes
 *   P = softmax   the accumulators of S, rounded and packed, are the A operand of the next product
 *   O += P V      P never leaves the registers
 *
 * Work: 4 D operations per visible (query, key) pair. Bytes: each block of 64 M queries reads the
 * keys and values it sees once, mostly from the L2 cache. Shared memory: each fragment of K or V
 * that a warp loads (512 bytes) feeds 2 M mmas.
 * What limits it: a warp waits for its products before its exponentials, and only other warps can
 * fill the gap; and on Hopper mma.sync reaches little more than half of what wgmma does. The rung
 * above mends both.
 *
 * After Dao 2023, "FlashAttention-2".
 */
#include "02_causal/cuda/causal_common.cuh"
#include "common/cuda/mma.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS };

/*
 * Tiles lie in shared memory row by row, D numbers each, in pieces of 16 bytes. Piece c of row r is
 * kept at c ^ r % 8: the eight rows that ldmatrix reads at once are then in eight different groups
 * of banks.
 */
template <int D> __device__ __forceinline__ bf16 *piece(bf16 *tile, int row, int c) {
    return tile + row * D + ((c ^ (row % 8)) * 8);
}

/*
 * The same for ldmatrix: this lane reads pieces 2 d + half of `row`, for all d. The compiler knows
 * d, so four addresses serve a whole tile; the others are constant offsets from them.
 */
struct LaneRow {
    bf16 *row;
    int turn;
    __device__ __forceinline__ LaneRow(bf16 *row, int lane, int half)
        : row(row), turn((half ^ (lane % 8)) * 8) {}
    __device__ __forceinline__ bf16 *at(int offset, int d) const {
        return row + offset + d / 4 * 64 + ((d % 4 * 16) ^ turn);
    }
};

/* The lane, as a number that may differ each time: or else the addresses of all ldmatrix would be
 * computed before the loop and held in registers, which the accumulators need. */
__device__ __forceinline__ int lane_now() {
    int lane = threadIdx.x % 32;
    asm volatile("" : "+r"(lane));
    return lane;
}

/*
 * Rows first .. first + ROWS - 1 of one head; zeros for rows past `count` and columns past `dim`.
 * A thread copies the same piece c of every STEP-th row: all addresses are one addition apart.
 */
template <int ROWS, int D>
__device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *head, int64_t stride, int first,
                                          int count, int dim) {
    const int PIECES = D / 8, STEP = THREADS / PIECES;
    int c = threadIdx.x % PIECES, row = threadIdx.x / PIECES;
    int rows = c * 8 < dim ? count - first - row : 0; /* of mine, how far there is something */
    const bf16 *from = head + (first + row) * stride + c * 8;
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP, from += STEP * stride)
        cp_async_16(piece<D>(tile, row + i, c), from, i < rows);
}

/* What a warp keeps: M tiles of 16 queries; s and o in mma's layout, rows t / 4 and t / 4 + 8. */
template <int D, int M, int BK> struct WarpState {
    float s[M][BK / 8][4], o[M][D / 8][4];
    float row_max[M][2], row_sum[M][2];
};

template <int D, int M, int BK>
__device__ __forceinline__ void multiply_qk(WarpState<D, M, BK> &w, bf16 *q, bf16 *k) {
    int lane = lane_now(), warp = threadIdx.x / 32;
    LaneRow q_row(q + (warp * M * 16 + lane % 16) * D, lane, lane / 16);
    LaneRow k_row(k + (lane / 16 * 8 + lane % 8) * D, lane, lane / 8 % 2);
    memset(w.s, 0, sizeof(w.s));
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) ldmatrix_x4(a[m], q_row.at(m * 16 * D, d));
#pragma unroll
        for (int j = 0; j < BK / 16; j++) {
            uint32_t b[4]; /* keys 0-7, then 8-15, each with both halves of the 16 columns */
            ldmatrix_x4(b, k_row.at(j * 16 * D, d));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(w.s[m][2 * j], a[m], b);
                mma_bf16(w.s[m][2 * j + 1], a[m], b + 2);
            }
        }
    }
}

template <int D, int M, int BK>
__device__ __forceinline__ void multiply_pv(WarpState<D, M, BK> &w, bf16 *v) {
    int lane = lane_now();
    LaneRow v_row(v + lane % 16 * D, lane, lane / 16);
#pragma unroll
    for (int j = 0; j < BK / 16; j++) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][i] = pack_bf16(w.s[m][2 * j + i / 2][i % 2 * 2],
                                    w.s[m][2 * j + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            /* V lies with the keys outermost, mma wants them innermost: transposed */
            uint32_t b[4];
            ldmatrix_x4_transposed(b, v_row.at(j * 16 * D, d));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(w.o[m][2 * d], a[m], b);
                mma_bf16(w.o[m][2 * d + 1], a[m], b + 2);
            }
        }
    }
}

/* Row r of tile m of this thread is query first + 16 m + 8 r; it sees no key past last_key(). */
template <int D, int M, int BK>
__device__ __forceinline__ void mask(WarpState<D, M, BK> &w, const AttentionShape &shape, int first,
                                     int first_key) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int last = last_key(shape, first + 16 * m + 8 * r) - threadIdx.x % 4 * 2 - first_key;
#pragma unroll
            for (int j = 0; j < BK / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    if (8 * j + e > last) w.s[m][j][2 * r + e] = -INFINITY;
        }
}

/* s becomes 2^(c s - c m); what was summed under the old maximum is scaled to the new one. */
template <int D, int M, int BK>
__device__ __forceinline__ void online_softmax(WarpState<D, M, BK> &w, float c) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = w.row_max[m][r];
#pragma unroll
            for (int j = 0; j < BK / 8; j++)
                top = fmaxf(top, fmaxf(w.s[m][j][2 * r], w.s[m][j][2 * r + 1]));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            float base = top == -INFINITY ? 0.0f : top * c; /* no key so far: avoid inf - inf */
            float rescale = exp2_fast(w.row_max[m][r] * c - base), sum = w.row_sum[m][r] * rescale;
            w.row_max[m][r] = top;
#pragma unroll
            for (int j = 0; j < BK / 8; j++)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; e++) {
                    w.s[m][j][e] = exp2_fast(w.s[m][j][e] * c - base);
                    sum += w.s[m][j][e];
                }
            w.row_sum[m][r] = sum;
#pragma unroll
            for (int j = 0; j < D / 8; j++)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; e++) w.o[m][j][e] *= rescale;
        }
}

template <int D, int M, int BK>
__device__ __forceinline__ void write(const WarpState<D, M, BK> &w, const AttentionShape &shape,
                                      bf16 *o, float *lse, int first) {
    int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = w.row_sum[m][r];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            int query = first + 16 * m + 8 * r;
            if (query >= shape.q_len) continue;
            bf16 *row = head_row(o, shape.o, blockIdx.z, query, blockIdx.y) + column;
            float inverse = 1.0f / sum;
#pragma unroll
            for (int j = 0; j < D / 8; j++)
                if (8 * j < shape.v_dim)
                    *(uint32_t *)(row + 8 * j) =
                        pack_bf16(w.o[m][j][2 * r] * inverse, w.o[m][j][2 * r + 1] * inverse);
            if (lse && column == 0)
                lse[((int64_t)blockIdx.z * shape.heads + blockIdx.y) * shape.q_len + query] =
                    w.row_max[m][r] * shape.scale + logf(sum);
        }
}

/* One block: 64 M queries of one head. The tiles of keys come from the right: the masked ones
 * first. */
template <int D, int M, int BK>
__global__ __launch_bounds__(THREADS, 2) void causal_mma_kernel(bf16 *o, float *lse, const bf16 *q,
                                                                const bf16 *k, const bf16 *v,
                                                                const AttentionShape shape) {
    const int BM = 16 * M * WARPS;
    extern __shared__ __align__(16) unsigned char memory[];
    bf16 *q_tile = (bf16 *)memory, *k_tile = q_tile + BM * D, *v_tile = k_tile + BK * D;
    int kv_head = blockIdx.y / (shape.heads / shape.kv_heads);
    q = head_row(q, shape.q, blockIdx.z, 0, blockIdx.y);
    k = head_row(k, shape.k, blockIdx.z, 0, kv_head);
    v = head_row(v, shape.v, blockIdx.z, 0, kv_head);

    int first = (gridDim.x - 1 - blockIdx.x) * BM; /* the longest rows start first */
    int mine = first + threadIdx.x / 32 * 16 * M + threadIdx.x % 32 / 4;
    int n = (keys_seen(shape, first, BM) + BK - 1) / BK;
    int whole = (last_key(shape, first) + 1) / BK; /* tiles that all of these queries see whole */
    float c = shape.scale * 1.44269504f;           /* exp(scale * s) = 2^(c s) */
    WarpState<D, M, BK> w;
    memset(w.o, 0, sizeof(w.o));
    memset(w.row_sum, 0, sizeof(w.row_sum));
#pragma unroll
    for (int m = 0; m < M; m++) w.row_max[m][0] = w.row_max[m][1] = -INFINITY;

    load_tile<BM, D>(q_tile, q, shape.q.token, first, shape.q_len, shape.qk_dim);
    load_tile<BK, D>(k_tile, k, shape.k.token, (n - 1) * BK, shape.kv_len, shape.qk_dim);
    cp_async_commit();
    for (int i = n - 1; i >= 0; i--) {
        cp_async_wait<0>();
        __syncthreads(); /* the keys are here, and all warps are done with the last values */
        load_tile<BK, D>(v_tile, v, shape.v.token, i * BK, shape.kv_len, shape.v_dim);
        cp_async_commit();
        multiply_qk(w, q_tile, k_tile);
        if (i >= whole) mask(w, shape, mine, i * BK);
        online_softmax(w, c);
        cp_async_wait<0>();
        __syncthreads(); /* the values are here, and all warps are done with these keys */
        if (i > 0) {
            load_tile<BK, D>(k_tile, k, shape.k.token, (i - 1) * BK, shape.kv_len, shape.qk_dim);
            cp_async_commit();
        }
        multiply_pv(w, v_tile);
    }
    write(w, shape, o, lse, mine);
}

template <int D, int M, int BK>
static void launch(Gpu *gpu, void *o, float *lse, const void *q, const void *k, const void *v,
                   AttentionShape shape) {
    const int BM = 16 * M * WARPS, bytes = (BM + 2 * BK) * D * (int)sizeof(bf16);
    auto kernel = causal_mma_kernel<D, M, BK>;
    dim3 grid((unsigned)ceil_div(shape.q_len, BM), shape.heads, shape.batch);
    gpu_launch(gpu, kernel, grid, THREADS, bytes, o, lse, q, k, v, shape);
}

int causal_mma_supports(Gpu *gpu, DType dtype, const void *o, const void *q, const void *k,
                        const void *v, AttentionShape shape) {
    return gpu->compute_capability >= 80 && dtype == BF16 && shape.qk_dim <= 256 &&
           shape.v_dim <= 256 && rows_of_16_bytes(o, shape.o, shape.v_dim) &&
           rows_of_16_bytes(q, shape.q, shape.qk_dim) &&
           rows_of_16_bytes(k, shape.k, shape.qk_dim) && rows_of_16_bytes(v, shape.v, shape.v_dim);
}

/* Dimensions between the sizes are filled with zeros in shared memory. */
void causal_forward_mma_cuda(Gpu *gpu, DType dtype, void *o, float *lse, const void *q,
                             const void *k, const void *v, AttentionShape shape) {
    CHECK(causal_mma_supports(gpu, dtype, o, q, k, v, shape),
          "this shape (qk_dim %d, v_dim %d), dtype or GPU is not for the kernel with mma.sync",
          shape.qk_dim, shape.v_dim);
    int dim = shape.qk_dim > shape.v_dim ? shape.qk_dim : shape.v_dim;
    if (dim <= 64)
        launch<64, 2, 128>(gpu, o, lse, q, k, v, shape);
    else if (dim <= 128)
        launch<128, 2, 64>(gpu, o, lse, q, k, v, shape);
    else
        launch<256, 1, 32>(gpu, o, lse, q, k, v, shape);
}
