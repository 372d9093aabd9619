/*
 * Latent attention for a few new tokens: kernels 2 and 4 of mla_few.h, and the call of 3.
 *
 * Both have a block for each head, whose weights of W_uq, W_uk or W_uv no other block needs. They
 * are on their way before the kernel in front has ended (common/early.cuh). At the 8 heads of a
 * small model that is 52 KB for a block, less than a microsecond's worth; what limits is the chain:
 * launch, norm, product, absorption.
 */
#include "../common/skinny.cuh"
#include "mla_decode.cuh"
#include "mla_few.h"

/* ---- kernel 2: queries, and the new rows of the cache ---- */

enum { QUERY_WARPS = 8, QUERY_AHEAD = 4, PAD = 8 /* so that neighbours do not share banks */ };

/* to [dim] = from turned by the position's angles, or copied where there are none; by one warp or
 * by one lane of several (first, step). An unknown position gives NaN. */
template <typename T>
static __device__ __forceinline__ void turn(T *to, const T *from, int dim, const MlaFew &m,
                                            int position, int i, int step) {
    const PositionAngles &angles = m.angles;
    for (; i < dim / 2; i += step) {
        int a = angles.halves ? i : 2 * i, b = angles.halves ? i + dim / 2 : 2 * i + 1;
        float c = 1, s = 0, x = to_float(from[a]), y = to_float(from[b]);
        if (angles.cos) {
            bool known = position >= 0 && position < m.max_position;
            c = known ? angles.cos[(int64_t)position * (dim / 2) + i] : NAN;
            s = known ? angles.sin[(int64_t)position * (dim / 2) + i] : NAN;
        }
        to[a] = from_float<T>(x * c - y * s);
        to[b] = from_float<T>(x * s + y * c);
    }
}

