/*
 * What the persistent FP8 kernels share: the shape of a block, its ring of shared memory, and the
 * multiplication with promotion.
 *
 *     tile       64 GROUPS WAVES rows of A, N rows of B, for one block
 *     step       128 numbers of k: what one scale covers, and one row of 128 bytes in shared memory
 *     producer   one warp: A, B and A's scales of a step come on one barrier
 *     consumers  GROUPS warpgroups with WAVES slices of 64 rows each. A slice's four wgmmas of a
 *                step start from zero; then they are waited for, scaled and added to F32 sums: the
 *                promotion. While one group promotes, the tensor core works for the other.
 *     cluster    what blocks do with each other:
 *                SHARE_A   two with the same rows and neighbouring columns fetch half of A for both
 *                SHARE_B   two with the same columns and neighbouring rows
 *                SPLIT     as many have the same tile, each a part of k; the first adds up
 *
 * ROWS_USE: y = x W^T, B's scales are those of squares. WEIGHT_USE: dW = dy^T x of two transposes,
 * every row and every column has its scale, and the steps of a tile are those of its expert.
 *
 * Registers, which decide what shapes there can be: N / 2 for the product of a slice and
 * N / 2 * WAVES for the sums.
 */
#ifndef FP8_HOPPER_CUH
#define FP8_HOPPER_CUH

#include "05_moe/cuda/turns.cuh"
#include "08_quant/fp8.h"

enum { SLICE_BYTES = 64 * 128 };            /* 64 rows of 128 bytes: a swizzled block */
enum { SHARED_LIMIT = (227 << 10) - 4096 }; /* what static variables leave */
enum { TABLE_EXPERTS = 640 };
enum Share { ALONE, SHARE_A, SHARE_B };

constexpr int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }

enum Use { ROWS_USE, WEIGHT_USE };

template <Use USE_, int GROUPS_, int WAVES_, int N_, Share SHARE_ = ALONE, int SPLIT_ = 1,
          int PER_SM_ = 1>
struct Shape {
    static constexpr Use USE = USE_;
    static constexpr Share SHARE = SHARE_;
    static constexpr int GROUPS = GROUPS_, WAVES = WAVES_, N = N_, SPLIT = SPLIT_;
    static constexpr int PER_SM = PER_SM_, SHARES = SHARE == ALONE ? 1 : 2;
    static constexpr int CLUSTER = SHARES * SPLIT;
    static constexpr int M = 64 * GROUPS * WAVES, THREADS = 128 * (GROUPS + 1);
    static constexpr int A_BYTES = M * FP8_STEP, B_BYTES = N * FP8_STEP;
    static constexpr int STAGE_BYTES = A_BYTES + B_BYTES;
    /* To store sums from: of dW two buffers in turn, 64 x 32 numbers in F32 each. */
    static constexpr int GROUP_OUT = (USE == WEIGHT_USE ? 2 : 1) * SLICE_BYTES;
    static constexpr int OUT_BYTES = GROUPS * GROUP_OUT;
    /* Of a stage. Copies begin at multiples of four numbers, an expert's rows anywhere. */
    static constexpr int A_SCALES = M + 4, SCALES = A_SCALES + (USE == WEIGHT_USE ? N : 0);
    static constexpr int SUMS_BYTES = (SPLIT - 1) * M * N * 4;
    /* The copy engine stores dW from there: a swizzled block begins at a multiple of 1024. */
    static constexpr int OUT_ALIGN = USE == WEIGHT_USE ? 1024 : 16;
    static constexpr int FIT =
        (SHARED_LIMIT / PER_SM - OUT_ALIGN - OUT_BYTES - SUMS_BYTES) / (STAGE_BYTES + SCALES * 4);
    static constexpr int STAGES = FIT < 10 ? FIT : 10;
    static constexpr int SCALES_AT = STAGES * STAGE_BYTES;
    static constexpr int OUT_AT =
        (SCALES_AT + STAGES * SCALES * 4 + OUT_ALIGN - 1) / OUT_ALIGN * OUT_ALIGN;
    static constexpr int SUMS_AT = OUT_AT + OUT_BYTES;
    static constexpr int SHARED_BYTES = SUMS_AT + SUMS_BYTES;
    /* rows and columns of a cluster's tile */
    static constexpr int ROWS = M * (SHARE == SHARE_B ? SHARES : 1);
    static constexpr int COLUMNS = N * (SHARE == SHARE_A ? SHARES : 1);
    /* Columns that are sure to have one scale of B, wherever the tile begins; of a tile there are
     * at most two scales. */
    static constexpr int PIECE = gcd(N, FP8_STEP), PIECES = N / PIECE;
    /* registers of a thread: all of the SM's 65536 together */
    static constexpr int PRODUCER = PER_SM == 2 ? 24 : GROUPS == 3 ? 32 : 40;
    static constexpr int CONSUMER = GROUPS == 3 ? 160 : 232;
    static_assert(STAGES >= 3, "the ring is too short");
    static_assert(USE == WEIGHT_USE || N <= FP8_STEP + PIECE, "a tile may meet three scales of B");
};

