/*
 * Rung (d) of causal attention: Hopper's copy engine and asynchronous tensor cores.
 *
 * The mathematics is that of the rungs below. What changes is who does what, and when:
 *
 *   1. One producer thread asks TMA for tiles of Q, K and V, up to two tiles of keys ahead. The
 *      warps that compute (two or three warpgroups of 64 queries) read no global memory at all.
 *   2. wgmma is asynchronous. A warpgroup starts S' = Q K'^T of the next tile and O += P V of this
 *      one together, and computes the softmax of S' while O += P V still runs.
 *   3. The warpgroups take turns on the tensor cores (ping-pong): while one does its exponentials,
 *      another multiplies. Left alone they drift into step: all multiply, then all wait. (H200:
 *      7 % at D = 64; at D = 128, with two warpgroups and long products, no difference.)
 *   4. Blocks are persistent, one per SM. They draw tiles from a counter, the longest first, so
 *      that the last to run are short; and a section of heads at a time, so that the keys and
 *      values in use stay in the L2 cache. Results leave by TMA while the next tile begins.
 *
 * Work. A tile of 64 queries x BN keys needs 4 * 64 * BN * D operations of the tensor cores, 4096
 * per clock and SM, and 64 * BN exponentials, 16 per clock and SM: for D = 64 both take the same
 * time, for D = 128 the exponentials take half of it. The rest of the softmax (maximum, scale, sum,
 * rounding: about 4 instructions an element) comes on top. So what limits D = 64 is the softmax,
 * and D = 128 how well the two overlap, the first and the last product of a tile of queries
 * (nothing runs beside them), and power: the clock falls when the tensor cores are busy.
 *
 * Tried and left out (H200): a polynomial on the ordinary cores for one exponential in eight, 6 %
 * slower at D = 64 and 2 % at D = 128 (issue slots are as scarce as the special function units); to
 * let a warpgroup skip key tiles that only the warpgroups below it see, 4 % slower.
 *
 * After Shah et al. 2024, "FlashAttention-3" (algorithms 1 and 2).
 */
#include "02_causal/cuda/causal_common.cuh"
#include "common/cuda/hopper.cuh"

enum { STAGES = 2, TURN_BARRIER = 1, GROUP_BARRIER = 4 }; /* barriers: one of each per group */

/* What one block keeps in shared memory. Of q and o each warpgroup uses its own 64 rows. */
template <int DK, int DV, int GROUPS, int BN> struct HopperTiles {
    static const int BM = 64 * GROUPS;
    alignas(1024) bf16 q[BM * whole_blocks(DK)];
    alignas(1024) bf16 k[STAGES][BN * whole_blocks(DK)];
    alignas(1024) bf16 v[STAGES][BN * DV];
    alignas(1024) bf16 o[BM * DV]; /* on its way to global memory while the next tile begins */
    uint64_t q_full, q_empty, k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
    int tile; /* which tile q holds; -1: there are no more. Travels with q_full. */
};

struct HopperArguments {
    AttentionShape shape;
    float *lse;
    int *counter;     /* tiles handed out beyond the first of each block */
    int tiles;        /* batch * heads * q_tiles */
    int q_tiles;      /* tiles of BM queries */
    int together;     /* heads worked on at a time: their keys and values fit into the L2 cache */
    float scale_log2; /* scale * log2(e): exp(scale * s) = 2^(scale_log2 * s), one instruction */
};

struct HopperTile {
    int batch, head, query; /* the first query */
};

/* Tiles in order: sections of `together` heads; in each the last queries, with most keys, first. */
__device__ __forceinline__ HopperTile tile_at(const HopperArguments &a, int tile, int rows) {
    int all = a.shape.batch * a.shape.heads;
    int first = tile / (a.together * a.q_tiles) * a.together;
    int heads = min(a.together, all - first), i = tile - first * a.q_tiles;
    int pair = first + i % heads;
    return {pair / a.shape.heads, pair % a.shape.heads, (a.q_tiles - 1 - i / heads) * rows};
}

