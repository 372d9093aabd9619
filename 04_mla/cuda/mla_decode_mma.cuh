/*
 * The rung mma's parts (mla_decode_mma.cu): how a block's eight warps share scores, softmax and
 * output.
 */
#ifndef MLA_DECODE_MMA_CUH
#define MLA_DECODE_MMA_CUH

#include "04_mla/cuda/mla_decode.cuh"
#include "common/cuda/few_rows_launch.cuh"
#include "common/cuda/mma.cuh"

#include <string.h>

enum { WARPS = 8, THREADS = 32 * WARPS };
enum { KEYS = 32 };        /* tokens in a tile */
enum { ROPE = 64 };        /* columns of k_rope in a tile; unused ones are zero */
enum { PITCH = KEYS + 8 }; /* of scores and P: no bank is met twice in one access */
enum { QUARTERS = 4 };     /* of the columns of S's sum */

/* What a block has in shared memory, KV columns for c_kv. */
template <int KV, int M> struct Shared {
    float part[QUARTERS][16 * M][PITCH]; /* of the scores */
    bf16 p[16 * M][PITCH];
    float factor[16 * M]; /* for each row: the rescaling of O; at the end 1 / l */
    /* then the tiles, bf16 [KEYS][KV + ROPE] each */
    static constexpr int TILE = KEYS * (KV + ROPE);
    static constexpr int bytes(int stages) {
        return (int)sizeof(Shared) + stages * TILE * (int)sizeof(bf16);
    }
};

/* What a warp keeps in registers, in mma's layouts (common/cuda/mma.cuh). */
template <int KV, int M> struct Warp {
    static constexpr int STEPS = (KV + ROPE) / 16 / QUARTERS; /* of its quarter of S's sum */
    static constexpr int COLUMNS = KV / 16 / WARPS;           /* its O: blocks of 16 columns */
    uint32_t q[M][STEPS][4];
    float o[M][COLUMNS][2][4];
    float m, l; /* of the row that this lane does the softmax for; l: its tokens' part */
};

/* The lane, as a number that may differ each time: or else the addresses of all ldmatrix would be
 * computed before the loop and held in registers. */
__device__ __forceinline__ int lane_now() {
    int lane = threadIdx.x % 32;
    asm volatile("" : "+r"(lane));
    return lane;
}

template <int KV, int M> struct Scores {
    /* With 16 rows, two chains of sums: an mma must wait for the one before it in its chain. */
    static constexpr int CHAINS = 3 - M;
    float sum[CHAINS][M][2][4];
};
template <int KV, int M>
__device__ __forceinline__ void store_scores(Shared<KV, M> &shared, const Scores<KV, M> &x) {
    int lane = threadIdx.x % 32, quarter = threadIdx.x / 32 % QUARTERS, half = threadIdx.x / 128;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int j = i / 2, r = i % 2;
            float2 pair = make_float2(x.sum[0][m][j][2 * r], x.sum[0][m][j][2 * r + 1]);
            for (int chain = 1; chain < Scores<KV, M>::CHAINS; chain++) {
                pair.x += x.sum[chain][m][j][2 * r];
                pair.y += x.sum[chain][m][j][2 * r + 1];
            }
            *(float2 *)&shared
                 .part[quarter][16 * m + 8 * r + lane / 4][half * 16 + j * 8 + lane % 4 * 2] = pair;
        }
}

/* How the softmax is shared: 2 M rows a warp, 16 / M lanes a row, 2 M tokens a lane. */
template <int M> __device__ __forceinline__ int softmax_row() {
    return threadIdx.x / (16 / M); /* of the group */
}

/* P as it goes to the tensor cores: in units of 1 / TIMES, and so is O. */
struct AsBf16 {
    static constexpr float TIMES = 1;
    static __device__ __forceinline__ uint32_t pack(float a, float b) { return pack_bf16(a, b); }
};

/* Adds the quarters, masks tokens from `seen` on (counted from the tile's first), and brings the
 * row's m and l up to date. `scale` is to base 2. */
