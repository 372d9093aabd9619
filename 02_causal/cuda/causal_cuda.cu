/*
 * Causal attention on the GPU: the first two rungs of the ladder, and the choice among all four.
 *
 * The rungs with tensor cores are in causal_mma.cu and causal_hopper.cu, the backward pass in
 * causal_backward_*.cu.
 */
#include "02_causal/cuda/causal_common.cuh"
#include "common/cuda/mma.cuh"

/*
 * ---- Rung (a): materialised ----
 *
 * Three kernels, one for each step of the formula, and the scores S [B, H, q_len, kv_len] in global
 * memory between them.
 *
 * Bytes: S is written once, read and written by the softmax (whose passes over one row hit the
 * cache), and read by the last product: 16 B H T^2. For B 4, H 16, T 4096 that is 17 GB, 4 ms at
 * 4.3 TB/s, where q, k, v and o together are 0.13 GB (D 64). And S takes 4.3 GB of memory.
 * Operations: 4 B H T^2 D, the masked half included.
 * What limits it here: the two products. Each multiply-add takes two loads from shared memory.
 */
enum { TILE = 16 };

/* S = scale Q K^T, masked. A block computes 16 x 16 scores, walking along the head dimension. */
template <typename T>
__global__ void scores_kernel(float *scores, const T *q, const T *k, AttentionShape shape) {
    __shared__ float q_tile[TILE][TILE + 1], k_tile[TILE][TILE + 1];
    int batch = blockIdx.z / shape.heads, head = blockIdx.z % shape.heads;
    int row = blockIdx.y * TILE + threadIdx.y, first_key = blockIdx.x * TILE;
    const T *q_row = head_row(q, shape.q, batch, row, head);
    const T *k_row =
        head_row(k, shape.k, batch, first_key + threadIdx.y, head / (shape.heads / shape.kv_heads));
    float sum = 0.0f;
    for (int d0 = 0; d0 < shape.qk_dim; d0 += TILE) {
        int d = d0 + threadIdx.x;
        bool inside = d < shape.qk_dim;
        q_tile[threadIdx.y][threadIdx.x] = inside && row < shape.q_len ? to_float(q_row[d]) : 0.0f;
        k_tile[threadIdx.y][threadIdx.x] =
            inside && first_key + threadIdx.y < shape.kv_len ? to_float(k_row[d]) : 0.0f;
        __syncthreads();
        for (int i = 0; i < TILE; i++) sum += q_tile[threadIdx.y][i] * k_tile[threadIdx.x][i];
        __syncthreads();
    }
    int key = first_key + threadIdx.x;
    if (row < shape.q_len && key < shape.kv_len)
        scores[((int64_t)blockIdx.z * shape.q_len + row) * shape.kv_len + key] =
            key <= last_key(shape, row) ? sum * shape.scale : -INFINITY;
}

/* Softmax of one row per warp, in place: maximum, sum, division. */
__global__ void softmax_rows_kernel(float *scores, float *lse, int64_t rows, int keys) {
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    float *s = scores + row * keys, top = -INFINITY, sum = 0.0f;
    for (int j = threadIdx.x % 32; j < keys; j += 32) top = fmaxf(top, s[j]);
    top = warp_max(top);
    for (int j = threadIdx.x % 32; j < keys; j += 32) {
        s[j] = expf(s[j] - top);
        sum += s[j];
    }
    sum = warp_sum(sum);
    for (int j = threadIdx.x % 32; j < keys; j += 32) s[j] /= sum;
    if (lse && threadIdx.x % 32 == 0) lse[row] = top + logf(sum);
}

/* O = P V, 16 x 16 results a block; it walks along the keys. */
template <typename T>
__global__ void values_kernel(T *o, const float *p, const T *v, AttentionShape shape) {
    __shared__ float p_tile[TILE][TILE + 1], v_tile[TILE][TILE + 1];
    int batch = blockIdx.z / shape.heads, head = blockIdx.z % shape.heads;
    int row = blockIdx.y * TILE + threadIdx.y, d = blockIdx.x * TILE + threadIdx.x;
    const float *p_row = p + ((int64_t)blockIdx.z * shape.q_len + row) * shape.kv_len;
    float sum = 0.0f;
    for (int first = 0; first < shape.kv_len; first += TILE) {
        int p_key = first + threadIdx.x, v_key = first + threadIdx.y;
        p_tile[threadIdx.y][threadIdx.x] =
            row < shape.q_len && p_key < shape.kv_len ? p_row[p_key] : 0.0f;
        v_tile[threadIdx.y][threadIdx.x] =
            v_key < shape.kv_len && d < shape.v_dim
                ? to_float(
                      head_row(v, shape.v, batch, v_key, head / (shape.heads / shape.kv_heads))[d])
                : 0.0f;
        __syncthreads();
        for (int i = 0; i < TILE; i++) sum += p_tile[threadIdx.y][i] * v_tile[i][threadIdx.x];
        __syncthreads();
    }
    if (row < shape.q_len && d < shape.v_dim)
        head_row(o, shape.o, batch, row, head)[d] = from_float<T>(sum);
}

