/*
 * Absorbed decoding over lists: order, the two rungs that take everything, and who picks.
 *
 * Order. A bit for each key, in shared memory, WINDOW keys at a time, is set where the list says
 * so. The block's threads then have equal runs of words; the sum of the bits in all runs before its
 * own says where a thread's keys go. So it is the same list in every run, whoever was first. A list
 * that is in order already, as an indexer's, is only looked through.
 *
 * plain      A warp takes a query head and one row at a time; a lane has every 32nd number.
 * gathered   The rows are copied, in passes of GATHERED bytes, and mla_decode has the rest. One of
 *            V3's in BF16 is 1152 bytes, which the copy reads and writes and mla_decode reads
 *            again, for 2 * 128 * 1088 operations: with 128 heads the copies are about as dear as
 *            the products.
 */
#include "04_mla/cuda/latent_row.cuh"
#include "04_mla/cuda/mla_decode_sparse.cuh"

#include <math.h>

enum {
    TIDY_THREADS = 512,
    WINDOW = 1 << 17, /* keys: 16 KiB of bits */
    WARPS = 4,
    COLUMNS = MLA_DECODE_MAX_WIDTH / 32 /* of a lane, at most */
};
#define GATHERED ((size_t)512 << 20)

/* ---- order ---- */

/* Of the block's threads before this one; *all: of all. */
static __device__ int sum_before(int mine, int *all) {
    __shared__ int of_warp[TIDY_THREADS / 32];
    int lane = threadIdx.x % 32, sum = mine;
    for (int offset = 1; offset < 32; offset *= 2) {
        int left = __shfl_up_sync(~0u, sum, offset);
        if (lane >= offset) sum += left;
    }
    __syncthreads(); /* the last call's numbers have been read */
    if (lane == 31) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    int before = 0;
    *all = 0;
    for (int w = 0; w < TIDY_THREADS / 32; w++) {
        if (w < (int)threadIdx.x / 32) before += of_warp[w];
        *all += of_warp[w];
    }
    return before + sum - mine;
}

/* put(i, j): key j is the list's i-th. Returns how many there are. By a whole block. */
template <typename Put>
static __device__ int tidy_list(const int32_t *list, int count, int seen, Put put) {
    __shared__ uint32_t bits[WINDOW / 32];
    int filled = 0;
    for (int first = 0; first < seen; first += WINDOW) {
        int words = min((seen - first + 31) / 32, WINDOW / 32);
        int each = (words + TIDY_THREADS - 1) / TIDY_THREADS;
        for (int i = threadIdx.x; i < words; i += TIDY_THREADS) bits[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += TIDY_THREADS) {
            int j = list[i];
            if (j >= first && j < seen && j - first < WINDOW)
                atomicOr(&bits[(j - first) / 32], 1u << (j - first) % 32);
        }
        __syncthreads();
        int from = min((int)threadIdx.x * each, words), end = min(from + each, words);
        int mine = 0, all;
        for (int w = from; w < end; w++) mine += __popc(bits[w]);
        int at = filled + sum_before(mine, &all);
        for (int w = from; w < end; w++)
            for (uint32_t left = bits[w]; left; left &= left - 1)
                put(at++, first + 32 * w + __ffs(left) - 1);
        filled += all;
        __syncthreads(); /* the bits have been read */
    }
    return filled;
}

/* How many keys a list has that is in order already, as an indexer's are; -1: it is not. */
static __device__ int in_order(const int32_t *list, int count, int seen) {
    __shared__ int filled;
    bool fine = true;
    if (threadIdx.x == 0) filled = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += TIDY_THREADS) {
        int j = list[i], next = i + 1 < count ? list[i + 1] : -1;
        fine &= j < 0 ? next < 0 : j < seen && (next < 0 || next > j);
        if (j >= 0 && next < 0) filled = i + 1; /* one thread, if all is fine */
    }
    return __syncthreads_and(fine) ? filled : -1;
}

