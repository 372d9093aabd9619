/*
 * Absorbed decoding on the GPU: the three rungs on CUDA cores, and who picks.
 *
 * Rows: the q_len * H queries of a sequence, all against the same latents. What every rung must do
 * is 2 (2 kv_lora_rank + rope_dim) operations for each row and token. What it should move is the
 * latents, once. Exponentials are to base 2, the hardware's own: log2(e) is multiplied into the
 * scale.
 */
#include "04_mla/cuda/latent_row.cuh"
#include "04_mla/cuda/mla_decode.cuh"

#include <math.h>

enum { WARPS = 8, THREADS = 32 * WARPS };

__device__ __forceinline__ float base_2(float scale) { return scale * 1.44269504f; }

/* 2^(m - max), where both may be -inf: a row that has seen nothing weighs nothing. */
__device__ __forceinline__ float weight_of(float m, float max) {
    return m == -INFINITY ? 0.0f : exp2f(m - max);
}

/* Where token t of sequence b lies. */
template <typename T>
__device__ __forceinline__ const T *row_of_token(const T *latent, const int32_t *block_table, int b,
                                                 int t, const MlaDecodeShape &s) {
    const int32_t *pages = block_table + (int64_t)b * s.max_pages;
    return latent + page_row(pages, t) * (s.kv_lora_rank + s.rope_dim);
}

__device__ __forceinline__ const unsigned char *row_of_token(const unsigned char *latent,
                                                             const int32_t *block_table, int b,
                                                             int t, const MlaDecodeShape &s) {
    const int32_t *pages = block_table + (int64_t)b * s.max_pages;
    return latent + page_row(pages, t) * latent_row_bytes(s.kv_lora_rank, s.rope_dim);
}

/* ---- naive ---- */

/*
 * Three kernels, as the formula has it: scores[b, row, j] = q . z_j * scale; softmax over j;
 * o = sum_j p_j c_j. Rows know nothing of each other, so the latents are read twice by every row,
 * and each score is written once, read and written by the softmax, and read kv_lora_rank / 256
 * times. At 16 heads that is 32 times the bytes it should be, most of them from the L2 cache.
 */

/* grid (max_length / WARPS, rows, B): a warp takes one dot product. */
template <typename T>
__global__ void naive_scores_kernel(float *scores, const T *q, const T *latent,
                                    const int32_t *block_table, const int32_t *lengths,
                                    MlaDecodeShape s) {
    int j = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, b = blockIdx.z;
    int64_t row = (int64_t)b * gridDim.y + blockIdx.y;
    int width = s.kv_lora_rank + s.rope_dim;
    if (j >= mla_keys_seen(&s, lengths[b], blockIdx.y)) return;
    const T *z = row_of_token(latent, block_table, b, j, s);
    float dot = 0.0f;
    for (int c = lane; c < width; c += 32) dot += to_float(q[row * width + c]) * to_float(z[c]);
    dot = warp_sum(dot);
    if (lane == 0) scores[row * s.max_length + j] = dot * base_2(s.scale);
}

/* The sum over the block, or the maximum; every thread gets the result. */
__device__ float block_reduce(float x, bool maximum) {
    __shared__ float of_warp[WARPS];
    x = maximum ? warp_max(x) : warp_sum(x);
    __syncthreads(); /* the last call's numbers have been read */
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = of_warp[0];
    for (int w = 1; w < WARPS; w++) x = maximum ? fmaxf(x, of_warp[w]) : x + of_warp[w];
    return x;
}

/* grid (rows, B) */
static __global__ void naive_softmax_kernel(float *scores, const int32_t *lengths,
                                            MlaDecodeShape s) {
    int seen = mla_keys_seen(&s, lengths[blockIdx.y], blockIdx.x);
    float *p = scores + ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * s.max_length;
    float top = -INFINITY, sum = 0.0f;
    for (int j = threadIdx.x; j < seen; j += THREADS) top = fmaxf(top, p[j]);
    top = block_reduce(top, true);
    for (int j = threadIdx.x; j < seen; j += THREADS) sum += p[j] = exp2f(p[j] - top);
    sum = block_reduce(sum, false);
    for (int j = threadIdx.x; j < seen; j += THREADS) p[j] /= sum;
}