#if HOPPER_CODE

/* A tile of `ROWS` tokens x D, as blocks of 64 columns. */
template <int ROWS, int D>
__device__ __forceinline__ void load_tile(bf16 *to, const CUtensorMap *map, uint64_t *full,
                                          int token, int head, int batch) {
    mbarrier_expect(full, ROWS * whole_blocks(D) * sizeof(bf16));
#pragma unroll
    for (int block = 0; block < whole_blocks(D) / 64; block++)
        tma_load_4d(to + block * ROWS * 64, map, full, block * 64, token, head, batch);
}

/* The producer: a single thread, which runs ahead of the consumers as far as there are empty
 * buffers. */
template <int DK, int DV, int GROUPS, int BN>
__device__ void produce(HopperTiles<DK, DV, GROUPS, BN> &s, const HopperArguments &a,
                        const CUtensorMap *q_map, const CUtensorMap *k_map,
                        const CUtensorMap *v_map) {
    const int BM = 64 * GROUPS;
    Ring<STAGES> k, v;
    uint32_t q_parity = 1; /* a fresh barrier: the first wait passes */
    for (int tile = blockIdx.x; tile < a.tiles;) {
        HopperTile at = tile_at(a, tile, BM);
        int kv_head = at.head / (a.shape.heads / a.shape.kv_heads);
        int n = (keys_seen(a.shape, at.query, BM) + BN - 1) / BN;
        int next = gridDim.x + atomicAdd(a.counter, 1); /* the answer comes while the tiles load */
        for (int i = n - 1; i >= -1; i--) { /* keys of tile i, then values of tile i + 1 */
            if (i >= 0) {
                mbarrier_wait(&s.k_empty[k.stage], k.parity ^ 1);
                load_tile<BN, DK>(s.k[k.stage], k_map, &s.k_full[k.stage], i * BN, kv_head,
                                  at.batch);
                k.advance();
            }
            if (i == n - 1) { /* Q between the first two tiles of keys: K need not wait for it */
                mbarrier_wait(&s.q_empty, q_parity);
                q_parity ^= 1;
                s.tile = tile;
                load_tile<BM, DK>(s.q, q_map, &s.q_full, at.query, at.head, at.batch);
            } else {
                mbarrier_wait(&s.v_empty[v.stage], v.parity ^ 1);
                load_tile<BN, DV>(s.v[v.stage], v_map, &s.v_full[v.stage], (i + 1) * BN, kv_head,
                                  at.batch);
                v.advance();
            }
        }
        tile = next;
    }
    mbarrier_wait(&s.q_empty, q_parity);
    s.tile = -1;
    mbarrier_arrive(&s.q_full);
}

/* S = Q K^T: 64 queries of this warpgroup x BN keys. Both operands have the head dimension
 * innermost. */
template <int DK, int BM, int BN>
__device__ __forceinline__ void multiply_qk(float (&s)[BN / 2], const bf16 *q, const bf16 *k) {
    uint64_t q_desc = wgmma_k_major(q), k_desc = wgmma_k_major(k);
#pragma unroll
    for (int i = 0; i < DK / 16; i++) {
        int block = i / 4, step = i % 4 * WGMMA_K_STEP;
        Wgmma<BN>::template shared<0, 0>(s, q_desc + block * (BM * 128 >> 4) + step,
                                         k_desc + block * (BN * 128 >> 4) + step, i > 0);
    }
}

/* O += P V: P from registers; in V the head dimension is innermost, which for this product is N,
 * not K. */
template <int DV, int BN>
__device__ __forceinline__ void multiply_pv(float (&o)[DV / 2], const uint32_t (&p)[BN / 4],
                                            const bf16 *v, int accumulate) {
    uint64_t v_desc = wgmma_mn_major(v, BN * 128);
#pragma unroll
    for (int i = 0; i < BN / 16; i++)
        Wgmma<DV>::template registers<1>(o, p + 4 * i, v_desc + i * WGMMA_MN_STEP,
                                         i > 0 ? 1 : accumulate);
}