/* A block for each list, which becomes rows of the pool. */
static __global__ void __launch_bounds__(TIDY_THREADS)
    rows_kernel(int32_t *rows, int32_t *row_lengths, uint32_t *zeros, int zero_words,
                const int32_t *block_table, const int32_t *lengths, const int32_t *selected,
                int count, MlaDecodeShape s) {
    int list = blockIdx.x, b = list / s.q_len;
    const int32_t *pages = block_table + (int64_t)b * s.max_pages;
    int32_t *to = rows + (int64_t)list * count;
    int seen = lengths[b] - s.q_len + list % s.q_len + 1;
    const int32_t *mine = selected + (int64_t)list * count;
    auto put = [&](int i, int j) { to[i] = (int32_t)page_row(pages, j); };
    int filled = in_order(mine, count, seen);
    if (filled < 0)
        filled = tidy_list(mine, count, seen, put);
    else
        for (int i = threadIdx.x; i < filled; i += TIDY_THREADS) put(i, mine[i]);
    if (threadIdx.x == 0) {
        row_lengths[list] = max(filled, 1);
        if (filled == 0) to[0] = -1;
    }
    if (list == 0)
        for (int i = threadIdx.x; i < zero_words; i += TIDY_THREADS) zeros[i] = 0;
}

SelectedWork selected_decode_parts(void *work, DType dtype, int count, const MlaDecodeShape &s) {
    size_t lists = (size_t)s.batch * (size_t)s.q_len, at = 0;
    char *base = (char *)work;
    auto part = [&](size_t bytes) {
        char *here = base + at;
        at += (bytes + 255) / 256 * 256;
        return here;
    };
    SelectedWork w = {};
    w.rows = (int32_t *)part(sizeof(int32_t) * lists * (size_t)count);
    w.lengths = (int32_t *)part(sizeof(int32_t) * lists);
    w.zeros = part(selected_row_bytes(dtype, s) + 4);
    w.rest = base + at;
    w.bytes = at;
    return w;
}

void selected_decode_begin(Gpu *gpu, const SelectedWork &w, DType dtype, const int32_t *block_table,
                           const int32_t *lengths, const int32_t *selected, int count,
                           const MlaDecodeShape &s) {
    mla_decode_check("selected_decode", &s);
    CHECK((int64_t)s.pages * PAGE_TOKENS < INT32_MAX,
          "selected_decode: %d pages; rows have 31 bits", s.pages);
    gpu_launch(gpu, rows_kernel, (unsigned)s.batch * (unsigned)s.q_len, TIDY_THREADS, 0, w.rows,
               w.lengths, w.zeros, (int)((selected_row_bytes(dtype, s) + 3) / 4), block_table,
               lengths, selected, count, s);
}

static SelectedRows selected_rows(const SelectedWork &w) { return {w.rows, w.lengths, w.zeros}; }

/* ---- plain ---- */

/* Number i of a row; of its value where i < kv_lora_rank. */
template <typename T>
static __device__ __forceinline__ float number_of(const T *row, int i, const MlaDecodeShape &) {
    return to_float(row[i]);
}
static __device__ __forceinline__ float number_of(const unsigned char *row, int i,
                                                  const MlaDecodeShape &s) {
    return i < s.kv_lora_rank ? latent_row_c(row, i, s.kv_lora_rank)
                              : latent_row_k(row, i - s.kv_lora_rank, s.kv_lora_rank);
}

/* Z: what the pool is made of. A warp for each query head: row = list * heads + head. */
template <typename T, typename Z>
__global__ void __launch_bounds__(32 * WARPS)
    plain_kernel(T *o, const T *q, const Z *latent, SelectedRows lists, int count, int64_t numbers,
                 MlaDecodeShape s) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    int width = s.kv_lora_rank + s.rope_dim, lane = threadIdx.x % 32;
    if (row >= (int64_t)s.batch * s.q_len * s.heads) return;
    int64_t list = row / s.heads;
    float query[COLUMNS], out[COLUMNS] = {}, m = -INFINITY, l = 0.0f;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        int c = 32 * i + lane;
        query[i] = c < width ? to_float(q[row * width + c]) : 0.0f;
    }
    for (int e = 0; e < lists.lengths[list]; e++) {
        int32_t at = lists.rows[list * count + e];
        const Z *z = at < 0 ? (const Z *)lists.zeros : latent + at * numbers;
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            int c = 32 * i + lane;
            if (c < width) dot += query[i] * number_of(z, c, s);
        }
        float score = s.scale * warp_sum(dot), top = fmaxf(m, score);
        float rescale = expf(m - top), weight = expf(score - top);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            int c = 32 * i + lane;
            if (c < s.kv_lora_rank) out[i] = out[i] * rescale + weight * number_of(z, c, s);
        }
        l = l * rescale + weight, m = top;
    }
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        int c = 32 * i + lane;
        if (c < s.kv_lora_rank) o[row * s.kv_lora_rank + c] = from_float<T>(out[i] / l);
    }
}