void causal_forward_materialised_cuda(Gpu *gpu, DType dtype, void *o, float *lse, const void *q,
                                      const void *k, const void *v, AttentionShape shape) {
    unsigned pairs = (unsigned)(shape.batch * shape.heads);
    int64_t rows = (int64_t)pairs * shape.q_len;
    float *scores = NULL;
    CUDA_CHECK(cudaMallocAsync((void **)&scores, rows * shape.kv_len * sizeof(float), gpu->stream));
    dim3 block(TILE, TILE),
        tiles((unsigned)ceil_div(shape.kv_len, TILE), (unsigned)ceil_div(shape.q_len, TILE), pairs);
    DTYPE_SWITCH(dtype, T, gpu_launch(gpu, scores_kernel<T>, tiles, block, 0, scores, q, k, shape));
    gpu_launch(gpu, softmax_rows_kernel, ceil_div(rows, 8), 256, 0, scores, lse, rows,
               shape.kv_len);
    tiles.x = (unsigned)ceil_div(shape.v_dim, TILE);
    DTYPE_SWITCH(dtype, T, gpu_launch(gpu, values_kernel<T>, tiles, block, 0, o, scores, v, shape));
    CUDA_CHECK(cudaFreeAsync(scores, gpu->stream));
}

/*
 * ---- Rung (b): online softmax in tiles, on the ordinary cores ----
 *
 * Against (a): the scores of 64 queries x 64 keys live in registers and shared memory only. Each
 * row keeps its running maximum m, its running sum l and an output that is rescaled when m grows.
 * Tiles that no query of the block may see are skipped: half the work at long T.
 *
 * Bytes: q and o once; keys and values once for each block of 64 queries, mostly from the L2 cache.
 * Operations: 4 D per visible pair, in F32 on the ordinary cores (67 TFLOPS on an H100 or H200). A
 * thread computes 4 x 4 scores from 4 + 4 loads of four numbers: 64 multiply-adds for 8 loads from
 * shared memory.
 * What limits it: it gets 26 of those 67 TFLOPS, so not the cores alone: loads from shared memory
 * and the wait for each tile are what is left (not profiled). The rung above multiplies on tensor
 * cores and copies while it computes.
 */
enum { QUERIES = 64, KEYS = 64, DIMS = 32, V_KEYS = 16, PAD = 4 };

struct alignas(16) OnlineTiles {
    union {
        struct {
            float q[QUERIES][DIMS + PAD],
                k[KEYS][DIMS + PAD]; /* 32 columns of both, for the scores */
        };
        float v[V_KEYS * 256]; /* then 16 rows of values, as wide as they are */
    };
    float p[QUERIES][KEYS + PAD];
};

/* Four neighbours in F32; at once where they are aligned and all there, else one by one. */
__device__ __forceinline__ float4 load4(const float *from) { return *(const float4 *)from; }
__device__ __forceinline__ float4 load4(const __nv_bfloat16 *from) {
    uint2 bits = *(const uint2 *)from; /* a BF16 is the upper half of an F32 */
    return make_float4(__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000),
                       __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000));
}
template <typename T>
__device__ __forceinline__ float4 load4_checked(const T *from, int count, bool aligned) {
    if (aligned && count >= 4) return load4(from);
    return make_float4(count > 0 ? to_float(from[0]) : 0.0f, count > 1 ? to_float(from[1]) : 0.0f,
                       count > 2 ? to_float(from[2]) : 0.0f, count > 3 ? to_float(from[3]) : 0.0f);
}

