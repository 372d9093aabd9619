/*
 * Scores of the lightning indexer with mma.sync, the tensor cores of sm_80 and later: BF16 queries
 * against keys in BF16, or in eight bits, whose codes are numbers of BF16, too.
 *
 * A warp has 16 keys in registers for as long as it lives, and meets one query after the other:
 *
 *     D [16 keys, 8 heads] = K [16, dim] Q^T        score[key] = sum over heads of w ReLU(D)
 *
 * A sum does not mind the order of its terms. So lane c of a row's four loads a quarter of the key,
 * dim / 4 numbers side by side, and step k multiplies numbers 4 k .. 4 k + 3 of each quarter. The
 * queries are written to shared memory in that order, for every eight heads and every step what
 * lane after lane reads, eight bytes each. Heads that are missing to a multiple of eight are zeros.
 */
#include "04_mla/cuda/latent_row.cuh"
#include "10_full_model/sparse/index_kernels.h"
#include "common/cuda/codes.cuh"
#include "common/cuda/mma.cuh"

enum { WARPS = 8, THREADS = 32 * WARPS, TILE = 16 * WARPS, QUERIES = 16, DIM_MAX = 128 };

/* Queries and weights of one query in shared memory. */
struct Query {
    uint2 *q; /* [heads / 8][steps][32] */
    float *w; /* [heads], a multiple of eight */
};

static __host__ __device__ int blocks_of(const IndexShape &s) { return (s.heads + 7) / 8; }
static __host__ __device__ int query_bytes(const IndexShape &s) {
    return blocks_of(s) * (s.dim / 16 * 32 * 8 + 8 * 4);
}

static __device__ void put_query(Query to, const bf16 *q, const float *w, const IndexShape &s) {
    int steps = s.dim / 16, count = blocks_of(s) * steps * 32;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        int lane = i % 32, k = i / 32 % steps, h = i / 32 / steps * 8 + lane / 4;
        to.q[i] = h < s.heads
                      ? *(const uint2 *)(q + (int64_t)h * s.dim + lane % 4 * (s.dim / 4) + 4 * k)
                      : make_uint2(0, 0);
    }
    for (int h = threadIdx.x; h < blocks_of(s) * 8; h += THREADS)
        to.w[h] = h < s.heads ? w[h] : 0.0f;
}

/* A lane's quarters of rows lane / 4 and + 8, as A fragments. */
template <int STEPS> struct Keys {
    uint32_t a[STEPS][4];
    float scale[2];

    __device__ __forceinline__ void load(const unsigned char *keys, int64_t row, int r,
                                         const IndexShape &s) {
        int c = threadIdx.x % 4;
        scale[r] = s.scale;
        if (s.e4m3) {
            const uint32_t *from =
                (const uint32_t *)(keys + index_codes_at(row, s.dim) + c * (s.dim / 4));
            float x = *(const float *)(keys + index_scales_at(row, s.dim));
            scale[r] *= x == x ? x : 0.0f; /* NaN: a key that nobody wants */
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
                uint32_t codes = from[k];
                a[k][r] = e4m3_pair<0, 1>(codes), a[k][2 + r] = e4m3_pair<2, 3>(codes);
            }
        } else {
            const uint2 *from = (const uint2 *)((const bf16 *)keys + row * s.dim + c * (s.dim / 4));
#pragma unroll
            for (int k = 0; k < STEPS; k++) a[k][r] = from[k].x, a[k][2 + r] = from[k].y;
        }
    }
};