void selected_decode_plain_cuda(Gpu *gpu, DType dtype, void *o, void *work, const void *q,
                                const void *latent, const int32_t *block_table,
                                const int32_t *lengths, const int32_t *selected, int count,
                                MlaDecodeShape s) {
    SelectedWork w = selected_decode_parts(work, dtype, count, s);
    selected_decode_begin(gpu, w, dtype, block_table, lengths, selected, count, s);
    SelectedRows lists = selected_rows(w);
    unsigned blocks = (unsigned)ceil_div((int64_t)s.batch * s.q_len * s.heads, WARPS);
    int64_t numbers =
        s.e4m3 ? latent_row_bytes(s.kv_lora_rank, s.rope_dim) : s.kv_lora_rank + s.rope_dim;
    DTYPE_SWITCH(dtype, T, {
        if (s.e4m3)
            gpu_launch(gpu, plain_kernel<T, unsigned char>, blocks, 32 * WARPS, 0, o, q, latent,
                       lists, count, numbers, s);
        else
            gpu_launch(gpu, plain_kernel<T, T>, blocks, 32 * WARPS, 0, o, q, latent, lists, count,
                       numbers, s);
    });
}

/* ---- gathered ---- */

/* grid (rows of a list / WARPS, lists): a warp copies a row, in pieces of type V. */
template <typename V>
__global__ void __launch_bounds__(32 * WARPS)
    gather_kernel(V *to, int32_t *table, const V *latent, SelectedRows lists, int count, int pages,
                  int pieces) {
    int e = blockIdx.x * WARPS + threadIdx.x / 32;
    int64_t list = blockIdx.y;
    if (threadIdx.x < WARPS) { /* the pages lie one behind the other */
        int page = blockIdx.x * WARPS + threadIdx.x;
        if (page < pages) table[list * pages + page] = (int32_t)(list * pages + page);
    }
    if (e >= lists.lengths[list]) return;
    int32_t row = lists.rows[list * count + e];
    V *mine = to + (list * pages * PAGE_TOKENS + e) * pieces;
    for (int i = threadIdx.x % 32; i < pieces; i += 32)
        mine[i] = row < 0 ? V{} : latent[(int64_t)row * pieces + i];
}

/* Lists of a pass. */
static int gathered_lists(DType dtype, int count, const MlaDecodeShape &s) {
    size_t pages = (size_t)(count + PAGE_TOKENS - 1) / PAGE_TOKENS;
    size_t list = pages * PAGE_TOKENS * selected_row_bytes(dtype, s), fit = GATHERED / list;
    size_t lists = (size_t)s.batch * (size_t)s.q_len;
    if (fit > 65535) fit = 65535; /* a grid's */
    return (int)(fit < 1 ? 1 : fit < lists ? fit : lists);
}

struct Gathered {
    void *rows;
    int32_t *table;
    float *scratch;
    size_t bytes;
};
static Gathered gathered_parts(Gpu *gpu, char *rest, DType dtype, int count,
                               const MlaDecodeShape &s) {
    MlaDecodeShape g = selected_as_sequences(gathered_lists(dtype, count, s), count, s);
    size_t at = 0;
    auto part = [&](size_t bytes) {
        char *here = rest + at;
        at += (bytes + 255) / 256 * 256;
        return here;
    };
    Gathered p = {};
    p.rows = part((size_t)g.pages * PAGE_TOKENS * selected_row_bytes(dtype, s));
    p.table = (int32_t *)part(sizeof(int32_t) * (size_t)g.pages);
    p.scratch = (float *)part(mla_decode_scratch_cuda(gpu, dtype, g));
    p.bytes = at;
    return p;
}