/* ROWS rows from `row` on (there are `rows`), COLUMNS columns from `column` on; zeros outside. */
template <int ROWS, int COLUMNS, typename T>
__device__ __forceinline__ void load_block(float *to, int to_stride, const T *from, int64_t stride,
                                           int row, int rows, int column, int columns,
                                           bool aligned) {
    const int STEP = 256 / (COLUMNS / 4); /* a thread loads the same columns of every STEP-th row */
    int c = threadIdx.x % (COLUMNS / 4) * 4, r = threadIdx.x / (COLUMNS / 4);
    from += (row + r) * stride + column + c;
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP, from += STEP * stride)
        *(float4 *)(to + (r + i) * to_stride + c) =
            load4_checked(from, row + r + i < rows ? columns - column - c : 0, aligned);
}

__device__ __forceinline__ float dot4(float4 a, float4 b, float sum) {
    return a.x * b.x + (a.y * b.y + (a.z * b.z + (a.w * b.w + sum)));
}
__device__ __forceinline__ void add4(float *sum, float a, float4 b) {
    sum[0] += a * b.x;
    sum[1] += a * b.y;
    sum[2] += a * b.z;
    sum[3] += a * b.w;
}

/* The 16 lanes that share their rows: thread (ty, tx) owns rows 4 ty .. 4 ty + 3. */
__device__ __forceinline__ float row_max16(float x) {
    for (int i = 8; i; i /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
    return x;
}
__device__ __forceinline__ float row_sum16(float x) {
    for (int i = 8; i; i /= 2) x += __shfl_xor_sync(~0u, x, i);
    return x;
}

/* s[i][j] = q of row 4 ty + i times k of key tx + 16 j. */
template <typename T>
__device__ __forceinline__ void online_scores(float (&s)[4][4], OnlineTiles &tiles, const T *q,
                                              const T *k, const AttentionShape &shape,
                                              int first_query, int first_key, bool aligned) {
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    memset(s, 0, sizeof(s));
    for (int d0 = 0; d0 < shape.qk_dim; d0 += DIMS) {
        __syncthreads(); /* no thread still reads what lies there */
        load_block<QUERIES, DIMS>(tiles.q[0], DIMS + PAD, q, shape.q.token, first_query,
                                  shape.q_len, d0, shape.qk_dim, aligned);
        load_block<KEYS, DIMS>(tiles.k[0], DIMS + PAD, k, shape.k.token, first_key, shape.kv_len,
                               d0, shape.qk_dim, aligned);
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DIMS; d += 4) {
            float4 a[4], b[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                a[i] = *(const float4 *)&tiles.q[4 * ty + i][d];
                b[i] = *(const float4 *)&tiles.k[tx + 16 * i][d];
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) s[i][j] = dot4(a[i], b[j], s[i][j]);
        }
    }
}

/* o[i][4 j + e] += P V for row 4 ty + i and column 64 j + 4 tx + e. */
template <int D, typename T>
__device__ __forceinline__ void online_values(float (&o)[4][D / 16], OnlineTiles &tiles, const T *v,
                                              const AttentionShape &shape, int first_key,
                                              bool aligned) {
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    for (int key = 0; key < KEYS; key += V_KEYS) {
        __syncthreads();
        load_block<V_KEYS, D>(tiles.v, D, v, shape.v.token, first_key + key, shape.kv_len, 0,
                              shape.v_dim, aligned);
        __syncthreads();
#pragma unroll
        for (int n = 0; n < V_KEYS; n += 4) {
            float4 a[4];
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = *(const float4 *)&tiles.p[4 * ty + i][key + n];
#pragma unroll
            for (int j = 0; j < D / 64; j++) {
                const float *column = tiles.v + n * D + 64 * j + 4 * tx;
                float4 b0 = *(const float4 *)column, b1 = *(const float4 *)(column + D);
                float4 b2 = *(const float4 *)(column + 2 * D),
                       b3 = *(const float4 *)(column + 3 * D);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    add4(o[i] + 4 * j, a[i].x, b0);
                    add4(o[i] + 4 * j, a[i].y, b1);
                    add4(o[i] + 4 * j, a[i].z, b2);
                    add4(o[i] + 4 * j, a[i].w, b3);
                }
            }
        }
    }
}