/* grid (kv_lora_rank / THREADS, rows, B), a thread for each column. */
template <typename T>
__global__ void naive_sum_kernel(T *o, const float *scores, const T *latent,
                                 const int32_t *block_table, const int32_t *lengths,
                                 MlaDecodeShape s) {
    int c = blockIdx.x * THREADS + threadIdx.x, b = blockIdx.z;
    int64_t row = (int64_t)b * gridDim.y + blockIdx.y;
    int seen = mla_keys_seen(&s, lengths[b], blockIdx.y);
    if (c >= s.kv_lora_rank) return;
    float sum = 0.0f;
    for (int j = 0; j < seen; j++)
        sum += scores[row * s.max_length + j] *
               to_float(row_of_token(latent, block_table, b, j, s)[c]);
    o[row * s.kv_lora_rank + c] = from_float<T>(sum);
}

size_t mla_decode_naive_scratch(MlaDecodeShape s) {
    return sizeof(float) * (size_t)s.batch * mla_rows(s) * s.max_length;
}

void mla_decode_naive_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                           const void *latent, const int32_t *block_table, const int32_t *lengths,
                           MlaDecodeShape s) {
    mla_decode_check("mla_decode_naive_cuda", &s);
    CHECK(!s.e4m3, "mla_decode_naive_cuda: for rows of numbers");
    CHECK(mla_rows(s) <= 65535, "mla_decode_naive_cuda: %d rows of queries; its grids hold 65535",
          mla_rows(s));
    unsigned rows = mla_rows(s), batch = s.batch;
    dim3 scores((unsigned)ceil_div(s.max_length, WARPS), rows, batch);
    dim3 sums((unsigned)ceil_div(s.kv_lora_rank, THREADS), rows, batch);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, naive_scores_kernel<T>, scores, THREADS, 0, scratch, q, latent,
                            block_table, lengths, s));
    gpu_launch(gpu, naive_softmax_kernel, dim3(rows, batch), THREADS, 0, scratch, lengths, s);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, naive_sum_kernel<T>, sums, THREADS, 0, o, scratch, latent,
                            block_table, lengths, s));
}

/* ---- online ---- */

/*
 * Against naive: the online softmax. A warp holds one row: its query, its output, m and l, N
 * columns in each lane, all in registers. A token's latent is loaded once, gives the score, and is
 * still there to be added to the output. Nothing goes to memory but the result.
 *
 * A block's eight rows walk over the same tokens at about the same time, so the latents come from
 * memory or L2 once for a block and from L1 for its other rows.
 *
 * What limits it: B * q_len * H / 8 blocks. With a batch of one and 16 heads, two processors of 132
 * work, and the longest sequence decides when the kernel ends.
 */
enum { AT_ONCE = 2 }; /* tokens whose loads are under way together */

/* V neighbouring columns. Two at once need rows that begin at even places. */
template <int V> __device__ __forceinline__ void load_columns(float *x, const float *row) {
    if (V == 2) {
        float2 pair = *(const float2 *)row;
        x[0] = pair.x;
        x[V - 1] = pair.y;
    } else
        x[0] = *row;
}
template <int V> __device__ __forceinline__ void load_columns(float *x, const __nv_bfloat16 *row) {
    if (V == 2) {
        uint32_t pair = *(const uint32_t *)row; /* a BF16 is the upper half of an F32 */
        x[0] = __uint_as_float(pair << 16);
        x[V - 1] = __uint_as_float(pair & 0xffff0000u);
    } else
        x[0] = to_float(*row);
}