/* The cache's rows of sequence b, a warp a token. */
template <typename T> static __device__ void append(const MlaFew &m, int b) {
    int rank = m.shape.kv_lora_rank, rope = m.shape.rope, width = rank + rope;
    for (int t = threadIdx.x / 32; t < m.tokens; t += QUERY_WARPS) {
        int position = m.lengths[b] - m.tokens + t;
        T *to =
            (T *)m.cache + latent_row(m.block_table + (int64_t)b * m.max_pages, position) * width;
        const T *from = (const T *)m.latent + ((int64_t)b * m.tokens + t) * width;
        skinny_norm_row(to, from, (const T *)m.kv_norm, rank, MLA_NORM_EPS);
        turn(to + rank, from + rank, rope, m, position, threadIdx.x % 32, 32);
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

/* sum = W_uk^T q for columns first .. first + 15 of the latent: W_uk [nope, rank] lies the wrong way
 * round for mma, and is transposed on its way out of shared memory. */
template <int NT>
static __device__ __forceinline__ void absorb(float (&sum)[NT][4], const bf16 *w_uk, const bf16 *q,
                                              int first, int nope, int w_stride, int q_stride) {
    int lane = threadIdx.x % 32;
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
            for (int k = 0; k < nope; k++)
                sum[t][i] = fmaf(w_uk[k * w_stride + first + j + i / 2 * 8],
                                 q[(8 * t + n + i % 2) * q_stride + k], sum[t][i]);
}

/* What a block has in shared memory, in numbers: W_uk, the queries of its head, and c_q. */
struct QueryPlaces {
    int w_stride, q_stride, q, c_q, end;
    template <typename T> __host__ __device__ static QueryPlaces of(const MlaFew &m, int NT) {
        QueryPlaces p;
        p.w_stride = m.shape.kv_lora_rank + PAD;
        p.q_stride = m.shape.nope + m.shape.rope + PAD;
        p.q = m.shape.nope * p.w_stride;
        p.c_q = p.q + 8 * NT * p.q_stride;
        p.end = p.c_q + m.batch * m.tokens * (int)skinny_stride<T>(m.q_lora_rank);
        return p;
    }
};

/* q [8 NT, nope + rope] of head h in shared memory. */
template <typename T, int NT, typename Sum>
static __device__ __forceinline__ void make_queries(T *q, T *c_q, Sum &sum, const MlaFew &m, int h,
                                                    int q_stride) {
    int rows = m.batch * m.tokens, qk = m.shape.nope + m.shape.rope, warp = threadIdx.x / 32;
    if (!m.q_lora_rank) {
        const T *from = (const T *)m.c_q + h * qk;
        for (int i = threadIdx.x; i < rows * qk; i += 32 * QUERY_WARPS)
            q[i / qk * q_stride + i % qk] = from[(int64_t)(i / qk) * m.shape.heads * qk + i % qk];
        return;
    }
    skinny_rmsnorm(c_q, (const T *)m.c_q, m.q_lora_rank, rows, (const T *)m.q_norm, m.q_lora_rank,
                   MLA_NORM_EPS);
    __syncthreads();
    SkinnyRows<T> x = {c_q, skinny_stride<T>(m.q_lora_rank), rows};
    for (int first = warp * SKINNY_TILE; first < qk; first += QUERY_WARPS * SKINNY_TILE) {
        if (first >= QUERY_WARPS * SKINNY_TILE) /* the first tile has begun already */
            sum.begin((const T *)m.q_b_proj + ((int64_t)h * qk + first) * m.q_lora_rank,
                      m.q_lora_rank, qk - first, 0, 1);
        sum.run(x);
        skinny_each(sum.sum, [&](int j, int n, float value) {
            q[n * q_stride + first + j] = from_float<T>(value);
        });
    }
}

/* Blocks 0 .. H - 1: q_absorbed of a head. Behind them one for each sequence: its cache. */
template <typename T, int NT>
__global__ void __launch_bounds__(32 * QUERY_WARPS) query_kernel(const __grid_constant__ MlaFew m) {
    extern __shared__ __align__(16) unsigned char memory[];
    const MlaShape &s = m.shape;
    int h = blockIdx.x, warp = threadIdx.x / 32, qk = s.nope + s.rope, rank = s.kv_lora_rank;
    const QueryPlaces place = QueryPlaces::of<T>(m, NT);
    T *w_uk = (T *)memory, *q = w_uk + place.q;
    if (h >= s.heads) {
        early_go();
        early_wait();
        append<T>(m, h - s.heads);
        return;
    }
    const int V = 16 / sizeof(T);
    const T *w = (const T *)m.kv_b_proj + (int64_t)h * (s.nope + s.v) * rank;
    for (int i = threadIdx.x * V; i < s.nope * rank; i += 32 * QUERY_WARPS * V)
        copy_16(w_uk + i / rank * place.w_stride + i % rank, w + i);
    cp_async_commit();
    SkinnySum<T, NT, QUERY_AHEAD> sum;
    if (m.q_lora_rank && warp * SKINNY_TILE < qk)
        sum.begin((const T *)m.q_b_proj + ((int64_t)h * qk + warp * SKINNY_TILE) * m.q_lora_rank,
                  m.q_lora_rank, qk - warp * SKINNY_TILE, 0, 1);
    early_go();
    early_wait();
    make_queries<T, NT>(q, (T *)memory + place.c_q, sum, m, h, place.q_stride);
    cp_async_wait<0>();
    __syncthreads();

    int rows = m.batch * m.tokens;
    T *out = (T *)m.q_absorbed + (int64_t)h * (rank + s.rope);
    const int64_t out_row = (int64_t)s.heads * (rank + s.rope);
    for (int n = warp; n < rows; n += QUERY_WARPS)
        turn(out + n * out_row + rank, q + n * place.q_stride + s.nope, s.rope, m,
             m.lengths[n / m.tokens] - m.tokens + n % m.tokens, threadIdx.x % 32, 32);
    for (int first = warp * 16; first < rank; first += QUERY_WARPS * 16) {
        float total[NT][4] = {};
        absorb(total, w_uk, q, first, s.nope, place.w_stride, place.q_stride);
        skinny_each(total, [&](int j, int n, float value) {
            if (n < rows) out[n * out_row + first + j] = from_float<T>(value);
        });
    }
}

static size_t query_shared(DType dtype, const MlaFew *m) {
    int NT = m->batch * m->tokens <= 8 ? 1 : 4;
    return dtype == BF16 ? (size_t)QueryPlaces::of<bf16>(*m, NT).end * sizeof(bf16)
                         : (size_t)QueryPlaces::of<float>(*m, NT).end * sizeof(float);
}

extern "C" int mla_few_query_supports(const Gpu *gpu, DType dtype, const MlaFew *m) {
    uintptr_t all = (uintptr_t)m->q_norm | (uintptr_t)m->q_b_proj | (uintptr_t)m->kv_b_proj |
                    (uintptr_t)m->kv_norm | (uintptr_t)m->cache;
    MlaShape s = m->shape;
    return m->batch * m->tokens <= FEW_ROWS && s.nope % 16 == 0 && s.rope % 16 == 0 &&
           s.v % 16 == 0 && s.kv_lora_rank % 32 == 0 && m->q_lora_rank % 32 == 0 && all % 16 == 0 &&
           query_shared(dtype, m) <= (size_t)gpu->shared_memory_max;
}

extern "C" void mla_few_query_cuda(Gpu *gpu, DType dtype, const MlaFew *m) {
    unsigned blocks = (unsigned)(m->shape.heads + m->batch);
    DTYPE_SWITCH(dtype, T,
                 SKINNY_SWITCH(m->batch * m->tokens, NT,
                               early_launch(gpu, query_kernel<T, NT>, dim3(blocks),
                                            32 * QUERY_WARPS, query_shared(dtype, m), *m)));
}

/* ---- kernel 4: the pieces joined, times W_uv ---- */

enum { HEAD_WARPS = 4, HEAD_ROWS = 8 };

/* to [rank] = the row's pieces joined, or what one block wrote; by a warp. */
template <typename T>
static __device__ __forceinline__ void join_row(T *to, const T *whole, const MlaJoin &piece,
                                                int rank) {
    int lane = threadIdx.x % 32;
    if (piece.count == 1) {
        for (int c = lane; c < rank; c += 32) to[c] = whole[c];
        return;
    }
    float top = -INFINITY, l = 0;
    for (int i = lane; i < piece.count; i += 32) top = fmaxf(top, piece[i][0]);
    top = warp_max(top);
    for (int i = lane; i < piece.count; i += 32) l += exp2_fast(piece[i][0] - top) * piece[i][1];
    l = warp_sum(l);
    for (int c = 2 * lane; c < rank; c += 64) {
        float2 sum = {0, 0};
#pragma unroll 8
        for (int i = 0; i < piece.count; i++) {
            const float *p = piece[i];
            float2 o = *(const float2 *)(p + 2 + c);
            float weight = exp2_fast(p[0] - top);
            sum.x += weight * o.x, sum.y += weight * o.y;
        }
        to[c] = from_float<T>(sum.x / l), to[c + 1] = from_float<T>(sum.y / l);
    }
}

/* grid (H, rows / 8): o of a head, for eight rows. */
template <typename T>
__global__ void __launch_bounds__(32 * HEAD_WARPS)
    heads_kernel(const __grid_constant__ MlaFew m, const T *o_latent, const float *scratch,
                 const __grid_constant__ MlaDecodeShape shape, MlaPieces pieces) {
    extern __shared__ __align__(16) unsigned char memory[];
    T *latent = (T *)memory; /* [HEAD_ROWS, stride] */
    const MlaShape &s = m.shape;
    int h = blockIdx.x, first_row = blockIdx.y * HEAD_ROWS, warp = threadIdx.x / 32;
    int rank = s.kv_lora_rank, rows = min(m.batch * m.tokens - first_row, HEAD_ROWS);
    int stride = (int)skinny_stride<T>(rank);
    const T *w_uv = (const T *)m.kv_b_proj + ((int64_t)h * (s.nope + s.v) + s.nope) * rank;
    SkinnySum<T, 1, 4> sum;
    if (warp * SKINNY_TILE < s.v)
        sum.begin(w_uv + (int64_t)warp * SKINNY_TILE * rank, rank, s.v - warp * SKINNY_TILE, 0, 1);
    early_go();
    early_wait();
    for (int n = warp; n < rows; n += HEAD_WARPS) {
        int row = first_row + n, b = row / m.tokens, r = row % m.tokens * s.heads + h;
        const T *whole = o_latent + ((int64_t)row * s.heads + h) * rank;
        MlaJoin piece(scratch, m.lengths, shape, pieces, b);
        piece.of_row(r);
        join_row(latent + n * stride, whole, piece, rank);
    }
    __syncthreads();
    SkinnyRows<T> x = {latent, stride, rows};
    for (int first = warp * SKINNY_TILE; first < s.v; first += HEAD_WARPS * SKINNY_TILE) {
        if (first >= HEAD_WARPS * SKINNY_TILE)
            sum.begin(w_uv + (int64_t)first * rank, rank, s.v - first, 0, 1);
        sum.run(x);
        skinny_each(sum.sum, [&](int j, int n, float value) {
            if (n < rows)
                ((T *)m.o)[((int64_t)(first_row + n) * s.heads + h) * s.v + first + j] =
                    from_float<T>(value);
        });
    }
}

extern "C" void mla_few_attention_cuda(Gpu *gpu, DType dtype, const MlaFew *m, void *o_latent,
                                       float *scratch, MlaDecodeShape shape) {
    MlaPieces pieces = {1, 1}; /* as if one block had had it all: it is joined */
    if (mla_decode_hopper_supports(gpu, dtype, shape))
        mla_decode_hopper_cuda(gpu, dtype, o_latent, scratch, m->q_absorbed, m->cache,
                               m->block_table, m->lengths, shape);
    else if (mla_decode_mma_supports(gpu, dtype, shape))
        pieces = mla_decode_mma_pieces(gpu, o_latent, scratch, m->q_absorbed, m->cache,
                                       m->block_table, m->lengths, shape);
    else
        pieces = mla_decode_split_pieces(gpu, dtype, o_latent, scratch, m->q_absorbed, m->cache,
                                         m->block_table, m->lengths, shape);
    dim3 grid((unsigned)m->shape.heads, (unsigned)ceil_div(m->batch * m->tokens, HEAD_ROWS));
    DTYPE_SWITCH(
        dtype, T,
        early_launch(gpu, heads_kernel<T>, grid, 32 * HEAD_WARPS,
                     HEAD_ROWS * (size_t)skinny_stride<T>(m->shape.kv_lora_rank) * sizeof(T), *m,
                     (const T *)o_latent, scratch, shape, pieces));
}
