/*
 * Sparse attention's forward pass on Hopper: the products of absorbed decoding
 * (mla_decode_hopper.cu, where the split of the work is explained), over listed rows.
 *
 *     scorer     one warpgroup. Holds 31 of 36 steps of Q in registers for a query. Makes S = Q Z^T
 *                of 64 listed keys, and P = 2^(c S - base), in the place of their rope parts.
 *     weighers   two warpgroups. Each holds a half of O, 64 x 256, and does O += P C. Then they
 *                fetch what their stage holds next, three steps ahead: they have nothing else to do
 *                until the scorer has multiplied.
 *
 * In decoding the copy engine needs one thread; here 4608 pieces of 16 bytes a step have an address
 * each. A warpgroup of its own for them does not fit: with 24 registers for it, 184 and 152 are
 * left for the others, and a weigher needs 160. Queries come through the ring of steps like rows
 * do, so that a block goes from one query to the next without a stop. A block has every
 * gridDim.x-th item, an item being 64 heads of a query; those of one query are neighbours, and the
 * second finds the rows in the L2 cache.
 *
 * Work. A step is 2 * 64 * 64 * (576 + 512) operations, 2176 clocks of the tensor cores, for 72 KiB
 * from the L2 cache. NVIDIA H200, 4096 queries of 128 heads, 2048 of 8192 keys: 4.40 ms, 531 TFLOPS
 * (484 in the usual repeat), 4.5 TB/s from the L2 cache; of 65,536 keys: 4.58 ms, 510. That is what
 * the cache gives to all processors at once, and what limits. In mla_decode_hopper.cu two blocks of
 * a cluster share what they fetch: here the copies are threads', which write to their own shared
 * memory alone.
 */
#include "04_mla/cuda/selection_hopper.cuh"

