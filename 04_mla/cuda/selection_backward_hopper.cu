/*
 * Sparse attention's backward pass on Hopper: the five products of a query's 64 heads with 64
 * listed keys, and a sum over the queries that has one order.
 *
 *     S  = Q Z^T       P  = exp(scale S - lse)             dC += P^T dO
 *     dP = dO C^T      dS = scale P (dP - delta)           dZ += dS^T Q       dQ += dS Z
 *
 * C is Z's first 512 columns, so dC is a part of dZ: a row of 576 sums for each listed key. dQ
 * stays in registers while a block walks down the list. dZ cannot: each query of the text adds to
 * rows that others add to, too.
 *
 * Order of the sums. To add with atomics would give other bits in every run. So a query leaves its
 * rows, rounded to BF16 as P and dS already are, in a place of their own; and when a chunk of
 * queries is done, a block for each key adds up what the chunk has for it, queries in order, in
 * F32. It finds them by a map [keys, queries of the chunk] of places in lists. The rows are
 * written and read once, 2304 bytes for a listed key and 64 heads, against 2304 that atomics would
 * bring to the L2 cache.
 *
 * A block has 64 heads of one query, two warpgroups and all of the shared memory: Q 72 KiB, dO 64,
 * Z 72, P and dS 8 each. In a step of 64 keys
 *
 *     both    S and dP of 32 keys each; P and dS, to shared memory
 *     each    dQ of 5 or 4 of Z's nine boxes; then Z is free, and the next rows are fetched while
 *     each    dZ of 4 or 5 boxes is made, 64 x 64 at a time, and written.
 *
 * Work. A step is 64 * 64 * 2 * 2752 operations, 5504 clocks of the tensor cores. NVIDIA H200, 4096
 * queries of 128 heads, 2048 of 8192 keys: 28.6 ms, 207 TFLOPS; of 65,536 keys: 32.3 ms, 183.
 * What limits: one Z, so that all of a block meets three times in a step; and the rows, 39 GB, 10
 * ms at the speed of a copy.
 */
#include "04_mla/cuda/selection_hopper.cuh"

namespace sparse {

enum {
    BACKWARD_THREADS = 256,
    MOST_QUERIES = 512, /* of a chunk */
    SUM_COLUMNS = WIDTH / 4,
    SUM_THREADS = 160
};
static const int64_t CHUNK_BYTES = (int64_t)1 << 30;

struct BackwardTiles {
    alignas(1024) bf16 q[BOXES][64 * 64];
    bf16 d_o[VALUE_BOXES][64 * 64];
    bf16 z[BOXES][64 * 64];
    bf16 p[64 * 64], ds[64 * 64]; /* [head][key] */
    float lse[TILE], delta[TILE]; /* lse: of base 2 */
};
static_assert(sizeof(BackwardTiles) <= 227 * 1024, "more than a block can have");

struct Backward {
    Arguments a;
    const bf16 *d_o;
    const float *lse, *delta; /* [B, H, T]; [B, T, H] */
    bf16 *dq;                 /* or NULL */
    bf16 *rows;               /* [queries of the chunk, sets, count, WIDTH], or NULL */
    int add_q, b, first;      /* the sequence; the chunk's first query */
};

#if HOPPER_CODE

__device__ __forceinline__ int fetch_at() { return threadIdx.x / 8; } /* and 32 below it */

/* The 64 listed rows from `first` on. */
__device__ __forceinline__ void fetch_keys(BackwardTiles &s, const Backward &g, const int32_t *list,
                                           int count, int first) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int row = fetch_at() + 32 * j;
        fetch_row<BOXES>(s.z[0], row, listed_row(g.a, g.b, list, count, first + row));
    }
    cp_async_commit();
}

/* Copies are done, ordinary stores are seen by wgmma, and all threads are here. */
__device__ __forceinline__ void meet() {
    cp_async_wait<0>();
    async_proxy_fence();
    __syncthreads();
}

