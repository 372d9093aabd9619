/*
 * Latent attention for a few new tokens: kernels 2 and 4 of mla_few_rows.h, and the call of 3.
 *
 * Both have a block for each head, whose weights of W_uq, W_uk or W_uv no other block needs. They
 * are on their way before the kernel in front has ended (common/cuda/few_rows_launch.cuh). At the 8
 * heads of a small model that is 52 KB for a block, less than a microsecond's worth; what limits is
 * the chain: launch, norm, product, absorption.
 */
#include "04_mla/cuda/latent_row.cuh"
#include "04_mla/cuda/mla_decode.cuh"
#include "04_mla/mla_few_rows.h"
#include "common/cuda/few_rows_codes.cuh"

/* ---- kernel 2: queries, and the new rows of the cache ---- */

enum { QUERY_WARPS = 8, QUERY_AHEAD = 6, PAD = 8 /* so that neighbours do not share banks */ };

/* The angle of pair i at a position, as cosine and sine; NaN outside the table. */
static __device__ __forceinline__ float2 angle_of(const MlaFewRows &m, int position, int i) {
    if (!m.angles.cos) return {1, 0};
    int64_t at = (int64_t)position * (m.shape.rope / 2) + i;
    bool known = position >= 0 && position < m.max_position;
    return known ? float2{m.angles.cos[at], m.angles.sin[at]} : float2{NAN, NAN};
}

/* Pair i of to [rope] = that of from, turned. */
template <typename T>
static __device__ __forceinline__ void turn(T *to, const T *from, const MlaFewRows &m, int i,
                                            float2 angle) {
    int a = m.angles.halves ? i : 2 * i, b = m.angles.halves ? i + m.shape.rope / 2 : 2 * i + 1;
    float x = to_float(from[a]), y = to_float(from[b]);
    to[a] = from_float<T>(x * angle.x - y * angle.y);
    to[b] = from_float<T>(x * angle.y + y * angle.x);
}

/* The cache's rows of sequence b, a warp a token. Of rows in eight bits the numbers are made in
 * `room` first, [QUERY_WARPS, width] in shared memory. */
template <typename T> static __device__ void append(const MlaFewRows &m, int b, T *room) {
    int rank = m.shape.kv_lora_rank, rope = m.shape.rope, width = rank + rope;
    few_rows_prefetch((const T *)m.kv_norm, rank);
    few_rows_wait();
    few_rows_go();
    if (blockIdx.y) return; /* the first group does it */
#pragma unroll 1
    for (int t = threadIdx.x / 32; t < m.tokens; t += QUERY_WARPS) {
        int position = m.lengths[b] - m.tokens + t;
        int64_t row = page_row(m.block_table + (int64_t)b * m.max_pages, position);
        T *to = m.e4m3 ? room + threadIdx.x / 32 * width : (T *)m.cache + row * width;
        const T *from = (const T *)m.latent + ((int64_t)b * m.tokens + t) * width;
        few_rows_norm_row(to, from, (const T *)m.kv_norm, rank, MLA_NORM_EPS);
#pragma unroll 1
        for (int i = threadIdx.x % 32; i < rope / 2; i += 32)
            turn(to + rank, from + rank, m, i, angle_of(m, position, i));
        if (!m.e4m3) continue;
        __syncwarp();
        latent_row_write((unsigned char *)m.cache + row * latent_row_bytes(rank, rope), rank, rope,
                         [&](int i) { return to_float(to[i]); },
                         [&](int i) { return to_float(to[rank + i]); });
        __syncwarp();
    }
}

/* 16 bytes to shared memory, without waiting for them where cp.async exists. */
static __device__ __forceinline__ void copy_16(void *shared, const void *global) {
#if MMA_CODE
    cp_async_16(shared, global, true);
#else
    *(uint4 *)shared = *(const uint4 *)global;
#endif
}

