/*
 * The k largest of each row by clusters: 1 to 8 blocks have a part of the row each, in shared
 * memory, and read the scores once.
 *
 * Counting. Each block counts the first digits of its own keys; after the cluster has met, every
 * block adds up the counts of all, over the network between the processors, and finds the same
 * digit. Of a row of real scores few keys have it. The first block gets these, in any order, finds
 * the other two digits alone, and tells. When they are too many (a row of zeros) the cluster goes
 * on as it began, digit by digit.
 *
 * Order. Parts are in the row's order. What a block takes comes behind what the blocks before it
 * take, and of the keys that are equal to the k-th largest it takes what these have left.
 *
 * How many blocks: as many as there are processors for, so a single row of 128K keys is the work of
 * eight, 16K keys each. What does not fit into eight blocks is the plain kernel's.
 */
#include "10_full_model/sparse/cuda/top_k.cuh"
#include "common/cuda/hopper.cuh"

enum {
    PART_MAX = 46 * 1024, /* keys of a block: 184 KiB */
    COPIES = 4,           /* of the counts: lanes with the same digit meet less often */
    AHEAD = 8,            /* scores that a thread has asked for */
    FEW = (COPIES - 1) * TOP_K_BINS
};

struct Shared {
    TopKShared s;
    union {
        uint32_t more[COPIES - 1][TOP_K_BINS];
        uint32_t few[FEW]; /* the first block's: keys with the first digit */
    };
    int few_count;
    int larger, equal; /* of this block's keys */
    TopKThreshold found;
};

#if HOPPER_CODE

/* Into a variable of block `rank` of the cluster. */
__device__ __forceinline__ void store_to(const void *mine, int rank, uint32_t value) {
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(cluster_address(mine, rank)), "r"(value)
                 : "memory");
}
__device__ __forceinline__ uint32_t add_to(const void *mine, int rank, uint32_t value) {
    uint32_t before;
    asm volatile("atom.relaxed.cluster.shared::cluster.add.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "r"(cluster_address(mine, rank)), "r"(value)
                 : "memory");
    return before;
}

template <int CLUSTER> __device__ __forceinline__ void meet() {
    if (CLUSTER > 1)
        cluster_sync();
    else
        __syncthreads();
}

/* Clears the counts; copies: of them. */
__device__ __forceinline__ void clear_counts(Shared &m, int copies) {
    for (int i = threadIdx.x; i < TOP_K_BINS; i += TOP_K_THREADS) {
        m.s.bins[i] = 0;
        for (int c = 0; c + 1 < copies; c++) m.more[c][i] = 0;
    }
    __syncthreads();
}

/* Counts a digit of this block's keys, and of all blocks' finds that of the k-th largest. In the
 * first pass the keys come from `scores`. */