/* x [64 heads x 32 keys] = A Z'^T over COUNT boxes of 64 columns; this group's keys of Z. */
template <int COUNT>
__device__ __forceinline__ void multiply_keys(float (&x)[16], const bf16 *rows, const bf16 *z,
                                              int group) {
    uint64_t a = wgmma_k_major(rows), b = wgmma_k_major(z + group * 32 * 64);
#pragma unroll
    for (int k = 0; k < 4 * COUNT; k++) {
        int step = k / 4 * (BOX_BYTES >> 4) + k % 4 * WGMMA_K_STEP;
        Wgmma<32>::shared<0, 0>(x, a + step, b + step, k > 0);
    }
}

/* P and dS of this group's 32 of the `left` keys from here on. */
__device__ __forceinline__ void probabilities(BackwardTiles &s, const Backward &g, int group,
                                              int left) {
    float x[16], dx[16];
    wgmma_fence(x, dx);
    multiply_keys<BOXES>(x, s.q[0], s.z[0], group);
    multiply_keys<VALUE_BOXES>(dx, s.d_o[0], s.z[0], group);
    wgmma_commit();
    wgmma_wait<0>(x, dx);
    int key = group * 32 + threadIdx.x % 4 * 2;
    float scale = g.a.s.attention.scale;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        int row = my_row() + i / 2 % 2 * 8;
        float p =
            key + i / 4 * 8 + i % 2 < left ? exp2_fast(x[i] * g.a.scale_log2 - s.lse[row]) : 0.0f;
        x[i] = p;
        dx[i] = scale * p * (dx[i] - s.delta[row]);
    }
    store_columns<2>(s.p, x, group * 32);
    store_columns<2>(s.ds, dx, group * 32);
}

/* A box of dZ: 64 keys x 64 columns, into the rows that this query leaves. */
__device__ __forceinline__ void key_gradient(BackwardTiles &s, bf16 *rows, int box, int left) {
    float x[32];
    uint64_t ds = wgmma_mn_major(s.ds, 0), p = wgmma_mn_major(s.p, 0);
    uint64_t q = wgmma_mn_major(s.q[box], 0), d_o = wgmma_mn_major(s.d_o[box % VALUE_BOXES], 0);
    wgmma_fence(x);
#pragma unroll
    for (int k = 0; k < 4; k++)
        Wgmma<64>::shared<1, 1>(x, ds + k * WGMMA_MN_STEP, q + k * WGMMA_MN_STEP, k > 0);
    if (box < VALUE_BOXES)
#pragma unroll
        for (int k = 0; k < 4; k++)
            Wgmma<64>::shared<1, 1>(x, p + k * WGMMA_MN_STEP, d_o + k * WGMMA_MN_STEP, 1);
    wgmma_commit();
    wgmma_wait<0>(x);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int key = my_row() + 8 * r;
        bf16 *to = rows + (int64_t)key * WIDTH + box * 64 + threadIdx.x % 4 * 2;
        if (key >= left) continue;
#pragma unroll
        for (int j = 0; j < 8; j++)
            *(uint32_t *)(to + 8 * j) = pack_bf16(x[4 * j + 2 * r], x[4 * j + 2 * r + 1]);
    }
}

/* dQ of boxes FROM .. FROM + COUNT - 1: out of the registers. */
template <int FROM, int COUNT>
__device__ __forceinline__ void write_queries(const float (&dq)[COUNT][32], const Backward &g,
                                              int64_t token, int first_head) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int head = first_head + my_row() + 8 * r, heads = g.a.s.attention.heads;
        if (head >= heads || !g.dq) continue;
        bf16 *to = g.dq + (token * heads + head) * WIDTH + FROM * 64 + threadIdx.x % 4 * 2;
#pragma unroll
        for (int c = 0; c < COUNT; c++)