/* Rows first .. first + rows - 1 of w to shared memory, as numbers. */
template <typename W> struct CopyRows {
    static __device__ __forceinline__ void run(W *to, int stride, const FewRowsWeight &w,
                                               int64_t first, int rows) {
        const int V = 16 / sizeof(W);
        const W *from = (const W *)w.data + first * w.in;
#pragma unroll 1
        for (int i = threadIdx.x * V; i < rows * w.in; i += 32 * QUERY_WARPS * V)
            copy_16(to + i / w.in * stride + i % w.in, from + i);
    }
};
template <DType F> struct CopyRows<FewRowsCodes<F>> {
    static __device__ __forceinline__ void run(bf16 *to, int stride, const FewRowsWeight &w,
                                               int64_t first, int rows) {
#pragma unroll 4
        for (int i = threadIdx.x * 8; i < rows * w.in; i += 32 * QUERY_WARPS * 8) {
            int row = i / w.in, column = i - row * w.in;
            *(uint4 *)(to + row * stride + column) = few_rows_eight<F>(w, 0, first + row, column);
        }
    }
};

/* sum = W_uk^T q for columns first .. first + 15 of the latent: W_uk [nope, rank] lies the wrong
 * way round for mma, and is transposed on its way out of shared memory. */
template <int NT>
static __device__ __forceinline__ void absorb(float (&sum)[NT][4], const bf16 *w_uk, const bf16 *q,
                                              int first, int nope, int w_stride, int q_stride) {
    int lane = threadIdx.x % 32;
#pragma unroll 2
    for (int i = 0; i < nope; i += 16) {
        uint32_t a[4];
        ldmatrix_x4_transposed(a, w_uk + (i + lane / 16 * 8 + lane % 8) * w_stride + first +
                                      lane / 8 % 2 * 8);
#pragma unroll
        for (int t = 0; t < NT; t++) {
            const bf16 *row = q + (8 * t + lane / 4) * q_stride + i + lane % 4 * 2;
            const uint32_t b[2] = {*(const uint32_t *)row, *(const uint32_t *)(row + 8)};
            mma_bf16(sum[t], a, b);
        }
    }
}

template <int NT>
static __device__ __forceinline__ void absorb(float (&sum)[NT][4], const float *w_uk,
                                              const float *q, int first, int nope, int w_stride,
                                              int q_stride) {
    int j = threadIdx.x % 32 / 4, n = threadIdx.x % 4 * 2;
    for (int t = 0; t < NT; t++)
        for (int i = 0; i < 4; i++)
#pragma unroll 1
            for (int k = 0; k < nope; k++)
                sum[t][i] = fmaf(w_uk[k * w_stride + first + j + i / 2 * 8],
                                 q[(8 * t + n + i % 2) * q_stride + k], sum[t][i]);
}

/* What a block has in shared memory, in numbers of T: W_uk, the queries of its head, c_q, and the
 * angles of its rows. */
struct QueryPlaces {
    int w_stride, q_stride, q, c_q, angles;
    template <typename T> __host__ __device__ static QueryPlaces of(const MlaFewRows &m, int NT) {
        QueryPlaces p;
        p.w_stride = m.shape.kv_lora_rank + PAD;
        p.q_stride = m.shape.nope + m.shape.rope + PAD;
        p.q = m.shape.nope * p.w_stride;
        p.c_q = p.q + 8 * NT * p.q_stride;
        p.angles = p.c_q + 8 * NT * few_rows_stride<T>(m.q_lora_rank);
        return p;
    }
    template <typename T> size_t bytes(const MlaFewRows &m, int NT) const {
        return (size_t)angles * sizeof(T) + (size_t)(8 * NT * m.shape.rope) * sizeof(float);
    }
};

/* The block's rows: `count` from `first` on. */
struct QueryRows {
    int first, count;
};

/* q [8 NT, nope + rope] of head h in shared memory. `sum` has begun with the warp's first tile. */
template <typename T, int NT, typename Sum>
static __device__ __forceinline__ void make_queries(T *q, T *c_q, Sum &sum, const MlaFewRows &m,
                                                    int h, QueryRows rows, int q_stride) {
    int qk = m.shape.nope + m.shape.rope, rank = m.q_lora_rank;
    if (!rank) {
        const T *from = (const T *)m.c_q + ((int64_t)rows.first * m.shape.heads + h) * qk;
#pragma unroll 1
        for (int i = threadIdx.x; i < rows.count * qk; i += 32 * QUERY_WARPS)
            q[i / qk * q_stride + i % qk] = from[(int64_t)(i / qk) * m.shape.heads * qk + i % qk];
        return;
    }
    FewRowsMatrix<T> x = {c_q, few_rows_stride<T>(rank), rows.count};
#pragma unroll 1
    for (int first = threadIdx.x / 32 * FEW_ROWS_TILE; first < qk;) {
        sum.run(m.q_b_proj, x);
        few_rows_each<NT>(sum.sum[0], [&](int j, int n, float value) {
            q[n * q_stride + first + j] = from_float<T>(value);
        });
        first += QUERY_WARPS * FEW_ROWS_TILE;
        if (first < qk) sum.begin(m.q_b_proj, 0, (int64_t)h * qk + first, 0, 1);
    }
}