template <int CLUSTER>
__device__ void find_digit(Shared &m, uint32_t *keys, const float *scores, int own, int pass,
                           TopKThreshold &t) {
    uint32_t *copy = threadIdx.x % COPIES ? m.more[threadIdx.x % COPIES - 1] : m.s.bins;
    int shift = top_k_shift(pass);
    uint32_t digits = top_k_mask(pass);
    clear_counts(m, COPIES);
    for (int i = threadIdx.x; i < own; i += AHEAD * TOP_K_THREADS) {
        uint32_t some[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int at = i + a * TOP_K_THREADS;
            some[a] = at >= own ? 0 : pass ? keys[at] : __float_as_uint(scores[at]);
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int at = i + a * TOP_K_THREADS;
            if (at >= own) break;
            if (pass == 0) keys[at] = some[a] = top_k_ordered(__uint_as_float(some[a]));
            if ((some[a] & t.known) == t.key) atomicAdd(&copy[some[a] >> shift & digits], 1);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TOP_K_BINS; i += TOP_K_THREADS)
#pragma unroll
        for (int c = 0; c < COPIES - 1; c++) m.s.bins[i] += m.more[c][i];
    meet<CLUSTER>();
    top_k_digit(m.s, t.left, [&](uint32_t bin) {
        uint32_t sum = 0;
#pragma unroll
        for (int r = 0; r < CLUSTER; r++)
            sum += CLUSTER > 1 ? cluster_load(&m.s.bins[bin], r) : m.s.bins[bin];
        return (int)sum;
    });
    top_k_know(t, m.s, pass);
    meet<CLUSTER>(); /* all have read all counts */
}

/* The keys with the first digit go to the first block, which finds the others. */
template <int CLUSTER>
__device__ void find_among_few(Shared &m, const uint32_t *keys, int own, int rank,
                               TopKThreshold &t) {
    int lane = threadIdx.x % 32;
    for (int i = threadIdx.x; i - lane < own; i += TOP_K_THREADS) {
        uint32_t mine = i < own ? keys[i] : 0;
        bool takes = i < own && (mine & t.known) == t.key;
        unsigned all = __ballot_sync(~0u, takes);
        if (!all) continue;
        int first = __ffs(all) - 1, at = 0;
        if (lane == first) at = (int)add_to(&m.few_count, 0, __popc(all));
        at = __shfl_sync(~0u, at, first) + __popc(all & ((1u << lane) - 1));
        if (takes) store_to(&m.few[at], 0, mine);
    }
    meet<CLUSTER>();
    if (rank == 0) {
        for (int pass = 1; pass < 3; pass++) {
            clear_counts(m, 1);
            for (int i = threadIdx.x; i < m.few_count; i += TOP_K_THREADS)
                if ((m.few[i] & t.known) == t.key)
                    atomicAdd(&m.s.bins[m.few[i] >> top_k_shift(pass) & top_k_mask(pass)], 1);
            __syncthreads();
            top_k_digit(m.s, t.left, [&](uint32_t bin) { return (int)m.s.bins[bin]; });
            top_k_know(t, m.s, pass);
            __syncthreads();
        }
        if (threadIdx.x == 0) m.found = t;
    }
    meet<CLUSTER>();
    if (rank > 0) {
        t.key = cluster_load(&m.found.key, 0);
        t.left = (int)cluster_load(&m.found.left, 0);
    }
}

#endif /* HOPPER_CODE */

template <int CLUSTER>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(TOP_K_THREADS)
    top_k_kernel(int32_t *selected, const float *scores, int k, IndexShape shape) {
#if HOPPER_CODE
    extern __shared__ __align__(16) unsigned char memory[];
    Shared &m = *(Shared *)memory;
    uint32_t *keys = (uint32_t *)(&m + 1);
    int row = blockIdx.x / CLUSTER, rank = CLUSTER > 1 ? cluster_rank() : 0;
    int n = top_k_seen(shape, row), part = (n + CLUSTER - 1) / CLUSTER;
    int begin = min(rank * part, n), own = min(part, n - begin);
    int32_t *to = top_k_list(selected, shape, row, k);
    if (n <= k) { /* for all blocks of the cluster alike */
        if (rank == 0) top_k_all(to, n, k, threadIdx.x, TOP_K_THREADS);
        return;
    }
    if (threadIdx.x == 0) m.few_count = 0;
    TopKThreshold t = {0, 0, k};
    find_digit<CLUSTER>(m, keys, scores + (int64_t)row * shape.kv_len + begin, own, 0, t);
    if (m.s.equal_digit <= FEW) {
        find_among_few<CLUSTER>(m, keys, own, rank, t);
    } else {
        find_digit<CLUSTER>(m, keys, NULL, own, 1, t);
        find_digit<CLUSTER>(m, keys, NULL, own, 2, t);
    }
    auto key = [&](int i) { return keys[i]; };
    top_k_counts(m.s, 0, own, key, t);
    int larger = 0, equal = 0;
    if (CLUSTER > 1) {
        if (threadIdx.x < 32) {
            int sum = __reduce_add_sync(~0u, m.s.larger[threadIdx.x]);
            int same = __reduce_add_sync(~0u, m.s.equal[threadIdx.x]);
            if (threadIdx.x == 0) m.larger = sum, m.equal = same;
        }
        cluster_sync();
        for (int r = 0; r < rank; r++)
            larger += (int)cluster_load(&m.larger, r), equal += (int)cluster_load(&m.equal, r);
    }
    top_k_take(
        m.s, 0, own, key, [&](int at, int i) { to[at] = begin + i; }, t, larger, equal);
    if (CLUSTER > 1) cluster_sync(); /* others may still read this block's counts */
#else
    __trap(); /* top_k_hopper_supports() keeps other GPUs away */
#endif
}

/* ---- host ---- */

/* The smallest cluster whose blocks hold a row and that leaves no processor idle. */
static int cluster_of(const Gpu *gpu, const IndexShape &s) {
    int64_t rows = (int64_t)s.batch * s.count;
    int cluster = 1;
    while (cluster < 8 && (ceil_div(s.kv_len, cluster) > PART_MAX ||
                           (2 * cluster * rows <= 2 * gpu->sm_count && s.kv_len > 2048 * cluster)))
        cluster *= 2;
    return cluster;
}

int top_k_hopper_supports(const Gpu *gpu, IndexShape s) {
    return gpu->compute_capability == 90 && ceil_div(s.kv_len, 8) <= PART_MAX;
}

void top_k_hopper_cuda(Gpu *gpu, DType dtype, int32_t *selected, const float *scores, int k,
                       IndexShape shape) {
    (void)dtype;
    CHECK(top_k_hopper_supports(gpu, shape), "top_k: clusters are for sm_90 and rows of at most %d",
          8 * PART_MAX);
    int cluster = cluster_of(gpu, shape), part = (int)ceil_div(shape.kv_len, cluster);
    auto kernel = cluster == 1   ? top_k_kernel<1>
                  : cluster == 2 ? top_k_kernel<2>
                  : cluster == 4 ? top_k_kernel<4>
                                 : top_k_kernel<8>;
    gpu_launch(gpu, kernel, (unsigned)shape.batch * (unsigned)shape.count * (unsigned)cluster,
               TOP_K_THREADS, sizeof(Shared) + sizeof(uint32_t) * (size_t)part, selected, scores, k,
               shape);
}