template <typename S> struct Barriers {
    uint64_t full[S::STAGES], empty[S::STAGES];
    uint64_t sums_full[S::GROUPS], sums_empty[S::GROUPS]; /* SPLIT */
    Turns turns;
};

struct Fp8Maps {
    CUtensorMap a, b, d; /* d: WEIGHT_USE */
};

struct Fp8Work {
    const int32_t *offsets; /* NULL: one expert, who has all rows */
    int *next;              /* the scheduler's counter; NULL: tiles are dealt out in advance */
    void *d;                /* BF16 [rows, n]; WEIGHT_USE: F32 [experts, rows, n] */
    const bf16 *base;       /* d = base + ..; or NULL */
    const float *a_scale;   /* 1 x 128 */
    const float *b_scale;   /* 128 x 128; WEIGHT_USE: 1 x 128 */
    int rows, experts, n;
    int down, across;       /* cluster tiles of the result; down: WEIGHT_USE */
    int steps, b_blocks;    /* of 128: along k, and along n */
    int a_stride, b_stride; /* of the scales 1 x 128 */
    int add;                /* WEIGHT_USE: d += */
};

#if HOPPER_CODE

/* By one thread; cluster_sync() follows. */
template <typename S> static __device__ __forceinline__ void barriers_init(Barriers<S> *b) {
    for (int i = 0; i < S::STAGES; i++) {
        mbarrier_init(&b->full[i], 1); /* the producer, and the bytes */
        mbarrier_init(&b->empty[i], S::SHARES * S::GROUPS * 4 * WARP_ARRIVALS);
    }
    for (int i = 0; i < S::GROUPS; i++) {
        mbarrier_init(&b->sums_full[i], 1);
        mbarrier_init(&b->sums_empty[i], 4 * WARP_ARRIVALS);
    }
    turns_init(&b->turns, S::CLUSTER * (1 + 4 * S::GROUPS));
    mbarrier_init_fence();
}

/* What this block does of a cluster's tile. */
struct Part {
    int expert, row, column; /* of the result's tile */
    int rows;                /* from there on; none or fewer: nothing to do */
    int b_row;               /* of B's tile */
    int first, last;         /* steps first .. last - 1 */
};

template <typename S>
static __device__ __forceinline__ Part part_of(const Fp8Work &work, Turn tile, int rank) {
    int share = rank % S::SHARES, part = rank / S::SHARES;
    int down = S::SHARE == SHARE_B ? share * S::M : 0;
    int right = S::SHARE == SHARE_A ? share * S::N : 0;
    bool weight = S::USE == WEIGHT_USE;
    Part p;
    p.expert = tile.expert;
    p.row = (weight ? tile.place % work.down * S::ROWS : tile.row) + down;
    p.column = (weight ? tile.place / work.down : tile.place) * S::COLUMNS + right;
    p.rows = p.column >= work.n ? 0 : weight ? work.rows - p.row : tile.rows - down;
    p.b_row = p.column + (weight ? 0 : p.expert * work.n);
    int begin = weight ? tile.row : 0, steps = weight ? tile.rows : work.steps;
    p.first = begin + part * steps / S::SPLIT;
    p.last = begin + (part + 1) * steps / S::SPLIT;
    return p;
}