/* Norms of c_q and angles, rows from both ends of the block's warps, into shared memory. */
template <typename T>
static __device__ __forceinline__ void prepare_rows(T *c_q, float2 *angles, const MlaFewRows &m,
                                                    QueryRows rows) {
    int warp = threadIdx.x / 32, rank = m.q_lora_rank, half = m.shape.rope / 2;
    if (rank)
        few_rows_rmsnorm(c_q, (const T *)m.c_q + (int64_t)rows.first * rank, rank, rows.count,
                         (const T *)m.q_norm, rank, MLA_NORM_EPS);
#pragma unroll 1
    for (int n = QUERY_WARPS - 1 - warp; n < rows.count; n += QUERY_WARPS) {
        int row = rows.first + n, b = row / m.tokens;
        int position = m.lengths[b] - m.tokens + row - b * m.tokens;
#pragma unroll 1
        for (int i = threadIdx.x % 32; i < half; i += 32)
            angles[n * half + i] = angle_of(m, position, i);
    }
}

/* Blocks (h, group): q_absorbed of a head, for 8 NT rows. Behind them in the first group one for
 * each sequence: its cache. */
/* WQ, WK: the kinds of W_uq and W_uk. */
template <typename WQ, typename WK, int NT>
__global__ void __launch_bounds__(32 * QUERY_WARPS)
    query_kernel(const __grid_constant__ MlaFewRows m) {
    typedef typename FewRowsChunk<WK>::Number T;
    extern __shared__ __align__(16) unsigned char memory[];
    const MlaShape &s = m.shape;
    int h = blockIdx.x, warp = threadIdx.x / 32, qk = s.nope + s.rope, rank = s.kv_lora_rank;
    const QueryPlaces place = QueryPlaces::of<T>(m, NT);
    T *w_uk = (T *)memory, *q = w_uk + place.q, *c_q = w_uk + place.c_q;
    float2 *angles = (float2 *)(w_uk + place.angles);
    QueryRows rows = {8 * NT * (int)blockIdx.y, m.batch * m.tokens - 8 * NT * (int)blockIdx.y};
    rows.count = min(rows.count, 8 * NT);
    if (h >= s.heads) {
        append(m, h - s.heads, (T *)memory);
        return;
    }
    FewRowsSum<WQ, NT, QUERY_AHEAD> sum;
    if (m.q_lora_rank && warp * FEW_ROWS_TILE < qk)
        sum.begin(m.q_b_proj, 0, (int64_t)h * qk + warp * FEW_ROWS_TILE, 0, 1);
    CopyRows<WK>::run(w_uk, place.w_stride, m.kv_b_proj, (int64_t)h * (s.nope + s.v), s.nope);
    cp_async_commit();
    if (m.q_lora_rank) few_rows_prefetch((const T *)m.q_norm, m.q_lora_rank);
    few_rows_wait();
    few_rows_go();
    prepare_rows(c_q, angles, m, rows);
    __syncthreads();
    make_queries<T, NT>(q, c_q, sum, m, h, rows, place.q_stride);
    cp_async_wait<0>();
    __syncthreads();

    const int64_t out_row = (int64_t)s.heads * (rank + s.rope);
    T *out = (T *)m.q_absorbed + rows.first * out_row + (int64_t)h * (rank + s.rope);
#pragma unroll 1
    for (int i = threadIdx.x; i < rows.count * (s.rope / 2); i += 32 * QUERY_WARPS) {
        int n = i / (s.rope / 2);
        turn(out + n * out_row + rank, q + n * place.q_stride + s.nope, m, i - n * (s.rope / 2),
             angles[i]);
    }
#pragma unroll 1
    for (int first = warp * 16; first < rank; first += QUERY_WARPS * 16) {
        float total[NT][4] = {};
        absorb(total, w_uk, q, first, s.nope, place.w_stride, place.q_stride);
        few_rows_each<NT>(total, [&](int j, int n, float value) {
            if (n < rows.count) out[n * out_row + first + j] = from_float<T>(value);
        });
    }
}