#pragma unroll
            for (int j = 0; j < 8; j++) {
                float x = dq[c][4 * j + 2 * r], y = dq[c][4 * j + 2 * r + 1];
                __nv_bfloat162 *at = (__nv_bfloat162 *)(to + c * 64 + 8 * j);
                if (g.add_q) x += to_float(at->x), y += to_float(at->y);
                *at = __floats2bfloat162_rn(x, y);
            }
    }
}

/* A warpgroup: dQ of the boxes FROM on, dZ of COUNT_Z from FROM_Z on. */
template <int FROM, int COUNT, int FROM_Z, int COUNT_Z>
__device__ void walk(BackwardTiles &s, const Backward &g, int64_t token, int first_head, bf16 *rows,
                     int group) {
    const int32_t *list = g.a.lists + token * g.a.s.count;
    int count = g.a.counts[token];
    float dq[COUNT][32];
#pragma unroll
    for (int c = 0; c < COUNT; c++)
#pragma unroll
        for (int i = 0; i < 32; i++) dq[c][i] = 0.0f;
    for (int first = 0; first < count; first += KEYS) {
        meet(); /* the rows are here, and everybody is done with P and dS */
        probabilities(s, g, group, count - first);
        meet();
        uint64_t ds = wgmma_k_major(s.ds);
#pragma unroll
        for (int c = 1; c < COUNT; c++) wgmma_touch(dq[c]);
        wgmma_fence(dq[0]);
#pragma unroll
        for (int c = 0; c < COUNT; c++) {
            uint64_t z = wgmma_mn_major(s.z[FROM + c], 0);
#pragma unroll
            for (int k = 0; k < 4; k++)
                Wgmma<64>::shared<0, 1>(dq[c], ds + k * WGMMA_K_STEP, z + k * WGMMA_MN_STEP, 1);
        }
        wgmma_commit();
#pragma unroll
        for (int c = 0; c < COUNT; c++) wgmma_wait<0>(dq[c]);
        __syncthreads(); /* Z is free */
        if (first + KEYS < count) fetch_keys(s, g, list, count, first + KEYS);
        if (rows)
#pragma unroll 1
            for (int box = FROM_Z; box < FROM_Z + COUNT_Z; box++)
                key_gradient(s, rows + (int64_t)first * WIDTH, box, count - first);
    }
    cp_async_wait<0>(); /* an empty list's rows were asked for, too */
    write_queries<FROM, COUNT>(dq, g, token, first_head);
}

#endif /* HOPPER_CODE */

/* A block for 64 heads of one of the chunk's queries. */
static __global__ void __launch_bounds__(BACKWARD_THREADS, 1)
    backward_kernel(const __grid_constant__ Backward g) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char memory[];
    BackwardTiles &s = *(BackwardTiles *)memory;
    const AttentionShape &shape = g.a.s.attention;
    int t = g.first + blockIdx.x / g.a.sets, first_head = blockIdx.x % g.a.sets * TILE;
    int64_t token = (int64_t)g.b * shape.q_len + t;
    for (int row = fetch_at(); row < TILE; row += 32) {
        bool valid = first_head + row < shape.heads;
        int64_t at = token * shape.heads + first_head + row;
        fetch_row<BOXES>(s.q[0], row, valid ? g.a.q + at * WIDTH : NULL);
        fetch_row<VALUE_BOXES>(s.d_o[0], row, valid ? g.d_o + at * RANK : NULL);
    }
    fetch_keys(s, g, g.a.lists + token * g.a.s.count, g.a.counts[token], 0);
    if (threadIdx.x < TILE) {
        int head = first_head + threadIdx.x;
        bool valid = head < shape.heads; /* else P is 0 */
        int64_t at = ((int64_t)g.b * shape.heads + head) * shape.q_len + t;
        s.lse[threadIdx.x] = valid ? g.lse[at] * 1.44269504f : INFINITY;
        s.delta[threadIdx.x] = valid ? g.delta[token * shape.heads + head] : 0.0f;
    }
    bf16 *rows = g.rows ? g.rows + (int64_t)blockIdx.x * g.a.s.count * WIDTH : NULL;
    int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (group == 0)
        walk<0, 5, 0, 4>(s, g, token, first_head, rows, 0);
    else
        walk<5, 4, 4, 5>(s, g, token, first_head, rows, 1);