/* N columns in a lane, V and V: 32 V columns lie side by side in the lanes of a warp. */
template <typename T, int N, int V> struct RowState {
    float q[N], o[N], m, l;

    /* The column of q[i], o[i]. */
    static __device__ __forceinline__ int column(int i) {
        return i / V * 32 * V + threadIdx.x % 32 * V + i % V;
    }
    static __device__ __forceinline__ void load_row(float *x, const T *row, int width) {
#pragma unroll
        for (int i = 0; i < N; i += V) {
            x[i] = x[i + V - 1] = 0.0f;
            if (column(i) < width) load_columns<V>(x + i, row + column(i));
        }
    }
    __device__ __forceinline__ void begin(const T *query, const MlaDecodeShape &s) {
        load_row(q, query, s.kv_lora_rank + s.rope_dim);
        m = -INFINITY;
        l = 0.0f;
#pragma unroll
        for (int i = 0; i < N; i++) {
            q[i] *= base_2(s.scale);
            o[i] = 0.0f;
        }
    }

    /* Row j of those from `row` on: numbers, or latent_row.h's. */
    static __device__ __forceinline__ void load_token(float *x, const T *row, int64_t j,
                                                      const MlaDecodeShape &s) {
        int width = s.kv_lora_rank + s.rope_dim;
        load_row(x, row + j * width, width);
    }
    static __device__ __forceinline__ void load_token(float *x, const unsigned char *row, int64_t j,
                                                      const MlaDecodeShape &s) {
        row += j * latent_row_bytes(s.kv_lora_rank, s.rope_dim);
#pragma unroll
        for (int i = 0; i < N; i++) {
            int c = column(i), k = c - s.kv_lora_rank;
            x[i] = 0.0f;
            if (k < 0)
                x[i] = latent_row_c(row, c, s.kv_lora_rank);
            else if (k < s.rope_dim)
                x[i] = latent_row_k(row, k, s.kv_lora_rank);
        }
    }

    /* `tokens` rows from `row` on join the state. The columns of k_rope are summed into o too, and
     * never written: that costs less than to ask. */
    template <typename Row>
    __device__ __forceinline__ void attend(const Row *row, int tokens, const MlaDecodeShape &s) {
        for (int j = 0; j < tokens; j += AT_ONCE) {
            float z[AT_ONCE][N], score[AT_ONCE], top = m;
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++) /* past the end the last row comes again ... */
                load_token(z[u], row, min(j + u, tokens - 1), s);
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++) {
                score[u] = 0.0f;
#pragma unroll
                for (int i = 0; i < N; i++) score[u] += q[i] * z[u][i];
                score[u] = warp_sum(score[u]);
                if (j + u >= tokens) score[u] = -INFINITY; /* ... and weighs nothing */
                top = fmaxf(top, score[u]);
            }
            float rescale = exp2f(m - top);
            m = top;
            l *= rescale;
#pragma unroll
            for (int i = 0; i < N; i++) o[i] *= rescale;
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++) {
                float p = exp2f(score[u] - top);
                l += p;
#pragma unroll
                for (int i = 0; i < N; i++) o[i] += p * z[u][i];
            }
        }
    }

    /* Tokens first .. end - 1 of sequence b, page by page; first begins a page. */
    template <typename Row>
    __device__ __forceinline__ void attend_pages(const Row *latent, const int32_t *block_table,
                                                 int b, int first, int end,
                                                 const MlaDecodeShape &s) {
        for (int token = first; token < end; token += PAGE_TOKENS)
            attend(row_of_token(latent, block_table, b, token, s), min(end - token, PAGE_TOKENS),
                   s);
    }

    /* to[c] = o[c] * factor for the columns of c_kv */
    template <typename To>
    __device__ __forceinline__ void write(To *to, float factor, const MlaDecodeShape &s) const {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (column(i) < s.kv_lora_rank) to[column(i)] = from_float<To>(o[i] * factor);
    }
};

/* grid (rows / WARPS, B) */
template <typename T, int N, int V>
__global__ void __launch_bounds__(THREADS)
    online_kernel(T *o, const T *q, const T *latent, const int32_t *block_table,
                  const int32_t *lengths, MlaDecodeShape s) {
    int b = blockIdx.y, row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= mla_rows(s)) return;
    int64_t at = (int64_t)b * mla_rows(s) + row;
    RowState<T, N, V> state;
    state.begin(q + at * (s.kv_lora_rank + s.rope_dim), s);
    state.attend_pages(latent, block_table, b, 0, mla_keys_seen(&s, lengths[b], row), s);
    state.write(o + at * s.kv_lora_rank, 1.0f / state.l, s);
}

/* N is a lane's share of the columns, for registers must be counted when the kernel is compiled. */
#define COLUMNS_SWITCH(width, N, V, ...)                   \
    do {                                                   \
        if ((width) % 2) {                                 \
            enum { N = MLA_DECODE_MAX_WIDTH / 32, V = 1 }; \
            __VA_ARGS__;                                   \
        } else if ((width) <= 128) {                       \
            enum { N = 4, V = 2 };                         \
            __VA_ARGS__;                                   \
        } else if ((width) <= 320) {                       \
            enum { N = 10, V = 2 };                        \
            __VA_ARGS__;                                   \
        } else if ((width) <= 576) {                       \
            enum { N = 18, V = 2 };                        \
            __VA_ARGS__;                                   \
        } else {                                           \
            enum { N = MLA_DECODE_MAX_WIDTH / 32, V = 2 }; \
            __VA_ARGS__;                                   \
        }                                                  \
    } while (0)