static size_t query_shared(DType dtype, const MlaFewRows *m, int NT) {
    return dtype == BF16 ? QueryPlaces::of<bf16>(*m, NT).bytes<bf16>(*m, NT)
                         : QueryPlaces::of<float>(*m, NT).bytes<float>(*m, NT);
}

int mla_few_rows_query_supports(const Gpu *gpu, DType dtype, const MlaFewRows *m) {
    uintptr_t all = (uintptr_t)m->q_norm | (uintptr_t)m->kv_norm | (uintptr_t)m->cache;
    MlaShape s = m->shape;
    size_t room = (size_t)(QUERY_WARPS * (s.kv_lora_rank + s.rope)) * dtype_size(dtype);
    if (m->e4m3 && room > query_shared(dtype, m, 1)) return 0;
    return few_rows_weight_supports(&m->q_b_proj, dtype) &&
           few_rows_weight_supports(&m->kv_b_proj, dtype) &&
           (few_rows_same_kind(&m->q_b_proj, &m->kv_b_proj) || !m->q_b_proj.scale) &&
           m->batch * m->tokens <= FEW_ROWS && s.nope % 16 == 0 && s.rope % 16 == 0 &&
           s.v % 16 == 0 && s.kv_lora_rank % 32 == 0 && m->q_lora_rank % 32 == 0 && all % 16 == 0 &&
           query_shared(dtype, m, 4) <= (size_t)gpu->shared_memory_max;
}

template <typename WQ, typename WK>
static void launch_query(Gpu *gpu, DType dtype, const MlaFewRows *m) {
    int blocks = m->shape.heads + m->batch;
    FEW_ROWS_SWITCH(m->batch * m->tokens, m->shape.heads, gpu, NT, groups,
                    few_rows_launch(gpu, query_kernel<WQ, WK, NT>, dim3((unsigned)blocks, groups),
                                    32 * QUERY_WARPS, query_shared(dtype, m, NT), *m));
}

/* Both of one kind, or W_uq, whose rows groups may not divide, of numbers. */
void mla_few_rows_query_cuda(Gpu *gpu, DType dtype, const MlaFewRows *m) {
    FEW_ROWS_KIND(dtype, m->kv_b_proj, W, {
        typedef FewRowsChunk<W>::Number T;
        if (m->q_b_proj.scale || !m->kv_b_proj.scale)
            launch_query<W, W>(gpu, dtype, m);
        else
            launch_query<T, W>(gpu, dtype, m);
    });
}

/* ---- kernel 4: the pieces joined, times W_uv ---- */

enum {
    HEAD_WARPS = 4,
    HEAD_ROWS = 8,
    AT_ONCE = 16 /* pieces whose loads are under way together */
};

/* Column c of the row whose pieces these are: chapter 02's online softmax, AT_ONCE pieces a
 * time. */
static __device__ __forceinline__ float join_column(const MlaJoin &piece, int c) {
    float top = -INFINITY, l = 0, o = 0;
#pragma unroll 1
    for (int first = 0; first < piece.count; first += AT_ONCE) {
        float pm[AT_ONCE], pl[AT_ONCE], po[AT_ONCE], before = top;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            bool there = first + i < piece.count;
            const float *p = piece[first + i];
            pm[i] = there ? p[0] : -INFINITY;
            pl[i] = there ? p[1] : 0;
            po[i] = there ? p[2 + c] : 0;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) top = fmaxf(top, pm[i]);
        float factor = exp2_fast(before - top); /* the first piece sees token 0: top is finite */
        l *= factor, o *= factor;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            float weight = exp2_fast(pm[i] - top);
            l += weight * pl[i], o += weight * po[i];
        }
    }
    return o * (1.0f / l); /* as the attention's kernels do where there is nothing to join */
}