#else
    __trap(); /* selected_hopper_supports() keeps other GPUs away */
#endif
}

/* delta [B, T, H] = do . o, a warp each. */
static __global__ void delta_kernel(float *delta, const bf16 *d_o, const bf16 *o, int64_t rows) {
    int64_t row = (int64_t)blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= rows) return;
    float sum = 0.0f;
    for (int c = threadIdx.x % 32 * 2; c < RANK; c += 64) {
        __nv_bfloat162 x = *(const __nv_bfloat162 *)(d_o + row * RANK + c);
        __nv_bfloat162 y = *(const __nv_bfloat162 *)(o + row * RANK + c);
        sum += to_float(x.x) * to_float(y.x) + to_float(x.y) * to_float(y.y);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[row] = sum;
}

/* map [keys, MOST_QUERIES]: where a query's list has a key. A block for each query of the chunk;
 * the map was all -1. */
static __global__ void map_kernel(int32_t *map, const int32_t *lists, const int32_t *counts,
                                  int count) {
    for (int e = threadIdx.x; e < counts[blockIdx.x]; e += blockDim.x)
        map[(int64_t)lists[(int64_t)blockIdx.x * count + e] * MOST_QUERIES + blockIdx.x] = e;
}

/* sum [keys, WIDTH] = or += what the chunk's queries have for a key, in order. A block for each. */
static __global__ void __launch_bounds__(SUM_THREADS)
    sum_kernel(float4 *sum, const bf16 *rows, const int32_t *map, int queries, int sets, int count,
               bool add) {
    __shared__ int hits[MOST_QUERIES], found;
    map += (int64_t)blockIdx.x * MOST_QUERIES;
    if (threadIdx.x < 32) {
        int n = 0, lane = threadIdx.x;
        for (int q = 0; q < queries; q += 32) {
            int e = q + lane < queries ? map[q + lane] : -1;
            unsigned here = __ballot_sync(~0u, e >= 0);
            if (e >= 0) hits[n + __popc(here & ((1u << lane) - 1))] = (q + lane) * sets * count + e;
            n += __popc(here);
        }
        if (lane == 0) found = n;
    }
    __syncthreads();
    if ((add && found == 0) || threadIdx.x >= SUM_COLUMNS) return;
    float4 *to = sum + (int64_t)blockIdx.x * SUM_COLUMNS + threadIdx.x;
    float4 x = add ? *to : make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int i = 0; i < found * sets; i++) {
        int64_t row = hits[i / sets] + i % sets * count;
        Pack<bf16, 4> y = ((const Pack<bf16, 4> *)(rows + row * WIDTH))[threadIdx.x];
        x.x += to_float(y.v[0]), x.y += to_float(y.v[1]);
        x.z += to_float(y.v[2]), x.w += to_float(y.v[3]);
    }
    *to = x;
}

static __global__ void round_kernel(bf16 *to, int add, const float *from, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        to[i] = from_float<bf16>(add ? to_float(to[i]) + from[i] : from[i]);
}

/* Queries of a chunk: as many as leave their rows in 1 GiB, and whole rounds of the GPU's
 * processors. */
static int chunk_of(const Gpu *gpu, const SelectedShape &s) {
    int64_t sets = ceil_div(s.attention.heads, TILE);
    int64_t fit = CHUNK_BYTES / (sets * s.count * WIDTH * 2);
    fit = fit < 1 ? 1 : fit < MOST_QUERIES ? fit : MOST_QUERIES;
    int64_t rounds = fit * sets / gpu->sm_count;
    if (rounds) fit = rounds * gpu->sm_count / sets;
    return (int)(fit < s.attention.q_len ? fit : s.attention.q_len);
}