/* By one warp; its first thread gives the orders. */
template <typename S>
static __device__ void produce(const Fp8Maps &maps, const Fp8Work &work, char *ring,
                               Barriers<S> *barriers, int rank) {
    Ring<S::STAGES> at;
    int share = rank % S::SHARES;
    uint16_t both = 3 << (rank - share);
    for (int turn = 0;; turn++) {
        Turn tile = take_turn(&barriers->turns, turn);
        if (tile.expert == work.experts) break;
        Part p = part_of<S>(work, tile, rank);
        int a_first = p.row / 4 * 4; /* scales that there are, of those that a tile can have */
        int a_count = max(min(S::A_SCALES, work.a_stride - a_first), 0);
        int b_count = S::USE == WEIGHT_USE ? max(min(S::N, work.b_stride - p.column), 0) : 0;
        for (int step = p.first; step < p.last; step++, at.advance()) {
            mbarrier_wait(&barriers->empty[at.stage], at.parity ^ 1);
            if (threadIdx.x == 0) {
                char *a = ring + at.stage * S::STAGE_BYTES, *b = a + S::A_BYTES;
                float *scales = (float *)(ring + S::SCALES_AT) + at.stage * S::SCALES;
                uint64_t *full = &barriers->full[at.stage];
                int k = step * FP8_STEP;
                mbarrier_expect(full, S::STAGE_BYTES + (a_count + b_count) * 4);
                if (S::SHARE == SHARE_A)
                    tma_load_2d_multicast(a + share * (S::A_BYTES / 2), &maps.a, full, both, k,
                                          p.row + share * (S::M / 2));
                else
                    tma_load_2d(a, &maps.a, full, k, p.row);
                if (S::SHARE == SHARE_B)
                    tma_load_2d_multicast(b + share * (S::B_BYTES / 2), &maps.b, full, both, k,
                                          p.b_row + share * (S::N / 2));
                else
                    tma_load_2d(b, &maps.b, full, k, p.b_row);
                if (a_count)
                    bulk_load(scales, work.a_scale + (int64_t)step * work.a_stride + a_first,
                              a_count * 4, full);
                if (b_count)
                    bulk_load(scales + S::A_SCALES,
                              work.b_scale + (int64_t)step * work.b_stride + p.column, b_count * 4,
                              full);
            }
            __syncwarp();
        }
    }
}

/* A warp has read the stage: tells all producers that write to it. */
template <typename S>
static __device__ __forceinline__ void leave(Barriers<S> *barriers, int stage, int rank) {
    if (S::SHARES == 2) {
        __syncwarp();
        for (int i = threadIdx.x % 32; i < 2 * WARP_ARRIVALS; i += 32)
            mbarrier_arrive_cluster(&barriers->empty[stage], rank / 2 * 2 + i / WARP_ARRIVALS);
    } else
        mbarrier_arrive_warp(&barriers->empty[stage]);
}

/* sum += scale of the row * scale of the column * product. A thread holds rows r and r + 8. */
template <typename S>
static __device__ __forceinline__ void promote(float (&sum)[S::N / 2],
                                               const float (&product)[S::N / 2], float a0, float a1,
                                               const float (&b)[S::PIECES]) {
#pragma unroll
    for (int j = 0; j < S::N / 2; j += 4) {
        float s0 = a0 * b[2 * j / S::PIECE], s1 = a1 * b[2 * j / S::PIECE];
        sum[j] += s0 * product[j];
        sum[j + 1] += s0 * product[j + 1];
        sum[j + 2] += s1 * product[j + 2];
        sum[j + 3] += s1 * product[j + 3];
    }
}