namespace sparse {

enum { STAGES = 3 };

struct Tiles {
    alignas(1024) LatentBoxes ring[STAGES];
    alignas(1024) bf16 q_rope[TILE * 64]; /* what of Q does not fit into registers */
    bf16 q_step[TILE * 16];
    bf16 factor[STAGES][TILE]; /* what O is multiplied by before the step: powers of two */
    float sum[2][TILE];        /* of an item's rows, and of the next one's */
    /* full: the copies are here.  scored: P and factor are.  turn: the weighers may use the tensor
     * cores.  empty: they are done. */
    uint64_t full[STAGES], scored[STAGES], turn[STAGES], empty[STAGES];
};
static_assert(sizeof(Tiles) <= 227 * 1024, "more than a block can have");

struct Forward {
    Arguments a;
    bf16 *o;
    float *lse;
};

#if HOPPER_CODE

/* A block's items: query i / sets, heads i % sets * TILE and on. */
__device__ __forceinline__ int items_of(const Arguments &a) {
    return a.s.attention.batch * a.s.attention.q_len * a.sets;
}
__device__ __forceinline__ int first_head(const Arguments &a, int item) {
    return item % a.sets * TILE;
}
/* Entries of its list, and steps of 64 of them: at least one, which may be empty. Uniform, for the
 * compiler too. */
__device__ __forceinline__ int entries(const Arguments &a, int item) {
    return __shfl_sync(~0u, a.counts[item / a.sets], 0);
}
__device__ __forceinline__ int steps_of(int entries) { return max((entries + KEYS - 1) / KEYS, 1); }

/* ---- the scorer ---- */

/* In place: x becomes 2^(c x - base). factor: what earlier steps' results must be multiplied by. */
__device__ __forceinline__ void softmax_step(float (&x)[32], Softmax &m, float (&factor)[2],
                                             float c) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = -INFINITY, sum = 0.0f;
#pragma unroll
        for (int i = 2 * r; i < 32; i += 4) top = fmaxf(top, fmaxf(x[i], x[i + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        float base = fmaxf(m.base[r], nearest(top * c));
        factor[r] = exp2_fast(m.base[r] - base);
        m.base[r] = base;
#pragma unroll
        for (int i = 2 * r; i < 32; i += 4) {
            x[i] = exp2_fast(x[i] * c - base);
            x[i + 1] = exp2_fast(x[i + 1] * c - base);
            sum += x[i] + x[i + 1];
        }
        m.sum[r] = m.sum[r] * factor[r] + sum;
    }
}

/* Behind the list's end nothing is seen. */
__device__ __forceinline__ void mask(float (&x)[32], int keys) {
    int key = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 32; i++)
        if (key + i / 4 * 8 + i % 2 >= keys) x[i] = -INFINITY;
}

/* The end of an item: whole sums, for the weighers; and lse. */
__device__ __forceinline__ void finish(Tiles &s, Softmax &m, const Forward &f, int item, bool any) {
    const AttentionShape &shape = f.a.s.attention;
    int token = item / f.a.sets;
    for (int r = 0; r < 2; r++) {
        m.sum[r] += __shfl_xor_sync(~0u, m.sum[r], 1);
        m.sum[r] += __shfl_xor_sync(~0u, m.sum[r], 2);
        int row = my_row() + 8 * r, head = first_head(f.a, item) + row;
        if (threadIdx.x % 4) continue;
        s.sum[item / gridDim.x % 2][row] = m.sum[r];
        if (f.lse && head < shape.heads)
            f.lse[((int64_t)(token / shape.q_len) * shape.heads + head) * shape.q_len +
                  token % shape.q_len] =
                any ? (m.base[r] + log2f(m.sum[r])) * 0.69314718f : -INFINITY;
    }
}

__device__ void score(Tiles &s, const Forward &f) {
    uint32_t q[Q_STEPS][4];
    float x[32];
    Ring<STAGES> ring;
    for (int i = blockIdx.x; i < items_of(f.a); i += gridDim.x) {
        int count = entries(f.a, i);
        mbarrier_wait(&s.full[ring.stage], ring.parity);
        take_queries(q, s, __shfl_sync(~0u, ring.stage, 0));
        mbarrier_arrive_warp(&s.scored[ring.stage]);
        ring.advance();
        Softmax m = {{-1e30f, -1e30f},
                     {0.0f, 0.0f}}; /* below any score; no infinities to subtract */
        int stage = 0;
        for (int left = count, step = steps_of(count); step; step--, left -= KEYS) {
            /* Uniform, which the compiler believes of a shuffle only: so descriptors stay in the
             * uniform registers that wgmma takes them from. */
            stage = __shfl_sync(~0u, ring.stage, 0);
            mbarrier_wait(&s.full[stage], ring.parity);
            async_proxy_fence(); /* ordinary copies brought the rows */
            multiply_scores(x, q, s, stage);
            wgmma_wait<0>(x);
            uint64_t *turn = &s.turn[stage ? stage - 1 : STAGES - 1];
            mbarrier_arrive_warp(turn); /* the step before is weighed during this one's softmax */
            if (left < KEYS) mask(x, left);
            float factor[2];
            softmax_step(x, m, factor, f.a.scale_log2);
            mbarrier_wait(turn, ring.parity ^ (stage == 0)); /* all four warps have read the rows */
            store_probabilities(s.ring[stage], x);
            if (threadIdx.x % 4 == 0) {
                s.factor[stage][my_row()] = __float2bfloat16_rn(factor[0]);
                s.factor[stage][my_row() + 8] = __float2bfloat16_rn(factor[1]);
            }
            if (step == 1) finish(s, m, f, i, count > 0);
            async_proxy_fence();
            mbarrier_arrive_warp(&s.scored[stage]);
            ring.advance();
        }
        mbarrier_arrive_warp(&s.turn[stage]); /* no step comes after it */
    }
}

/* ---- the weighers ---- */

/* What comes into the ring next: an item's queries (entry < 0), then 64 entries after 64. A thread
 * copies an eighth of two rows, whose entries of the list it has read a step ahead. */
struct Cursor {
    int item, entry, count, next[2];
};

__device__ __forceinline__ int my_fetch() { return threadIdx.x / 8 - 16; } /* and 32 below it */

/* Asks for it. Stage and barriers are empty. */
__device__ __forceinline__ void fetch(Tiles &s, const Arguments &a, Cursor &c, int stage) {
    const AttentionShape &shape = a.s.attention;
    int token = c.item / a.sets;
    if (c.item >= items_of(a)) return;
    if (c.entry < 0) c.count = entries(a, c.item);
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const bf16 *from = NULL;
        int row = my_fetch() + 32 * j, head = first_head(a, c.item) + row;
        if (c.entry < 0 && head < shape.heads)
            from = a.q + ((int64_t)token * shape.heads + head) * WIDTH;
        if (c.entry >= 0 && c.next[j] >= 0)
            from = a.latent + selected_at(&a.s, shape.k, token / shape.q_len, c.next[j], 0);
        fetch_row<BOXES>(s.ring[stage].box[0], row, from);
    }
    mbarrier_arrive_behind_copies(&s.full[stage]);
    c.entry += KEYS;
    if (c.entry >= steps_of(c.count) * KEYS) {
        c.entry = -KEYS;
        c.item += gridDim.x;
        return;
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int e = c.entry + my_fetch() + 32 * j;
        c.next[j] = e < c.count ? a.lists[(int64_t)token * a.s.count + e] : -1;
    }
}