template <typename P, int KV, int M>
__device__ __forceinline__ void softmax(Warp<KV, M> &w, Shared<KV, M> &shared, int seen,
                                        float scale) {
    constexpr int LANES = 16 / M, MINE = 2 * M;
    int row = softmax_row<M>(), key = threadIdx.x % LANES * MINE;
    float x[MINE] = {}, top = w.m;
#pragma unroll
    for (int quarter = 0; quarter < QUARTERS; quarter++)
#pragma unroll
        for (int i = 0; i < MINE; i += 2) {
            float2 pair = *(const float2 *)&shared.part[quarter][row][key + i];
            x[i] += pair.x;
            x[i + 1] += pair.y;
        }
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        x[i] = key + i < seen ? x[i] * scale : -INFINITY;
        top = fmaxf(top, x[i]);
    }
#pragma unroll
    for (int offset = 1; offset < LANES; offset *= 2)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));
    float base = top == -INFINITY ? 0.0f : top; /* no token so far: avoid inf - inf */
    float factor = exp2_fast(w.m - base);
    w.m = top;
    w.l *= factor;
#pragma unroll
    for (int i = 0; i < MINE; i += 2) {
        float a = exp2_fast(x[i] - base), b = exp2_fast(x[i + 1] - base);
        w.l += a + b;
        *(uint32_t *)&shared.p[row][key + i] = P::pack(a, b);
    }
    if (key == 0) shared.factor[row] = factor;
}

/* Multiplies the rows of O by their factors. */
template <int KV, int M>
__device__ __forceinline__ void rescale(Warp<KV, M> &w, const Shared<KV, M> &shared) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float factor = shared.factor[16 * m + 8 * r + threadIdx.x % 32 / 4];
#pragma unroll
            for (int c = 0; c < Warp<KV, M>::COLUMNS; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) w.o[m][c][e / 2][2 * r + e % 2] *= factor;
        }
}

/* Writes the group's O: the output itself, or the state that join_kernel wants. Columns: which two
 * neighbouring columns a lane has in block c. The first is at(c, j), and pair() their values. */
template <typename Columns, typename P, int KV, int M>
__device__ __forceinline__ void write(Warp<KV, M> &w, Shared<KV, M> &shared, bf16 *o,
                                      float *scratch, const MlaWalk &walk,
                                      const MlaDecodeShape &s) {
    constexpr int LANES = 16 / M;
    int lane = threadIdx.x % 32, mine = softmax_row<M>();
    bool whole = walk.slot < 0;
    __syncthreads(); /* all warps have used the last tile's factors, and the tile */
#pragma unroll
    for (int offset = 1; offset < LANES; offset *= 2) w.l += __shfl_xor_sync(~0u, w.l, offset);
    if (threadIdx.x % LANES == 0) {
        shared.factor[mine] = (whole ? 1.0f / w.l : 1.0f) / P::TIMES;
        if (!whole) {
            float *state = mla_state(scratch, walk.slot, 16 * M, mine, s);
            state[0] = w.m;
            state[1] = w.l;
        }
    }
    __syncthreads();
    rescale(w, shared);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int in_group = 16 * m + 8 * r + lane / 4, row = walk.group * 16 * M + in_group;
            if (row >= mla_rows(s)) continue;
            float *state = whole ? nullptr : mla_state(scratch, walk.slot, 16 * M, in_group, s) + 2;
            bf16 *out = o + ((int64_t)walk.b * mla_rows(s) + row) * s.kv_lora_rank;
#pragma unroll
            for (int c = 0; c < Warp<KV, M>::COLUMNS; c++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    int column = Columns::at(c, j);
                    float x, y;
                    Columns::pair(x, y, w.o[m][c], j, r);
                    if (column >= s.kv_lora_rank) continue;
                    if (whole)
                        *(uint32_t *)(out + column) = pack_bf16(x, y);
                    else
                        *(float2 *)(state + column) = make_float2(x, y);
                }
        }
}

/* Blocks of 16 or of 32 rows, one on each processor. */
static int row_tiles(const MlaDecodeShape &s) {
    return (s.as_single ? s.heads : mla_rows(s)) <= 16 ? 1 : 2;
}

/* As many as there can be work for, `each` on a processor. */
static int blocks_for(const Gpu *gpu, const MlaDecodeShape &s, int each) {
    int most = gpu->sm_count * each;
    int64_t groups = ceil_div(mla_rows(s), 16 * row_tiles(s));
    int64_t pages = s.batch * groups * ceil_div(s.max_length, PAGE_TOKENS);
    return pages < most ? (int)pages : most;
}

#endif