/* What lies where in the scratch. */
struct Scratch {
    float *delta, *sum;
    int32_t *map;
    bf16 *rows;
    size_t bytes;
    Scratch(const Gpu *gpu, void *scratch, const SelectedShape &s) {
        const AttentionShape &a = s.attention;
        size_t at[5] = {0, (size_t)a.batch * a.q_len * a.heads * 4, (size_t)a.kv_len * WIDTH * 4,
                        (size_t)a.kv_len * MOST_QUERIES * 4,
                        chunk_of(gpu, s) * (size_t)ceil_div(a.heads, TILE) * s.count * WIDTH * 2};
        for (int i = 1; i < 5; i++) at[i] = at[i - 1] + (at[i] + 255) / 256 * 256;
        char *base = (char *)scratch;
        delta = (float *)base, sum = (float *)(base + at[1]), map = (int32_t *)(base + at[2]);
        rows = (bf16 *)(base + at[3]), bytes = at[4];
    }
};

} /* namespace sparse */

size_t selected_backward_hopper_scratch(const Gpu *gpu, SelectedShape s) {
    return sparse::Scratch(gpu, NULL, s).bytes;
}

void selected_backward_hopper_cuda(Gpu *gpu, DType dtype, void *dq, int add_q, void *dk, int add_k,
                                   void *dv, int add_v, void *scratch, const void *d_o,
                                   const void *q, const void *k, const void *v, const void *o,
                                   const float *lse, const void *work, SelectedShape s) {
    using namespace sparse;
    const AttentionShape &shape = s.attention;
    (void)add_v;
    selected_backward_check(&s, k, v, dv);
    CHECK(selected_hopper_supports(gpu, dtype, o, q, k, v, s) && s.latent,
          "sparse attention on Hopper: for latents of 512 + 64 numbers in BF16, not for %d and %d",
          shape.qk_dim, shape.v_dim);
    Scratch w(gpu, scratch, s);
    int64_t rows = (int64_t)shape.batch * shape.q_len * shape.heads;
    gpu_launch(gpu, delta_kernel, (unsigned)ceil_div(rows, 4), 128, 0, w.delta, (const bf16 *)d_o,
               (const bf16 *)o, rows);
    Backward g = {arguments(q, k, work, s),
                  (const bf16 *)d_o,
                  lse,
                  w.delta,
                  (bf16 *)dq,
                  dk ? w.rows : NULL,
                  add_q};
    int chunk = chunk_of(gpu, s);
    int64_t width = (int64_t)shape.kv_len * WIDTH;
    for (g.b = 0; g.b < shape.batch; g.b++) {
        for (g.first = 0; g.first < shape.q_len; g.first += chunk) {
            int queries = shape.q_len - g.first < chunk ? shape.q_len - g.first : chunk;
            int64_t token = (int64_t)g.b * shape.q_len + g.first;
            gpu_launch(gpu, backward_kernel, (unsigned)(queries * g.a.sets), BACKWARD_THREADS,
                       sizeof(BackwardTiles), g);
            if (!dk) continue;
            CUDA_CHECK(
                cudaMemsetAsync(w.map, 0xff, (size_t)shape.kv_len * MOST_QUERIES * 4, gpu->stream));
            gpu_launch(gpu, map_kernel, (unsigned)queries, 256, 0, w.map,
                       g.a.lists + token * s.count, g.a.counts + token, s.count);
            gpu_launch(gpu, sum_kernel, (unsigned)shape.kv_len, SUM_THREADS, 0, (float4 *)w.sum,
                       w.rows, w.map, queries, g.a.sets, s.count, g.first > 0);
        }
        if (dk)
            gpu_launch(gpu, round_kernel, (unsigned)gpu_blocks(gpu, 256, width), 256, 0,
                       (bf16 *)dk + g.b * shape.k.batch, add_k, w.sum, width);
    }
}