void mla_decode_online_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                            const void *latent, const int32_t *block_table, const int32_t *lengths,
                            MlaDecodeShape s) {
    mla_decode_check("mla_decode_online_cuda", &s);
    CHECK(!s.e4m3, "mla_decode_online_cuda: for rows of numbers");
    (void)scratch;
    dim3 grid((unsigned)ceil_div(mla_rows(s), WARPS), (unsigned)s.batch);
    COLUMNS_SWITCH(s.kv_lora_rank + s.rope_dim, N, V,
                   DTYPE_SWITCH(dtype, T,
                                gpu_launch(gpu, online_kernel<T, N, V>, grid, THREADS, 0, o, q,
                                           latent, block_table, lengths, s)));
}

/* ---- split ---- */

/*
 * Against online: blocks share the pages evenly, whatever the batch and the lengths are
 * (mla_decode.cuh), and a second kernel joins what belongs together. A group is WARPS rows.
 *
 * Bytes beyond the latents: a state of m, l, o for each row at each of the blocks' borders, written
 * and read once.
 *
 * What limits it: every row still loads every latent into its own registers. At 16 heads two blocks
 * read the same page from L2, and 16 warps the same numbers from L1. The rung above lets 16 rows
 * and more share what is loaded.
 */
enum { SPLIT_BLOCKS = 2 }; /* for each processor: as many as fit with 18 columns a lane */

template <typename T, int N, int V, typename Row>
__global__ void __launch_bounds__(THREADS)
    split_kernel(T *o, float *scratch, const T *q, const Row *latent, const int32_t *block_table,
                 const int32_t *lengths, MlaDecodeShape s) {
    int rows = mla_rows(s), groups = (rows + WARPS - 1) / WARPS;
    MlaWalk walk;
    walk.begin(lengths, s, groups);
    while (walk.next(lengths, groups)) {
        int warp = threadIdx.x / 32, row = walk.group * WARPS + warp;
        if (row >= rows) continue;
        int64_t at = (int64_t)walk.b * rows + row;
        int end =
            min((walk.first + walk.count) * PAGE_TOKENS, mla_keys_seen(&s, lengths[walk.b], row));
        RowState<T, N, V> state;
        state.begin(q + at * (s.kv_lora_rank + s.rope_dim), s);
        state.attend_pages(latent, block_table, walk.b, walk.first * PAGE_TOKENS, end, s);
        if (walk.slot < 0) {
            state.write(o + at * s.kv_lora_rank, 1.0f / state.l, s);
            continue;
        }
        float *to = mla_state(scratch, walk.slot, WARPS, warp, s);
        if (threadIdx.x % 32 == 0) {
            to[0] = state.m;
            to[1] = state.l;
        }
        state.write(to + 2, 1.0f, s);
    }
}

enum { MOST_BLOCKS = 2048 }; /* whose pieces one sequence can have */

/*
 * o = sum_p 2^(m_p - m) o_p / sum_p 2^(m_p - m) l_p over the pieces of row r of sequence b, a
 * thread for each column. grid (rows / at_once, B): a block does `at_once` rows. With a batch of
 * one there are many pieces and few rows, so the weights are made first, all at once: then only
 * loads that need not wait for each other are left in the loop.
 */
template <typename T>
__global__ void join_kernel(T *o, const float *scratch, const int32_t *lengths, MlaDecodeShape s,
                            MlaPieces pieces, int at_once) {
    __shared__ float weight[MOST_BLOCKS];
    int b = blockIdx.y, rows = mla_rows(s);
    MlaJoin piece(scratch, lengths, s, pieces, b);
    for (int r = blockIdx.x * at_once; r < min(rows, (int)(blockIdx.x + 1) * at_once); r++) {
        piece.of_row(r);
        if (piece.count == 1) continue; /* one block had the whole group and wrote the output */
        float top = -INFINITY, sum = 0.0f;
        for (int i = threadIdx.x % 32; i < piece.count; i += 32) top = fmaxf(top, piece[i][0]);
        top = warp_max(top);
        __syncthreads(); /* the last row's weights have been used */
        for (int i = threadIdx.x % 32; i < piece.count; i += 32) {
            float w = weight_of(piece[i][0], top);
            sum += w * piece[i][1];
            if (threadIdx.x < 32) weight[i] = w;
        }
        sum = warp_sum(sum);
        __syncthreads();
        for (int c = threadIdx.x; c < s.kv_lora_rank; c += blockDim.x) {
            float total = weight[0] * piece.first[2 + c];
#pragma unroll 16
            for (int i = 0; i < piece.count - 1; i++)
                total += weight[1 + i] * piece.others[2 * i * piece.slot + 2 + c];
            o[((int64_t)b * rows + r) * s.kv_lora_rank + c] = from_float<T>(total / sum);
        }
    }
}

