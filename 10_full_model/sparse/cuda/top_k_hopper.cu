/*
 * The k largest of each row by clusters: 1 to 8 blocks have a part of the row each, in shared
 * memory, and read the scores once.
 *
 * Counting. Each block counts the digits of its own keys; after the cluster has met, every block
 * adds up the counts of all, over the network between the processors, and finds the same digit. No
 * block waits for memory again.
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
    AHEAD = 8             /* scores that a thread has asked for */
};

struct Shared {
    TopKShared s;
    uint32_t more[COPIES - 1][TOP_K_BINS];
    int larger, equal; /* of this block's keys */
};

#if HOPPER_CODE
/* A word of this variable in block `rank` of the cluster. */
__device__ __forceinline__ uint32_t load_from(const void *mine, int rank) {
    uint32_t value;
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %1, %2;\n"
                 "ld.shared::cluster.u32 %0, [there];\n"
                 "}\n"
                 : "=r"(value)
                 : "r"(shared_address(mine)), "r"(rank)
                 : "memory");
    return value;
}
#endif

template <int CLUSTER>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(TOP_K_THREADS)
    top_k_kernel(int32_t *selected, const float *scores, int k, IndexShape shape) {
#if HOPPER_CODE
    extern __shared__ __align__(16) unsigned char memory[];
    Shared &m = *(Shared *)memory;
    TopKShared &s = m.s;
    uint32_t *keys = (uint32_t *)(&m + 1);
    int row = blockIdx.x / CLUSTER, rank = CLUSTER > 1 ? cluster_rank() : 0;
    int n = top_k_seen(shape, row), part = (n + CLUSTER - 1) / CLUSTER;
    int begin = min(rank * part, n), own = min(part, n - begin);
    int32_t *to = top_k_list(selected, shape, row, k);
    if (n <= k) { /* for all blocks of the cluster alike */
        if (rank == 0) top_k_all(to, n, k, threadIdx.x, TOP_K_THREADS);
        return;
    }
    const float *x = scores + (int64_t)row * shape.kv_len + begin;
    for (int i = threadIdx.x; i < own; i += AHEAD * TOP_K_THREADS) {
        float some[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
            if (i + a * TOP_K_THREADS < own) some[a] = x[i + a * TOP_K_THREADS];
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
            if (i + a * TOP_K_THREADS < own) keys[i + a * TOP_K_THREADS] = top_k_ordered(some[a]);
    }
    auto key = [&](int i) { return keys[i]; };
    uint32_t *copy = threadIdx.x % COPIES ? m.more[threadIdx.x % COPIES - 1] : s.bins;
    TopKThreshold t = {0, 0, k};
    for (int pass = 0; pass < 3; pass++) {
        for (int i = threadIdx.x; i < TOP_K_BINS; i += TOP_K_THREADS) {
            s.bins[i] = 0;
#pragma unroll
            for (int c = 0; c < COPIES - 1; c++) m.more[c][i] = 0;
        }
        __syncthreads();
        int shift = top_k_shift(pass);
        uint32_t digits = top_k_mask(pass);
#pragma unroll 4
        for (int i = threadIdx.x; i < own; i += TOP_K_THREADS) {
            uint32_t mine = keys[i];
            if ((mine & t.known) == t.key) atomicAdd(&copy[mine >> shift & digits], 1);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < TOP_K_BINS; i += TOP_K_THREADS)
#pragma unroll
            for (int c = 0; c < COPIES - 1; c++) s.bins[i] += m.more[c][i];
        if (CLUSTER > 1)
            cluster_sync();
        else
            __syncthreads();
        top_k_digit(s, t.left, [&](uint32_t bin) {
            uint32_t sum = 0;
#pragma unroll
            for (int r = 0; r < CLUSTER; r++)
                sum += CLUSTER > 1 ? load_from(&s.bins[bin], r) : s.bins[bin];
            return (int)sum;
        });
        t.key |= s.digit << shift;
        t.known |= digits << shift;
        t.left = s.left;
        if (CLUSTER > 1)
            cluster_sync(); /* all have read all counts */
        else
            __syncthreads();
    }
    top_k_counts(s, 0, own, key, t);
    int larger = 0, equal = 0;
    if (CLUSTER > 1) {
        if (threadIdx.x < 32) {
            int sum = __reduce_add_sync(~0u, s.larger[threadIdx.x]);
            int same = __reduce_add_sync(~0u, s.equal[threadIdx.x]);
            if (threadIdx.x == 0) m.larger = sum, m.equal = same;
        }
        cluster_sync();
        for (int r = 0; r < rank; r++)
            larger += (int)load_from(&m.larger, r), equal += (int)load_from(&m.equal, r);
    }
    top_k_take(
        s, 0, own, key, [&](int at, int i) { to[at] = begin + i; }, t, larger, equal);
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