/* The same where every column has a scale, in shared memory. */
template <int N>
static __device__ __forceinline__ void promote_columns(float (&sum)[N / 2],
                                                       const float (&product)[N / 2], float a0,
                                                       float a1, const float *b) {
    b += threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < N / 2; j += 4) {
        float2 s = *(const float2 *)(b + 2 * j);
        sum[j] += a0 * product[j] * s.x;
        sum[j + 1] += a0 * product[j + 1] * s.y;
        sum[j + 2] += a1 * product[j + 2] * s.x;
        sum[j + 3] += a1 * product[j + 3] * s.y;
    }
}

/* This group's slices 0 .. ACTIVE - 1 of the tile, over the part's steps. */
template <typename S, int ACTIVE>
static __device__ __forceinline__ void multiply(float (&sum)[S::WAVES][S::N / 2],
                                                const Fp8Work &work, const Part &p, char *ring,
                                                Barriers<S> *barriers, Ring<S::STAGES> &at,
                                                int group, int rank) {
    constexpr int APART = S::GROUPS * 64; /* rows from one slice of the group to the next */
    int row = group * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    int block = p.column / FP8_STEP, more = block + 1 < work.b_blocks ? work.steps : 0;
    const float *b_scale = work.b_scale + (p.expert * work.b_blocks + block) * work.steps;
#pragma unroll
    for (int w = 0; w < ACTIVE; w++)
#pragma unroll
        for (int j = 0; j < S::N / 2; j++) sum[w][j] = 0;
    for (int step = p.first; step < p.last; step++, at.advance()) {
        float b[S::PIECES], a[S::WAVES][2], product[S::N / 2];
        if (ACTIVE && S::USE == ROWS_USE) {
            float b0 = __ldg(b_scale + step), b1 = __ldg(b_scale + step + more);
#pragma unroll
            for (int i = 0; i < S::PIECES; i++)
                b[i] = (p.column + i * S::PIECE) / FP8_STEP == block ? b0 : b1;
        }
        mbarrier_wait(&barriers->full[at.stage], at.parity);
        const float *scales = (const float *)(ring + S::SCALES_AT) + at.stage * S::SCALES;
        char *tile = ring + at.stage * S::STAGE_BYTES;
        uint64_t desc_a = wgmma_k_major(tile + group * SLICE_BYTES);
        uint64_t desc_b = wgmma_k_major(tile + S::A_BYTES);
#pragma unroll
        for (int w = 0; w < ACTIVE; w++) {
            a[w][0] = scales[p.row % 4 + row + w * APART];
            a[w][1] = scales[p.row % 4 + row + w * APART + 8];
        }
#pragma unroll
        for (int w = 0; w < ACTIVE; w++) {
            wgmma_fence(product);
#pragma unroll
            for (int k = 0; k < FP8_STEP / 32; k++)
                Wgmma<S::N>::fp8(product,
                                 desc_a + (w * S::GROUPS * SLICE_BYTES >> 4) + k * WGMMA_K_STEP,
                                 desc_b + k * WGMMA_K_STEP, k > 0);
            wgmma_commit();
            wgmma_wait<0>(product);
            if (S::USE == WEIGHT_USE)
                promote_columns<S::N>(sum[w], product, a[w][0], a[w][1], scales + S::A_SCALES);
            else {
                if (w == ACTIVE - 1) leave(barriers, at.stage, rank);
                promote<S>(sum[w], product, a[w][0], a[w][1], b);
            }
        }
        if (S::USE == WEIGHT_USE || !ACTIVE) leave(barriers, at.stage, rank);
    }
}
#endif

/* ---- the host ---- */

/* Codes [rows, k] in boxes of 128 columns. */
static inline int map_codes(CUtensorMap *map, const void *codes, int64_t rows, int64_t k,
                            int box_rows) {
    uint64_t sizes[2] = {(uint64_t)k, (uint64_t)rows}, strides[1] = {(uint64_t)k};
    uint32_t box[2] = {FP8_STEP, (uint32_t)box_rows};
    return tensor_map_make(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, codes, 2, sizes, strides, box,
                           CU_TENSOR_MAP_SWIZZLE_128B);
}

#endif