/* s[4 j + 2 r + e] belongs to row r (0: lane / 4, 1: lane / 4 + 8) and column 8 j + 2 (lane % 4) +
 * e. */
template <int BN>
__device__ __forceinline__ void mask(float (&s)[BN / 2], int first_key, const int (&last)[2]) {
    int column = first_key + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < BN / 2; i++)
        if (column + i / 4 * 8 + i % 2 > last[i / 2 % 2]) s[i] = -INFINITY;
}

/*
 * One step of the online softmax, in place: s becomes 2^(c s - c m) with the new maximum m of each
 * row; `rescale` is what everything summed so far must be multiplied by. row_sum holds this
 * thread's columns only; they are added at the end.
 */
template <int BN>
__device__ __forceinline__ void online_softmax(float (&s)[BN / 2], float (&row_max)[2],
                                               float (&row_sum)[2], float (&rescale)[2], float c) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float m = row_max[r];
#pragma unroll
        for (int i = 2 * r; i < BN / 2; i += 4) m = fmaxf(m, fmaxf(s[i], s[i + 1]));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        /* a row without a key so far: avoid inf - inf */
        float base = m == -INFINITY ? 0.0f : m * c;
        rescale[r] = exp2_fast(row_max[r] * c - base);
        row_max[r] = m;
        float sum = row_sum[r] * rescale[r];
#pragma unroll
        for (int i = 2 * r; i < BN / 2; i += 4) {
            s[i] = exp2_fast(s[i] * c - base);
            s[i + 1] = exp2_fast(s[i + 1] * c - base);
            sum += s[i] + s[i + 1];
        }
        row_sum[r] = sum;
    }
}

/* The accumulator of one product is, rounded and packed, the A operand of the next. */
template <int N> __device__ __forceinline__ void pack(uint32_t (&p)[N / 2], const float (&s)[N]) {
#pragma unroll
    for (int i = 0; i < N / 2; i++) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

/* Whose turn it is on the tensor cores: group g waits at barrier g; the group before it arrives
 * there. */
template <int GROUPS> __device__ __forceinline__ void turn_wait(int group) {
    named_barrier_sync(TURN_BARRIER + group, 256);
}
template <int GROUPS> __device__ __forceinline__ void turn_pass(int group) {
    named_barrier_arrive(TURN_BARRIER + (group + 1) % GROUPS, 256);
}

/* What a consumer thread carries through a tile of queries. */
template <int DV, int BN> struct Consumer {
    float o[DV / 2], s[BN / 2];
    uint32_t p[BN / 4];
    float row_max[2], row_sum[2];
    int last[2]; /* the last key that each of the two rows sees */
    Ring<STAGES> k, v;
};

/* Scores and softmax of key tile i while P V of tile i + 1 runs; then P is that of tile i. */
template <bool MASKED, int DK, int DV, int GROUPS, int BN>
__device__ __forceinline__ void step(Consumer<DV, BN> &c, HopperTiles<DK, DV, GROUPS, BN> &s,
                                     const bf16 *q, int group, int i, int accumulate, float scale) {
    mbarrier_wait(&s.k_full[c.k.stage], c.k.parity);
    turn_wait<GROUPS>(group);
    wgmma_fence(c.s);
    multiply_qk<DK, 64 * GROUPS, BN>(c.s, q, s.k[c.k.stage]);
    wgmma_commit();
    mbarrier_wait(&s.v_full[c.v.stage], c.v.parity);
    wgmma_fence(c.p, c.o);
    multiply_pv<DV, BN>(c.o, c.p, s.v[c.v.stage], accumulate);
    wgmma_commit();
    turn_pass<GROUPS>(group);

    wgmma_wait<1>(c.s);
    mbarrier_arrive_warp(&s.k_empty[c.k.stage]);
    c.k.advance();
    if (MASKED) mask<BN>(c.s, i * BN, c.last);
    float rescale[2];
    online_softmax<BN>(c.s, c.row_max, c.row_sum, rescale, scale);

    wgmma_wait<0>(c.o, c.s);
    mbarrier_arrive_warp(&s.v_empty[c.v.stage]);
    c.v.advance();
    pack(c.p, c.s);
#pragma unroll
    for (int j = 0; j < DV / 2; j++) c.o[j] *= rescale[j / 2 % 2];
}

/*
 * Divides by the sums, and sends the tile off: to shared memory, and from there by TMA, which
 * leaves out rows that do not exist. `o`: this group's 64 rows of the first 64 columns.
 */
template <int DV, int BN, int BM>
__device__ __forceinline__ void write(Consumer<DV, BN> &c, const HopperArguments &a,
                                      const CUtensorMap *o_map, bf16 *o, HopperTile at, int group,
                                      bool sender) {
    int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = c.row_sum[r];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        float inverse = 1.0f / sum;
#pragma unroll
        for (int i = 2 * r; i < DV / 2; i += 4) {
            c.o[i] *= inverse;
            c.o[i + 1] *= inverse;
        }
        int query = at.query + group * 64 + warp * 16 + lane / 4 + 8 * r;
        if (a.lse && lane % 4 == 0 && query < a.shape.q_len)
            a.lse[((int64_t)at.batch * a.shape.heads + at.head) * a.shape.q_len + query] =
                c.row_max[r] * a.shape.scale + logf(sum);
    }
    if (sender) tma_store_wait_read<0>(); /* the tile before has left this memory */
    named_barrier_sync(GROUP_BARRIER + group, 128);
    uint32_t packed[DV / 4];
    pack(packed, c.o);
#pragma unroll
    for (int i = 0; i < DV / 16; i++) /* 16 rows x 16 columns: four blocks of 8 x 8 */
        stmatrix_x4((char *)(o + i / 4 * BM * 64) +
                        swizzle_128(warp * 16 + lane % 16, i % 4 * 16 + lane / 16 * 8),
                    packed + 4 * i);
    async_proxy_fence();
    named_barrier_sync(GROUP_BARRIER + group, 128);
    if (sender) {
        for (int block = 0; block < DV / 64; block++)
            tma_store_4d(o_map, o + block * BM * 64, block * 64, at.query + group * 64, at.head,
                         at.batch);
        tma_store_commit();
    }
}

