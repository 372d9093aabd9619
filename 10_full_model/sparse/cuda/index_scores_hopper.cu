/*
 * Scores of the lightning indexer with Hopper's wgmma, from keys in BF16 or in eight bits.
 *
 * A warpgroup has 64 keys, a page, and multiplies them with the heads of one query after the other:
 *
 *     D [64 keys, H heads] = K [64, 128] Q^T        score[key] = sum over heads of w ReLU(D)
 *
 * Keys never see shared memory. wgmma takes its first operand from registers, and a sum does not
 * mind the order of its terms: so lane c of a row's four loads a quarter of it, 32 numbers side by
 * side, and the queries, which stay in shared memory for many pages, are written in the order that
 * follows. (mla_decode_e4m3_hopper.cu has its keys so, too.)
 *
 * Instructions. For a query the tensor cores need 128 clocks in eight bits and 256 in BF16, the
 * ReLU and the sum about 80: a maximum, a product and a sum for each of 32 numbers of a thread. So
 * a warpgroup starts the next query's product before it adds up this one's, and a processor has
 * four warpgroups. QUERIES of them share a page's loads.
 *
 * Eight bits. A query's head is rounded already (index_round): its codes and its scale are found
 * again, exactly, and the scale joins the head's weight; ReLU lets positive factors through. A
 * key's scale is multiplied to its sum. Products of codes are exact; tensor cores add them up with
 * fewer bits than F32 has (08_quant/fp8_rungs.h).
 *
 * Rows behind the last key hold anything: a row of D depends on its own key alone, and what no
 * query sees is not written.
 */
#include "10_full_model/sparse/index_kernels.h"
#include "common/cuda/hopper.cuh"

#include <cuda_fp8.h>

enum { DIM = 128, GROUPS = 2, THREADS = 128 * GROUPS, PART = 20 /* floats of a lane's weights */ };

template <int QUERIES_, int H_, bool E4M3_> struct Kind {
    static constexpr int QUERIES = QUERIES_, H = H_;
    static constexpr bool E4M3 = E4M3_;
    static constexpr int BOXES = E4M3 ? 1 : 2; /* of 128 bytes of a row */
    static constexpr int STEPS = E4M3 ? 4 : 8; /* of the product */
    /* Blocks of a processor. With one query keys come from memory, and more of them should be on
     * their way. */
    static constexpr int RESIDENT = E4M3 && QUERIES == 1 ? 3 : 2;
};

template <typename K> struct Shared {
    alignas(1024) char q[K::QUERIES][K::BOXES][K::H * 128]; /* swizzled */
    /* weights times scales: for lane c of four, those of its columns 8 j + 2 c + e at 2 j + e */
    alignas(16) float w[K::QUERIES][4][PART];
};

struct Arguments {
    float *scores;
    const bf16 *q;
    const float *weights;
    const unsigned char *keys;
    IndexShape s;
    int tiles; /* pages of 64 keys of a block */
};

#if HOPPER_CODE

__device__ __forceinline__ int lane_of() { return threadIdx.x % 32; }

/* A row of a query: a warp's lane has numbers 4 lane .. 4 lane + 3. Zeros where there is none. */
template <typename K>
__device__ __forceinline__ void put_row(Shared<K> &s, int i, int h, const bf16 *row, float weight) {
    int lane = lane_of(), c = lane / 8;
    uint2 in = row ? *(const uint2 *)(row + 4 * lane) : make_uint2(0, 0);
    float factor = weight;
    if (K::E4M3) {
        float x[4] = {__uint_as_float(in.x << 16), __uint_as_float(in.x & 0xffff0000u),
                      __uint_as_float(in.y << 16), __uint_as_float(in.y & 0xffff0000u)};
        float amax = fmaxf(fmaxf(fabsf(x[0]), fabsf(x[1])), fmaxf(fabsf(x[2]), fabsf(x[3])));
        bool bad = false;
        for (int e = 0; e < 4; e++) bad |= !(fabsf(x[e]) <= FLT_MAX);
        bad = __any_sync(~0u, bad); /* a head that is not finite says nothing, as ReLU(NaN) does */
        float scale = bad ? 1.0f : latent_row_scale(warp_max(amax));
        uint32_t codes = 0;
        for (int e = 0; e < 4; e++)
            codes |= (uint32_t)__nv_cvt_float_to_fp8(x[e] / scale, __NV_SATFINITE, __NV_E4M3)
                     << 8 * e;
        int piece = lane % 8; /* 16 bytes: two for each step */
        *(uint32_t *)(s.q[i][0] + h * 128 + ((piece ^ h % 8) * 16) + 4 * c) = bad ? 0 : codes;
        factor *= scale;
    } else {
        int column = lane % 8 * 16 + 2 * c; /* and 8 further */
        char *box = s.q[i][column / 64];
        *(uint32_t *)(box + swizzle_128(h, column % 64)) = in.x;
        *(uint32_t *)(box + swizzle_128(h, column % 64 + 8)) = in.y;
    }
    if (lane == 0) s.w[i][h % 8 / 2][h / 8 * 2 + h % 2] = factor;
}