/* grid (H, groups): o of a head, for `each` rows, at most HEAD_ROWS. */
template <typename W>
__global__ void __launch_bounds__(32 * HEAD_WARPS)
    heads_kernel(const __grid_constant__ MlaFewRows m, const void *o_latent, const float *scratch,
                 const __grid_constant__ MlaDecodeShape shape, MlaPieces pieces, int each) {
    typedef typename FewRowsChunk<W>::Number T;
    extern __shared__ __align__(16) unsigned char memory[];
    T *latent = (T *)memory; /* [each, stride] */
    const MlaShape &s = m.shape;
    int h = blockIdx.x, first_row = blockIdx.y * each, warp = threadIdx.x / 32;
    int rank = s.kv_lora_rank, rows = min(m.batch * m.tokens - first_row, each);
    int stride = few_rows_stride<T>(rank), b = first_row / m.tokens;
    const int64_t w_uv = (int64_t)h * (s.nope + s.v) + s.nope; /* where it begins in kv_b_proj */
    FewRowsSum<W, 1, 4> sum;
    if (warp * FEW_ROWS_TILE < s.v) sum.begin(m.kv_b_proj, 0, w_uv + warp * FEW_ROWS_TILE, 0, 1);
    /* lengths: of kernel 1, see few_rows_launch.cuh */
    MlaJoin piece(scratch, m.lengths, shape, pieces, b);
    int t = first_row - b * m.tokens;
    piece.of_row(t * s.heads + h);
    few_rows_wait();
    few_rows_go();
#pragma unroll 1
    for (int n = 0; n < rows; n++) {
        const T *whole = (const T *)o_latent + ((int64_t)(first_row + n) * s.heads + h) * rank;
#pragma unroll 1
        for (int c = threadIdx.x; c < rank; c += 32 * HEAD_WARPS)
            latent[n * stride + c] =
                piece.count == 1 ? whole[c] : from_float<T>(join_column(piece, c));
        if (n + 1 == rows) break;
        if (++t == m.tokens) piece = MlaJoin(scratch, m.lengths, shape, pieces, ++b), t = 0;
        piece.of_row(t * s.heads + h);
    }
    __syncthreads();
    FewRowsMatrix<T> x = {latent, stride, rows};
#pragma unroll 1
    for (int first = warp * FEW_ROWS_TILE; first < s.v;) {
        sum.run(m.kv_b_proj, x);
        few_rows_each<1>(sum.sum[0], [&](int j, int n, float value) {
            if (n < rows)
                ((T *)m.o)[((int64_t)(first_row + n) * s.heads + h) * s.v + first + j] =
                    from_float<T>(value);
        });
        first += HEAD_WARPS * FEW_ROWS_TILE;
        if (first < s.v) sum.begin(m.kv_b_proj, 0, w_uv + first, 0, 1);
    }
}

void mla_few_rows_attention_cuda(Gpu *gpu, DType dtype, const MlaFewRows *m, void *o_latent,
                                 float *scratch, MlaDecodeShape shape) {
    MlaPieces pieces = {1, 1}; /* as if one block had had it all: it is joined */
    if (mla_decode_hopper_supports(gpu, dtype, shape))
        mla_decode_hopper_cuda(gpu, dtype, o_latent, scratch, m->q_absorbed, m->cache,
                               m->block_table, m->lengths, shape);
    else if (mla_decode_e4m3_hopper_supports(gpu, dtype, shape))
        pieces = mla_decode_e4m3_hopper_pieces(gpu, o_latent, scratch, m->q_absorbed, m->cache,
                                               m->block_table, m->lengths, shape);
    else if (mla_decode_e4m3_supports(gpu, dtype, shape))
        pieces = mla_decode_e4m3_pieces(gpu, o_latent, scratch, m->q_absorbed, m->cache,
                                        m->block_table, m->lengths, shape);
    else if (mla_decode_mma_supports(gpu, dtype, shape))
        pieces = mla_decode_mma_pieces(gpu, o_latent, scratch, m->q_absorbed, m->cache,
                                       m->block_table, m->lengths, shape);
    else
        pieces = mla_decode_split_pieces(gpu, dtype, o_latent, scratch, m->q_absorbed, m->cache,
                                         m->block_table, m->lengths, shape);
    int rows = m->batch * m->tokens, each = rows * m->shape.heads / gpu->sm_count;
    each = each < 1 ? 1 : each < HEAD_ROWS ? each : HEAD_ROWS;
    dim3 grid((unsigned)m->shape.heads, (unsigned)ceil_div(rows, each));
    FEW_ROWS_KIND(dtype, m->kv_b_proj, W, {
        typedef FewRowsChunk<W>::Number T;
        size_t shared = (size_t)each * few_rows_stride<T>(m->shape.kv_lora_rank) * sizeof(T);
        few_rows_launch(gpu, heads_kernel<W>, grid, 32 * HEAD_WARPS, shared, *m, o_latent, scratch,
                        shape, pieces, each);
    });
}