/* A warpgroup that computes: 64 queries of each tile. */
template <int DK, int DV, int GROUPS, int BN>
__device__ void consume(HopperTiles<DK, DV, GROUPS, BN> &s, const HopperArguments &a,
                        const CUtensorMap *o_map, int group) {
    const int BM = 64 * GROUPS;
    Consumer<DV, BN> c;
    const bf16 *q = s.q + group * 64 * 64; /* this group's rows of the first block */
    bool sender = threadIdx.x % 128 == 0;
    if (group == GROUPS - 1) turn_pass<GROUPS>(group); /* group 0 begins */
    for (uint32_t q_parity = 0;; q_parity ^= 1) {
        mbarrier_wait(&s.q_full, q_parity);
        if (s.tile < 0) break;
        HopperTile at = tile_at(a, s.tile, BM);
        int row = at.query + group * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
        for (int r = 0; r < 2; r++) {
            c.last[r] = last_key(a.shape, row + 8 * r);
            c.row_max[r] = -INFINITY;
            c.row_sum[r] = 0.0f;
        }
        /* Tiles from the right: those which some row does not see whole come first. */
        int n = (keys_seen(a.shape, at.query, BM) + BN - 1) / BN;
        int whole = (last_key(a.shape, at.query) + 1) / BN, i = n - 1;

        mbarrier_wait(&s.k_full[c.k.stage], c.k.parity);
        wgmma_fence(c.s);
        multiply_qk<DK, BM, BN>(c.s, q, s.k[c.k.stage]);
        wgmma_commit();
        wgmma_wait<0>(c.s);
        mbarrier_arrive_warp(&s.k_empty[c.k.stage]);
        c.k.advance();
        float unused[2];
        mask<BN>(c.s, i * BN, c.last);
        online_softmax<BN>(c.s, c.row_max, c.row_sum, unused, a.scale_log2);
        pack(c.p, c.s);

        for (i--; i >= whole; i--) step<true>(c, s, q, group, i, i < n - 2, a.scale_log2);
        for (; i >= 0; i--) step<false>(c, s, q, group, i, i < n - 2, a.scale_log2);

        mbarrier_arrive(&s.q_empty);
        mbarrier_wait(&s.v_full[c.v.stage], c.v.parity);
        wgmma_fence(c.p, c.o);
        multiply_pv<DV, BN>(c.o, c.p, s.v[c.v.stage], n > 1);
        wgmma_commit();
        wgmma_wait<0>(c.o);
        mbarrier_arrive_warp(&s.v_empty[c.v.stage]);
        c.v.advance();
        write<DV, BN, BM>(c, a, o_map, s.o + group * 64 * 64, at, group, sender);
    }
    if (sender) tma_store_wait<0>(); /* shared memory must outlive the copies */
}