/* Gives a stage back, and has it filled again when both halves have. */
__device__ __forceinline__ void recycle(Tiles &s, const Arguments &a, Cursor &c,
                                        Ring<STAGES> &ring) {
    mbarrier_arrive_warp(&s.empty[ring.stage]);
    mbarrier_wait(&s.empty[ring.stage], ring.parity);
    fetch(s, a, c, ring.stage);
    ring.advance();
}

/* This thread's part of O, divided by the sums. */
__device__ __forceinline__ void write(const float (&o)[128], const Forward &f, int item,
                                      const float *sum, int half) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = my_row() + 8 * r, head = first_head(f.a, item) + row;
        float inverse = sum[row] > 0.0f ? 1.0f / sum[row] : 0.0f;
        bf16 *out = f.o + ((int64_t)(item / f.a.sets) * f.a.s.attention.heads + head) * RANK +
                    half * 256 + threadIdx.x % 4 * 2;
        if (head >= f.a.s.attention.heads) continue;
#pragma unroll
        for (int j = 0; j < 32; j++)
            *(uint32_t *)(out + 8 * j) =
                pack_bf16(o[4 * j + 2 * r] * inverse, o[4 * j + 2 * r + 1] * inverse);
    }
}

__device__ void weigh(Tiles &s, const Forward &f, int half) {
    float o[128];
    Ring<STAGES> ring;
    Cursor cursor = {(int)blockIdx.x, -KEYS};
    for (int i = 0; i < STAGES; i++) fetch(s, f.a, cursor, i);
    for (int i = blockIdx.x; i < items_of(f.a); i += gridDim.x) {
        int steps = steps_of(entries(f.a, i));
        mbarrier_wait(&s.scored[ring.stage], ring.parity); /* the scorer has the queries */
        recycle(s, f.a, cursor, ring);
        for (int step = 0; step < steps; step++) {
            int stage = __shfl_sync(~0u, ring.stage, 0);
            LatentBoxes &rows = s.ring[stage];
            mbarrier_wait(&s.scored[stage], ring.parity);
            async_proxy_fence(); /* ordinary copies brought the rows */
            if (step) rescale(o, s.factor[stage]);
            mbarrier_wait(&s.turn[stage], ring.parity);
            /* Keys run down the rows: they are this product's k. */
            uint64_t p = wgmma_k_major(rows.box[ROPE_BOX]);
            uint64_t v = wgmma_mn_major(rows.box[4 * half], BOX_BYTES);
            wgmma_fence(o);
#pragma unroll
            for (int k = 0; k < 4; k++)
                Wgmma<256>::shared<0, 1>(o, p + k * WGMMA_K_STEP, v + k * WGMMA_MN_STEP,
                                         k > 0 || step > 0);
            wgmma_commit();
            wgmma_wait<0>(o);
            recycle(s, f.a, cursor, ring);
        }
        write(o, f, i, s.sum[i / gridDim.x % 2], half);
    }
}