/* grid (kv_len / TILE, count / QUERIES, B) */
template <int STEPS>
__global__ void __launch_bounds__(THREADS)
    mma_kernel(float *scores, const bf16 *q, const float *weights, const unsigned char *keys,
               IndexShape s) {
    extern __shared__ __align__(16) unsigned char memory[];
    int b = blockIdx.z, first = blockIdx.y * QUERIES, end = min(first + QUERIES, s.count);
    int lane = threadIdx.x % 32, key = blockIdx.x * TILE + threadIdx.x / 32 * 16 + lane / 4;
    int seen = index_keys_seen(&s, b, s.first + end - 1);
    if ((int)(blockIdx.x * TILE) >= seen) return;
    Keys<STEPS> mine;
    for (int r = 0; r < 2; r++) {
        int j = min(key + 8 * r, seen - 1); /* behind the last: that one again */
        mine.load(keys,
                  s.block_table ? page_row(s.block_table + (int64_t)b * s.max_pages, j)
                                : (int64_t)b * s.kv_len + j,
                  r, s);
    }
    int bytes = query_bytes(s), blocks = blocks_of(s), floats = bytes - blocks * 32;
    for (int i = first; i < end; i++) {
        unsigned char *room = memory + (i - first) % 2 * bytes; /* in turn: one meeting a query */
        Query query = {(uint2 *)room, (float *)(room + floats)};
        int64_t at = (int64_t)b * s.q_len + s.first + i;
        put_query(query, q + at * s.heads * s.dim, weights + at * s.heads, s);
        __syncthreads();
        float sum[2] = {0.0f, 0.0f};
        for (int h = 0; h < blocks; h++) {
            float d[4] = {};
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
                uint2 x = query.q[(h * STEPS + k) * 32 + lane];
                const uint32_t two[2] = {x.x, x.y};
                mma_bf16(d, mine.a[k], two);
            }
            float2 w = *(const float2 *)(query.w + h * 8 + lane % 4 * 2);
            sum[0] = fmaf(fmaxf(d[0], 0.0f), w.x, fmaf(fmaxf(d[1], 0.0f), w.y, sum[0]));
            sum[1] = fmaf(fmaxf(d[2], 0.0f), w.x, fmaf(fmaxf(d[3], 0.0f), w.y, sum[1]));
        }
        for (int r = 0; r < 2; r++) {
            sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
            sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
            if (lane % 4 == r && key + 8 * r < index_keys_seen(&s, b, s.first + i))
                scores[((int64_t)b * s.count + i) * s.kv_len + key + 8 * r] =
                    sum[r] * mine.scale[r];
        }
    }
}

int index_scores_mma_supports(const Gpu *gpu, DType dtype, const void *q, const void *keys,
                              IndexShape s) {
    return gpu->compute_capability >= 80 && dtype == BF16 && s.dim % 16 == 0 && s.dim <= DIM_MAX &&
           2 * query_bytes(s) <= gpu->shared_memory_max &&
           ((uintptr_t)q | (uintptr_t)keys) % 8 == 0;
}

void index_scores_mma_cuda(Gpu *gpu, DType dtype, float *scores, const void *q,
                           const float *weights, const void *keys, IndexShape s) {
    CHECK(index_scores_mma_supports(gpu, dtype, q, keys, s),
          "scores with mma.sync are for sm_80, BF16 and heads of 16 to %d numbers: this is sm_%d, "
          "%s, %d",
          DIM_MAX, gpu->compute_capability, dtype_name(dtype), s.dim);
    int groups = (int)ceil_div(s.count, QUERIES);
    CHECK(groups <= 65535 && s.batch <= 65535, "index_scores: %d queries of %d sequences; too many",
          s.count, s.batch);
    auto kernel = mma_kernel<1>;
    switch (s.dim / 16) {
    case 2:
        kernel = mma_kernel<2>;
        break;
    case 3:
        kernel = mma_kernel<3>;
        break;
    case 4:
        kernel = mma_kernel<4>;
        break;
    case 5:
        kernel = mma_kernel<5>;
        break;
    case 6:
        kernel = mma_kernel<6>;
        break;
    case 7:
        kernel = mma_kernel<7>;
        break;
    case 8:
        kernel = mma_kernel<8>;
        break;
    }
    dim3 grid((unsigned)ceil_div(s.kv_len, TILE), (unsigned)groups, (unsigned)s.batch);
    gpu_launch(gpu, kernel, grid, THREADS, 2 * (size_t)query_bytes(s), scores, q, weights, keys, s);
}