#endif /* HOPPER_CODE */

/* One producer warpgroup, GROUPS consumer warpgroups; registers go from the first to the others. */
template <int DK, int DV, int GROUPS, int BN>
__global__ __launch_bounds__(128 * (GROUPS + 1), 1) void causal_hopper_kernel(
    const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
    const __grid_constant__ CUtensorMap v_map, const __grid_constant__ CUtensorMap o_map,
    const __grid_constant__ HopperArguments a) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char memory[];
    HopperTiles<DK, DV, GROUPS, BN> &s = *(HopperTiles<DK, DV, GROUPS, BN> *)memory;
    if (threadIdx.x == 0) {
        mbarrier_init(&s.q_full, 1);
        mbarrier_init(&s.q_empty, 128 * GROUPS); /* every thread: each has read s.tile itself */
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&s.k_full[i], 1);
            mbarrier_init(&s.v_full[i], 1);
            mbarrier_init(&s.k_empty[i], 4 * GROUPS * WARP_ARRIVALS);
            mbarrier_init(&s.v_empty[i], 4 * GROUPS * WARP_ARRIVALS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_release<GROUPS == 2 ? 24 : 32>();
        if (threadIdx.x == 0) produce(s, a, &q_map, &k_map, &v_map);
    } else {
        registers_take<GROUPS == 2 ? 240 : 160>();
        /* The same in all lanes, which the compiler believes of a shuffle only: so descriptors stay
         * in the uniform registers that wgmma takes them from. */
        int group = __shfl_sync(~0u, threadIdx.x / 128 - 1, 0);
        consume(s, a, &o_map, group);
    }
#else
    __trap(); /* causal_hopper_supports() keeps other GPUs away */
#endif
}

/* A map of [batch, tokens, heads, dim] that moves boxes of `rows` tokens of one head, 64 columns
 * wide. */
static CUtensorMap map_heads(const void *base, HeadStrides s, int batch, int tokens, int heads,
                             int dim, int rows) {
    CUtensorMap map;
    uint64_t sizes[4] = {(uint64_t)dim, (uint64_t)tokens, (uint64_t)heads, (uint64_t)batch};
    uint64_t strides[3] = {(uint64_t)s.token * 2, (uint64_t)s.head * 2, (uint64_t)s.batch * 2};
    uint32_t box[4] = {64, (uint32_t)rows, 1, 1};
    CHECK(tensor_map_make(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, base, 4, sizes, strides, box,
                          CU_TENSOR_MAP_SWIZZLE_128B),
          "a tensor with strides %lld, %lld, %lld cannot be mapped", (long long)s.batch,
          (long long)s.token, (long long)s.head);
    return map;
}