/* A lane's part of two of its warp's keys, rows lane / 4 and + 8, as they lie in memory. */
template <typename K> struct Keys {
    static constexpr int PIECES = K::E4M3 ? 2 : 4; /* of 16 bytes, of a row */
    uint4 piece[2][PIECES];
    float scale[2];

    /* Of the page that begins at `row` of the pool; without pages the last row is `last`. */
    __device__ __forceinline__ void load(const unsigned char *keys, int64_t row, int64_t last) {
        int mine = threadIdx.x % 128 / 32 * 16 + lane_of() / 4;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int64_t at = min(row + mine + 8 * r, last);
            const unsigned char *from = keys + (K::E4M3 ? index_codes_at(at, DIM) : at * DIM * 2) +
                                        lane_of() % 4 * PIECES * 16;
#pragma unroll
            for (int i = 0; i < PIECES; i++) piece[r][i] = __ldg((const uint4 *)from + i);
            scale[r] = 1.0f;
            if (K::E4M3) {
                float x = __ldg((const float *)(keys + index_scales_at(at, DIM)));
                scale[r] = x == x ? x : 0.0f; /* NaN: a key that nobody wants */
            }
        }
    }
    /* As wgmma wants them: a[k] is step k's. */
    __device__ __forceinline__ void take(uint32_t (&a)[K::STEPS][4]) const {
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int i = 0; i < PIECES; i++) {
                const uint4 &p = piece[r][i];
                a[2 * i][r] = p.x, a[2 * i][2 + r] = p.y;
                a[2 * i + 1][r] = p.z, a[2 * i + 1][2 + r] = p.w;
            }
    }
};

/* D of query i; starts it, does not wait. */
template <typename K>
__device__ __forceinline__ void multiply(float (&d)[K::H / 2], const uint32_t (&a)[K::STEPS][4],
                                         Shared<K> &s, int i) {
    uint64_t q = wgmma_k_major(s.q[i][0]);
    wgmma_fence(d);
#pragma unroll
    for (int k = 0; k < K::STEPS; k++) {
        if constexpr (K::E4M3)
            Wgmma<K::H>::fp8_registers(d, a[k], q + k * WGMMA_K_STEP, k > 0);
        else
            Wgmma<K::H>::template registers<0>(
                d, a[k], q + k / 4 * (K::H * 128 >> 4) + k % 4 * WGMMA_K_STEP, k > 0);
    }
    wgmma_commit();
}

/* The weighted sums of two keys, over this lane's heads; then over those of all four. */
template <typename K>
__device__ __forceinline__ void add_up(float (&sum)[2], const float (&d)[K::H / 2],
                                       const Shared<K> &s, int i) {
    const float *w = s.w[i][lane_of() % 4];
    sum[0] = sum[1] = 0.0f;
#pragma unroll
    for (int j = 0; j < K::H / 8; j += 2) {
        float4 four = *(const float4 *)(w + 2 * j);
        const float weight[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                sum[r] = fmaf(fmaxf(d[4 * (j + n / 2) + 2 * r + n % 2], 0.0f), weight[n], sum[r]);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    }
}

/* grid (key chunks, groups of QUERIES, B) */
template <typename K> __device__ void scores_of_block(Shared<K> &s, const Arguments &a) {
    const IndexShape &shape = a.s;
    int b = blockIdx.z, first = blockIdx.y * K::QUERIES, group = threadIdx.x / 128;
    int queries = min(shape.count - first, K::QUERIES), lane = lane_of();
    int seen = index_keys_seen(&shape, b, shape.first + first + queries - 1);
    int tile = blockIdx.x * a.tiles, end = min(tile + a.tiles, (seen + 63) / 64);
    if (tile >= end) return;
    const int32_t *pages =
        shape.block_table ? shape.block_table + (int64_t)b * shape.max_pages : NULL;
    int64_t last = pages ? INT64_MAX : (int64_t)(b + 1) * shape.kv_len - 1;
    auto row_of = [&](int t) {
        return pages ? (int64_t)pages[t] * PAGE_TOKENS : (int64_t)b * shape.kv_len + t * 64;
    };
    tile += group;
    Keys<K> next; /* on their way while the queries are prepared */
    if (tile < end) next.load(a.keys, row_of(tile), last);
    int64_t row = tile + GROUPS < end ? row_of(tile + GROUPS) : 0;
    for (int r = threadIdx.x / 32; r < K::QUERIES * K::H; r += THREADS / 32) {
        int i = r / K::H, h = r % K::H;
        int64_t query = (int64_t)b * shape.q_len + shape.first + first + i;
        bool there = i < queries;
        put_row(s, i, h, there ? a.q + (query * K::H + h) * DIM : NULL,
                there ? a.weights[query * K::H + h] : 0.0f);
    }
    async_proxy_fence();
    __syncthreads();
    int mine = threadIdx.x % 128 / 32 * 16 + lane / 4 + lane % 4 * 8; /* lanes 0, 1 of four write */
    float *to = a.scores + ((int64_t)b * shape.count + first) * shape.kv_len;
    seen -= queries - 1; /* of the first query */
    for (; tile < end; tile += GROUPS) {
        uint32_t keys[K::STEPS][4];
        float d[2][K::H / 2], scale[2] = {next.scale[0] * shape.scale, next.scale[1] * shape.scale};
        next.take(keys);
        if (tile + GROUPS < end) next.load(a.keys, row, last);
        if (tile + 2 * GROUPS < end) row = row_of(tile + 2 * GROUPS);
#pragma unroll
        for (int k = 0; k < K::STEPS; k++) wgmma_touch(keys[k]);
        multiply(d[0], keys, s, 0);
#pragma unroll
        for (int i = 0; i < K::QUERIES; i++) {
            if (i + 1 < K::QUERIES) {
                multiply(d[(i + 1) % 2], keys, s, i + 1);
                wgmma_wait<1>(d[i % 2]);
            } else {
                wgmma_wait<0>(d[i % 2]);
            }
            float sum[2];
            add_up(sum, d[i % 2], s, i);
            float score = lane % 4 ? sum[1] * scale[1] : sum[0] * scale[0];
            int key = tile * 64 + mine;
            if (lane % 4 < 2 && i < queries && key < seen + i)
                to[i * (int64_t)shape.kv_len + key] = score;
        }
    }
}

#endif /* HOPPER_CODE */

template <typename K>
__global__ void __launch_bounds__(THREADS, K::RESIDENT)
    scores_kernel(const __grid_constant__ Arguments a) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char memory[];
    scores_of_block(*(Shared<K> *)memory, a);
#else
    __trap(); /* index_scores_hopper_supports() keeps other GPUs away */
#endif
}