template <int D, typename T>
__global__ __launch_bounds__(256) void causal_online_kernel(T *o, float *lse, const T *q,
                                                            const T *k, const T *v,
                                                            AttentionShape shape, bool aligned) {
    __shared__ OnlineTiles tiles;
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    int kv_head = blockIdx.y / (shape.heads / shape.kv_heads);
    q = head_row(q, shape.q, blockIdx.z, 0, blockIdx.y);
    k = head_row(k, shape.k, blockIdx.z, 0, kv_head);
    v = head_row(v, shape.v, blockIdx.z, 0, kv_head);
    int first = (gridDim.x - 1 - blockIdx.x) * QUERIES; /* the longest rows start first */
    int keys = keys_seen(shape, first, QUERIES);
    float c = shape.scale * 1.44269504f; /* exp(scale * s) = 2^(c s) */
    float out[4][D / 16], m[4], l[4];
    memset(out, 0, sizeof(out));
    for (int i = 0; i < 4; i++) m[i] = -INFINITY, l[i] = 0.0f;

    for (int key = 0; key < keys; key += KEYS) {
        float s[4][4];
        online_scores(s, tiles, q, k, shape, first, key, aligned);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int last = last_key(shape, first + 4 * ty + i);
            float top = m[i];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (key + tx + 16 * j > last) s[i][j] = -INFINITY;
                top = fmaxf(top, s[i][j]);
            }
            top = row_max16(top); /* finite: every row sees key 0, which is in the first tile */
            float rescale = exp2_fast((m[i] - top) * c);
            m[i] = top;
            l[i] *= rescale;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float p = exp2_fast((s[i][j] - top) * c);
                l[i] += p; /* this thread's columns; added up at the end */
                tiles.p[4 * ty + i][tx + 16 * j] = p;
            }
#pragma unroll
            for (int d = 0; d < D / 16; d++) out[i][d] *= rescale;
        }
        online_values<D>(out, tiles, v, shape, key, aligned);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int query = first + 4 * ty + i;
        float sum = row_sum16(l[i]);
        if (query >= shape.q_len) continue;
        T *row = head_row(o, shape.o, blockIdx.z, query, blockIdx.y);
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            int column = d / 4 * 64 + 4 * tx + d % 4;
            if (column < shape.v_dim) row[column] = from_float<T>(out[i][d] / sum);
        }
        if (lse && tx == 0)
            lse[((int64_t)blockIdx.z * shape.heads + blockIdx.y) * shape.q_len + query] =
                m[i] * shape.scale + logf(sum);
    }
}

void causal_forward_online_cuda(Gpu *gpu, DType dtype, void *o, float *lse, const void *q,
                                const void *k, const void *v, AttentionShape shape) {
    CHECK(shape.v_dim <= 256, "v_dim is %d, this kernel's accumulators hold 256", shape.v_dim);
    dim3 grid((unsigned)ceil_div(shape.q_len, QUERIES), shape.heads, shape.batch);
    bool aligned = rows_of_16_bytes(q, shape.q, 8) && rows_of_16_bytes(k, shape.k, 8) &&
                   rows_of_16_bytes(v, shape.v, 8);
#define LAUNCH(D)                                                                                 \
    DTYPE_SWITCH(dtype, T,                                                                        \
                 (gpu_launch(gpu, causal_online_kernel<D, T>, grid, 256, 0, (T *)o, lse, q, k, v, \
                             shape, aligned)))
    if (shape.v_dim <= 64)
        LAUNCH(64);
    else if (shape.v_dim <= 128)
        LAUNCH(128);
    else
        LAUNCH(256);
#undef LAUNCH
}

/*
 * The choice. F32 goes to the ordinary cores: the tensor cores would round its factors to 10 bits
 * of mantissa (TF32), and F32 is there for exact comparisons. BF16 takes the tensor cores where
 * rows are whole pieces of 16 bytes: wgmma on Hopper up to qk_dim 192 and v_dim 128, mma.sync on
 * sm_80 and later up to 256. All else: rung (b).
 */
void causal_forward_cuda(Gpu *gpu, DType dtype, void *o, float *lse, const void *q, const void *k,
                         const void *v, AttentionShape shape) {
    if (causal_hopper_supports(gpu, dtype, o, q, k, v, shape))
        causal_forward_hopper_cuda(gpu, dtype, o, lse, q, k, v, shape);
    else if (causal_mma_supports(gpu, dtype, o, q, k, v, shape))
        causal_forward_mma_cuda(gpu, dtype, o, lse, q, k, v, shape);
    else
        causal_forward_online_cuda(gpu, dtype, o, lse, q, k, v, shape);
}