template <int DK, int DV, int GROUPS, int BN>
static void launch(Gpu *gpu, void *o, float *lse, const void *q, const void *k, const void *v,
                   AttentionShape shape) {
    const int BM = 64 * GROUPS;
    HopperArguments a = {shape, lse};
    a.q_tiles = (int)ceil_div(shape.q_len, BM);
    a.tiles = a.q_tiles * shape.batch * shape.heads;
    a.scale_log2 = shape.scale * 1.44269504f;
    /* As many heads together as fit into 32 MiB (the L2 cache has 50, and other things pass through
     * it), in sections of equal size: a small last one would leave most SMs idle at the end. */
    int64_t all = (int64_t)shape.batch * shape.heads;
    int64_t head_bytes = (int64_t)shape.kv_len * (DK + DV) * 2 * shape.kv_heads / shape.heads;
    int64_t sections = ceil_div(all * head_bytes, 32 << 20);
    a.together = (int)ceil_div(all, sections < all ? sections : all);
    /* The stream's work runs in order, so no other kernel uses the workspace meanwhile. */
    a.counter = (int *)gpu->workspace;
    CUDA_CHECK(cudaMemsetAsync(a.counter, 0, sizeof(int), gpu->stream));

    CUtensorMap q_map =
        map_heads(q, shape.q, shape.batch, shape.q_len, shape.heads, shape.qk_dim, BM);
    CUtensorMap k_map =
        map_heads(k, shape.k, shape.batch, shape.kv_len, shape.kv_heads, shape.qk_dim, BN);
    CUtensorMap v_map =
        map_heads(v, shape.v, shape.batch, shape.kv_len, shape.kv_heads, shape.v_dim, BN);
    CUtensorMap o_map =
        map_heads(o, shape.o, shape.batch, shape.q_len, shape.heads, shape.v_dim, 64);
    auto kernel = causal_hopper_kernel<DK, DV, GROUPS, BN>;
    int bytes = (int)sizeof(HopperTiles<DK, DV, GROUPS, BN>);
    int grid = a.tiles < gpu->sm_count ? a.tiles : gpu->sm_count;
    gpu_launch(gpu, kernel, grid, 128 * (GROUPS + 1), bytes, q_map, k_map, v_map, o_map, a);
}

int causal_hopper_supports(Gpu *gpu, DType dtype, const void *o, const void *q, const void *k,
                           const void *v, AttentionShape shape) {
    return gpu->compute_capability == 90 && dtype == BF16 && shape.qk_dim <= 192 &&
           shape.v_dim <= 128 && rows_of_16_bytes(o, shape.o, shape.v_dim) &&
           rows_of_16_bytes(q, shape.q, shape.qk_dim) &&
           rows_of_16_bytes(k, shape.k, shape.qk_dim) && rows_of_16_bytes(v, shape.v, shape.v_dim);
}

/*
 * Dimensions between the sizes are filled with zeros by the copy engine: right, at the larger
 * size's price. Three warpgroups overlap better than two, but a tile of 192 queries is cut more
 * coarsely by the diagonal and by the end than one of 128: a causal 1024 is 96 tiles of 64 x 128
 * with three, 72 with two. (H200, D = 96 / 64: 1024 queries, two are 12 % faster; 2048, three are
 * 2 % faster; 4096, 5 %.)
 */
void causal_forward_hopper_cuda(Gpu *gpu, DType dtype, void *o, float *lse, const void *q,
                                const void *k, const void *v, AttentionShape shape) {
    CHECK(causal_hopper_supports(gpu, dtype, o, q, k, v, shape),
          "this shape (qk_dim %d, v_dim %d) or this GPU is not for Hopper's kernel", shape.qk_dim,
          shape.v_dim);
    bool few = shape.q_len < 2048;
    bool narrow = shape.v_dim <= 64;
    if (narrow && shape.qk_dim <= 64)
        (few ? launch<64, 64, 2, 128> : launch<64, 64, 3, 128>)(gpu, o, lse, q, k, v, shape);
    else if (narrow && shape.qk_dim <= 96)
        (few ? launch<96, 64, 2, 128> : launch<96, 64, 3, 128>)(gpu, o, lse, q, k, v, shape);
    else if (shape.qk_dim <= 128)
        launch<128, 128, 2, 128>(gpu, o, lse, q, k, v, shape);
    else
        launch<192, 128, 2, 112>(gpu, o, lse, q, k, v, shape);
}