#endif /* HOPPER_CODE */

static __global__ void __launch_bounds__(384, 1) forward_kernel(const __grid_constant__ Forward f) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char memory[];
    Tiles &s = *(Tiles *)memory;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&s.full[i], 256);                 /* the weighers' threads */
            mbarrier_init(&s.scored[i], 4 * WARP_ARRIVALS); /* the scorer's warps */
            mbarrier_init(&s.turn[i], 4 * WARP_ARRIVALS);
            mbarrier_init(&s.empty[i], 8 * WARP_ARRIVALS); /* the weighers' */
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (group == 0) {
        registers_take<184>();
        score(s, f);
    } else {
        registers_release<160>();
        weigh(s, f, group - 1);
    }
#else
    __trap(); /* selected_hopper_supports() keeps other GPUs away */
#endif
}

} /* namespace sparse */

int selected_hopper_supports(const Gpu *gpu, DType dtype, const void *o, const void *q,
                             const void *k, const void *v, SelectedShape s) {
    using namespace sparse;
    const AttentionShape &a = s.attention;
    int64_t query = (int64_t)a.heads * WIDTH, out = (int64_t)a.heads * RANK;
    bool queries = a.q.head == WIDTH && a.q.token == query && a.q.batch == query * a.q_len;
    bool outs = a.o.head == RANK && a.o.token == out && a.o.batch == out * a.q_len;
    return gpu->compute_capability == 90 && dtype == BF16 && a.kv_heads == 1 && k == v &&
           a.qk_dim == WIDTH && a.v_dim == RANK && a.k.token == WIDTH && a.k.batch % 8 == 0 &&
           queries && outs && ((uintptr_t)o | (uintptr_t)q | (uintptr_t)k) % 16 == 0;
}

int selected_prompt_fits(const Gpu *gpu, DType dtype, int count, MlaDecodeShape s) {
    /* Nearly two items for each multiprocessor. That is one measured point and no law: 256 items,
     * the first size that was timed, take 165 us here and 227 by pages on an H200. Which way is the
     * faster with fewer has not been measured; they stay with the kernel that cuts lists in pieces,
     * because here a list is one block's and blocks without an item would wait. */
    int64_t items = (int64_t)s.batch * s.q_len * ceil_div(s.heads, TILE);
    return 16 * items >= 31 * gpu->sm_count && !s.e4m3 &&
           selected_hopper_supports(gpu, dtype, NULL, NULL, NULL, NULL,
                                    selected_pages_shape(NULL, NULL, count, s));
}

void selected_forward_hopper_cuda(Gpu *gpu, DType dtype, void *o, float *lse, const void *q,
                                  const void *k, const void *v, const int32_t *selected, void *work,
                                  SelectedShape s) {
    using namespace sparse;
    CHECK(selected_hopper_supports(gpu, dtype, o, q, k, v, s),
          "sparse attention on Hopper: for latents of 512 + 64 numbers in BF16, not for %d and %d",
          s.attention.qk_dim, s.attention.v_dim);
    selected_tidy_cuda(gpu, I32, (int32_t *)work, selected, s);
    Forward f = {arguments(q, k, work, s), (bf16 *)o, lse};
    int64_t items = (int64_t)s.attention.batch * s.attention.q_len * f.a.sets;
    CHECK(items < INT32_MAX, "sparse attention: %lld queries", (long long)items);
    unsigned blocks = (unsigned)(items < gpu->sm_count ? items : gpu->sm_count);
    gpu_launch(gpu, forward_kernel, blocks, 384, sizeof(Tiles), f);
}