void mla_decode_join(Gpu *gpu, DType dtype, void *o, const float *scratch, const int32_t *lengths,
                     const MlaDecodeShape &s, int group_rows, int blocks) {
    /* A row for a block while blocks are few; then enough that finding the pieces is no burden. */
    int rows = mla_rows(s), at_once = (int64_t)rows * s.batch > 2048 ? 8 : 1;
    CHECK(blocks <= MOST_BLOCKS, "absorbed decoding on %d blocks; a join knows %d", blocks,
          MOST_BLOCKS);
    int threads = s.kv_lora_rank < 512 ? (int)ceil_div(s.kv_lora_rank, 32) * 32 : 512;
    dim3 grid((unsigned)ceil_div(rows, at_once), (unsigned)s.batch);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, join_kernel<T>, grid, threads, 0, o, scratch, lengths, s,
                            MlaPieces{group_rows, blocks}, at_once));
}

MlaPieces mla_decode_split_pieces(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                                  const void *latent, const int32_t *block_table,
                                  const int32_t *lengths, const MlaDecodeShape &s) {
    int blocks = SPLIT_BLOCKS * gpu->sm_count;
    COLUMNS_SWITCH(s.kv_lora_rank + s.rope_dim, N, V, DTYPE_SWITCH(dtype, T, {
                       if (s.e4m3)
                           gpu_launch(gpu, split_kernel<T, N, V, unsigned char>, blocks, THREADS, 0,
                                      o, scratch, q, latent, block_table, lengths, s);
                       else
                           gpu_launch(gpu, split_kernel<T, N, V, T>, blocks, THREADS, 0, o, scratch,
                                      q, latent, block_table, lengths, s);
                   }));
    return {WARPS, blocks};
}

void mla_decode_split_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                           const void *latent, const int32_t *block_table, const int32_t *lengths,
                           MlaDecodeShape s) {
    mla_decode_check("mla_decode_split_cuda", &s);
    MlaPieces pieces =
        mla_decode_split_pieces(gpu, dtype, o, scratch, q, latent, block_table, lengths, s);
    mla_decode_join(gpu, dtype, o, scratch, lengths, s, pieces.group_rows, pieces.blocks);
}

/* ---- in use ---- */

size_t mla_decode_scratch_cuda(Gpu *gpu, DType dtype, MlaDecodeShape s) {
    mla_decode_check("mla_decode_scratch_cuda", &s);
    size_t bytes = mla_states_bytes(SPLIT_BLOCKS * gpu->sm_count, WARPS, s);
    if (mla_decode_mma_supports(gpu, dtype, s)) {
        size_t mma = mla_decode_mma_scratch(gpu, s);
        bytes = mma > bytes ? mma : bytes;
    }
    if (mla_decode_e4m3_supports(gpu, dtype, s)) {
        size_t e4m3 = mla_decode_e4m3_scratch(gpu, s);
        bytes = e4m3 > bytes ? e4m3 : bytes;
    }
    if (mla_decode_e4m3_hopper_supports(gpu, dtype, s)) {
        size_t hopper = mla_decode_e4m3_hopper_scratch(gpu, s);
        bytes = hopper > bytes ? hopper : bytes;
    }
    if (mla_decode_hopper_supports(gpu, dtype, s)) {
        size_t hopper = mla_decode_hopper_scratch(gpu, s);
        bytes = hopper > bytes ? hopper : bytes;
    }
    return bytes;
}

void mla_decode_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                     const void *latent, const int32_t *block_table, const int32_t *lengths,
                     MlaDecodeShape s) {
    if (mla_decode_hopper_supports(gpu, dtype, s))
        mla_decode_hopper_cuda(gpu, dtype, o, scratch, q, latent, block_table, lengths, s);
    else if (mla_decode_mma_supports(gpu, dtype, s))
        mla_decode_mma_cuda(gpu, dtype, o, scratch, q, latent, block_table, lengths, s);
    else if (mla_decode_e4m3_hopper_supports(gpu, dtype, s))
        mla_decode_e4m3_hopper_cuda(gpu, dtype, o, scratch, q, latent, block_table, lengths, s);
    else if (mla_decode_e4m3_supports(gpu, dtype, s))
        mla_decode_e4m3_cuda(gpu, dtype, o, scratch, q, latent, block_table, lengths, s);
    else
        mla_decode_split_cuda(gpu, dtype, o, scratch, q, latent, block_table, lengths, s);
}