/* ---- host ---- */

int index_scores_hopper_supports(const Gpu *gpu, DType dtype, const void *q, const void *keys,
                                 IndexShape s) {
    return gpu->compute_capability == 90 && dtype == BF16 && s.dim == DIM &&
           (s.heads == 32 || s.heads == 64) && ((uintptr_t)q | (uintptr_t)keys) % 16 == 0;
}

/* Into how many chunks of keys each item is cut, so that in a few rounds all processors have work
 * to the end. */
static int chunks_of(int64_t items, int64_t resident) {
    int64_t best = 1;
    double most = 0;
    for (int rounds = 1; rounds <= 4; rounds++) {
        int64_t chunks = resident * rounds / items > 1 ? resident * rounds / items : 1;
        double used =
            (double)(items * chunks) / (double)(ceil_div(items * chunks, resident) * resident);
        if (used > most + 0.02) most = used, best = chunks;
    }
    return (int)best;
}

template <typename K> static void run(Gpu *gpu, Arguments a) {
    const IndexShape &s = a.s;
    int groups = (int)ceil_div(s.count, K::QUERIES), tiles = (int)ceil_div(s.kv_len, 64);
    int chunks = chunks_of((int64_t)groups * s.batch, K::RESIDENT * (int64_t)gpu->sm_count);
    a.tiles = (int)ceil_div(tiles, chunks);
    if (a.tiles < 2 * GROUPS) a.tiles = 2 * GROUPS;
    CHECK(groups <= 65535 && s.batch <= 65535, "index_scores: %d queries of %d sequences; too many",
          s.count, s.batch);
    dim3 grid((unsigned)ceil_div(tiles, a.tiles), (unsigned)groups, (unsigned)s.batch);
    gpu_launch(gpu, scores_kernel<K>, grid, THREADS, sizeof(Shared<K>), a);
}

template <int QUERIES> static void run_kind(Gpu *gpu, const Arguments &a) {
    if (a.s.heads == 64)
        a.s.e4m3 ? run<Kind<QUERIES, 64, true>>(gpu, a) : run<Kind<QUERIES, 64, false>>(gpu, a);
    else
        a.s.e4m3 ? run<Kind<QUERIES, 32, true>>(gpu, a) : run<Kind<QUERIES, 32, false>>(gpu, a);
}

void index_scores_hopper_cuda(Gpu *gpu, DType dtype, float *scores, const void *q,
                              const float *weights, const void *keys, IndexShape s) {
    CHECK(index_scores_hopper_supports(gpu, dtype, q, keys, s),
          "scores with wgmma are for sm_90, BF16, 32 or 64 heads of 128 numbers and addresses that "
          "are multiples of 16: this is sm_%d, %s, %d of %d",
          gpu->compute_capability, dtype_name(dtype), s.heads, s.dim);
    Arguments a = {scores, (const bf16 *)q, weights, (const unsigned char *)keys, s, 0};
    if (s.count == 1)
        run_kind<1>(gpu, a);
    else if (s.count == 2)
        run_kind<2>(gpu, a);
    else
        run_kind<4>(gpu, a);
}