void selected_decode_gathered_cuda(Gpu *gpu, DType dtype, void *o, void *work, const void *q,
                                   const void *latent, const int32_t *block_table,
                                   const int32_t *lengths, const int32_t *selected, int count,
                                   MlaDecodeShape s) {
    SelectedWork w = selected_decode_parts(work, dtype, count, s);
    Gathered p = gathered_parts(gpu, w.rest, dtype, count, s);
    selected_decode_begin(gpu, w, dtype, block_table, lengths, selected, count, s);
    int lists = s.batch * s.q_len, fit = gathered_lists(dtype, count, s);
    int pages = (count + PAGE_TOKENS - 1) / PAGE_TOKENS;
    int row = (int)selected_row_bytes(dtype, s);
    size_t q_list = dtype_size(dtype) * (size_t)s.heads * (size_t)(s.kv_lora_rank + s.rope_dim);
    size_t o_list = dtype_size(dtype) * (size_t)s.heads * (size_t)s.kv_lora_rank;
    for (int first = 0; first < lists; first += fit) {
        int some = min(lists - first, fit);
        SelectedRows part = {w.rows + (int64_t)first * count, w.lengths + first, w.zeros};
        dim3 grid((unsigned)ceil_div(count, WARPS), (unsigned)some);
        if (row % 16 == 0 && (uintptr_t)latent % 16 == 0)
            gpu_launch(gpu, gather_kernel<uint4>, grid, 32 * WARPS, 0, p.rows, p.table, latent,
                       part, count, pages, row / 16);
        else if (row % 4 == 0)
            gpu_launch(gpu, gather_kernel<uint32_t>, grid, 32 * WARPS, 0, p.rows, p.table, latent,
                       part, count, pages, row / 4);
        else
            gpu_launch(gpu, gather_kernel<uint16_t>, grid, 32 * WARPS, 0, p.rows, p.table, latent,
                       part, count, pages, row / 2);
        mla_decode_cuda(gpu, dtype, (char *)o + (size_t)first * o_list, p.scratch,
                        (const char *)q + (size_t)first * q_list, p.rows, p.table, part.lengths,
                        selected_as_sequences(some, count, s));
    }
}

/* ---- hopper ---- */

int selected_decode_hopper_supports(const Gpu *gpu, DType dtype, MlaDecodeShape s) {
    return (int64_t)s.batch * s.q_len <= 65535 && (mla_decode_e4m3_hopper_supports(gpu, dtype, s) ||
                                                   mla_decode_hopper_supports(gpu, dtype, s));
}

void selected_decode_hopper_cuda(Gpu *gpu, DType dtype, void *o, void *work, const void *q,
                                 const void *latent, const int32_t *block_table,
                                 const int32_t *lengths, const int32_t *selected, int count,
                                 MlaDecodeShape s) {
    CHECK(selected_decode_hopper_supports(gpu, dtype, s) &&
              ((uintptr_t)o | (uintptr_t)q | (uintptr_t)latent) % 16 == 0,
          "lists with wgmma are for sm_90, BF16, kv_lora_rank 512, rope_dim 64 and addresses that "
          "are multiples of 16: this is sm_%d, %s, %d and %d",
          gpu->compute_capability, dtype_name(dtype), s.kv_lora_rank, s.rope_dim);
    SelectedWork w = selected_decode_parts(work, dtype, count, s);
    selected_decode_begin(gpu, w, dtype, block_table, lengths, selected, count, s);
    (s.e4m3 ? selected_e4m3_hopper
            : selected_bf16_hopper)(gpu, o, (float *)w.rest, q, latent, selected_rows(w),
                                    selected_as_sequences(s.batch * s.q_len, count, s));
}

/* ---- in use ---- */

size_t selected_decode_gathered_work_cuda(Gpu *gpu, DType dtype, int count, MlaDecodeShape s) {
    SelectedWork w = selected_decode_parts(NULL, dtype, count, s);
    return w.bytes + gathered_parts(gpu, NULL, dtype, count, s).bytes;
}

size_t selected_decode_work_cuda(Gpu *gpu, DType dtype, int count, MlaDecodeShape s) {
    if (!selected_decode_hopper_supports(gpu, dtype, s))
        return selected_decode_gathered_work_cuda(gpu, dtype, count, s);
    MlaDecodeShape lists = selected_as_sequences(s.batch * s.q_len, count, s);
    return selected_decode_parts(NULL, dtype, count, s).bytes +
           mla_decode_scratch_cuda(gpu, dtype, lists);
}

void selected_decode_cuda(Gpu *gpu, DType dtype, void *o, void *work, const void *q,
                          const void *latent, const int32_t *block_table, const int32_t *lengths,
                          const int32_t *selected, int count, MlaDecodeShape s) {
    if (selected_decode_hopper_supports(gpu, dtype, s))
        selected_decode_hopper_cuda(gpu, dtype, o, work, q, latent, block_table, lengths, selected,
                                    count, s);
    else
        selected_decode_gathered_cuda(gpu, dtype, o, work, q, latent, block_table, lengths,
                                      selected, count, s);
}
