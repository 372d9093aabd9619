/*
 * The rotation on the GPU: a ladder of four rungs.
 *
 * What must move: each rotated number is read once and written once, in place; at DeepSeek-V3's
 * sizes, 128 query heads and one key head with 64 of 192 numbers rotated, that is 33 KiB a token
 * in BF16. The table adds 256 bytes a token. Some 6 operations a pair are nothing beside that: the
 * memory is the only honest limit. (Memory moves in sectors of 32 bytes: the 128 bytes of a head
 * fill four of them whole, so the gaps between heads cost no bytes.)
 *
 * All shares of a copy's speed below: one NVIDIA H200, fastest repeat of
 * ./07_rope/bench --device cuda --dtype bf16 --seconds 0.1, V3's shape where no other is named.
 *
 * A position outside the table cannot stop the program from here (the host checks positions where
 * it makes them): nothing outside is read, and the token's numbers become NaN, which is seen.
 */
#include "07_rope/rope.h"
#include "common/cuda/gpu.cuh"

static const int THREADS = 256;

/*
 * Indices in kernels are 32 bits wide, for a 64-bit division takes longer than the rotation. So a
 * launch takes as many tokens as that allows; this is where part's next ones begin.
 */
static int64_t tokens_in_a_launch(int64_t threads_a_token) { return 0x7fffffff / threads_a_token; }

static RopePart from_token(RopePart part, DType dtype, int64_t token) {
    int64_t numbers = token * part.heads * part.head_dim;
    if (part.data) part.data = (char *)part.data + numbers * (int64_t)dtype_size(dtype);
    return part;
}

/* ---- rungs 1 and 2: a thread for each pair ---- */

/*
 * Rung 1: the angle is made where it is needed, again for each head. Not exact: the angle p f,
 * rounded to F32, is off by 2^-24 of itself, at position 163840 by 0.01. Not fast: a warp moves 64
 * or 128 bytes at a time, and each pair costs two divisions to find its place, and sincosf, some 20
 * instructions (hundreds beyond an angle of 105615). It is the instructions that limit it: BF16
 * moves at 37 % of a copy's speed and F32, half as many pairs for the same bytes, at 72 %.
 */
struct Sincos {
    float step; /* log2 of f_(i+1) / f_i */
    int max_position;
    __device__ void operator()(int position, unsigned i, unsigned, float *c, float *s) const {
        if (position < 0 || position >= max_position)
            *c = *s = NAN;
        else
            sincosf((float)position * exp2f((float)i * step), s, c);
    }
};

/*
 * Rung 2: cos and sin from the table. That makes the angles exact, and nothing faster: for BF16 the
 * two loads take as long as sincosf did (36 %), for F32 longer (63 %). The divisions and the narrow
 * loads and stores are still there, and two launches, the second of which is far too small to fill
 * the GPU when k has one head.
 */
struct Table {
    const float *cos, *sin; /* [max_position, half] */
    int max_position;
    __device__ void operator()(int position, unsigned i, unsigned half, float *c, float *s) const {
        bool known = position >= 0 && position < max_position;
        int64_t at = (int64_t)position * half + i;
        *c = known ? cos[at] : NAN;
        *s = known ? sin[at] : NAN;
    }
};

template <typename T, typename Angles>
__global__ void rotate_pairs(RopePart part, Angles angles, const int32_t *positions, unsigned count,
                             unsigned half, bool halves, float sign) {
    unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= count) return;
    unsigned i = thread % half, row = thread / half; /* row = token * heads + head */
    T *a = (T *)part.data + (int64_t)row * part.head_dim + part.offset + (halves ? i : 2 * i);
    T *b = a + (halves ? half : 1);
    float c, s, x = to_float(*a), y = to_float(*b);
    angles(positions[row / part.heads], i, half, &c, &s);
    s *= sign;
    *a = from_float<T>(x * c - y * s);
    *b = from_float<T>(x * s + y * c);
}

template <typename Angles>
static void launch_pairs(Gpu *gpu, DType dtype, RopePart part, Angles angles,
                         const int32_t *positions, int64_t tokens, int dim, RopeLayout layout,
                         int inverse) {
    int64_t pairs = (int64_t)part.heads * (dim / 2);
    if (!part.data || pairs == 0) return;
    int64_t most = tokens_in_a_launch(pairs);
    for (int64_t t = 0; t < tokens; t += most) {
        int64_t count = (tokens - t < most ? tokens - t : most) * pairs;
        DTYPE_SWITCH(dtype, T,
                     gpu_launch(gpu, rotate_pairs<T, Angles>, ceil_div(count, THREADS), THREADS, 0,
                                from_token(part, dtype, t), angles, positions + t, (unsigned)count,
                                (unsigned)dim / 2, layout == ROPE_HALVES, inverse ? -1.0f : 1.0f));
    }
}

void rope_sincos_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, double theta,
                      const int32_t *positions, int64_t tokens, int dim, int max_position,
                      RopeLayout layout, int inverse) {
    Sincos angles = {(float)(-2 * log2(theta) / dim), max_position};
    launch_pairs(gpu, dtype, q, angles, positions, tokens, dim, layout, inverse);
    launch_pairs(gpu, dtype, k, angles, positions, tokens, dim, layout, inverse);
}

void rope_table_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, const float *cos,
                     const float *sin, const int32_t *positions, int64_t tokens, int dim,
                     int max_position, RopeLayout layout, int inverse) {
    Table angles = {cos, sin, max_position};
    launch_pairs(gpu, dtype, q, angles, positions, tokens, dim, layout, inverse);
    launch_pairs(gpu, dtype, k, angles, positions, tokens, dim, layout, inverse);
}

/* ---- rungs 3 and 4: whole 16-byte words, q and k together ---- */

/*
 * Rung 3: a thread turns a piece of a head: one 16-byte word of neighbours, or one of each half;
 * q's heads and k's in one launch. For 16 bytes of BF16 neighbours it reads 32 bytes of cos and
 * sin, from the caches, but through the same path; and after one load or two it waits. (BF16:
 * 67 % for neighbours, 75 % for halves.)
 *
 * Rung 4: the same piece of several heads. They have the same angles: cos and sin are read once
 * and stay in registers, and four words are under way at once. They are marked as streaming, read
 * once and written once, so that the L2 cache gives their lines up first. BF16: 91 % or more where
 * heads lie side by side (Llama's shape), and 81 % with 128 of every 384 bytes, as in V3's queries.
 * The instructions for a word are the same, so it is not they that cost these ten percent. With 256
 * of every 768 bytes, V3's shape in F32, it is 90 %.
 */
template <typename T, int LAYOUT> struct Piece {
    static const int WIDTH = 16 / sizeof(T); /* numbers in a word */
    static const int WORDS = LAYOUT == ROPE_HALVES ? 2 : 1;
    static const int PAIRS = WIDTH * WORDS / 2;
    struct alignas(16) Word {
        T x[WIDTH];
    } word[WORDS];

    template <bool STREAM> __device__ void load(const T *at, unsigned half) {
#pragma unroll
        for (int w = 0; w < WORDS; w++) {
            const uint4 *from = (const uint4 *)(at + w * half);
            uint4 bits = STREAM ? __ldcs(from) : *from;
            memcpy(&word[w], &bits, sizeof bits);
        }
    }
    template <bool STREAM> __device__ void store(T *at, unsigned half) const {
#pragma unroll
        for (int w = 0; w < WORDS; w++) {
            uint4 bits, *to = (uint4 *)(at + w * half);
            memcpy(&bits, &word[w], sizeof bits);
            if (STREAM)
                __stcs(to, bits);
            else
                *to = bits;
        }
    }
    __device__ void turn(const float *c, const float *s) {
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            T &a = LAYOUT == ROPE_HALVES ? word[0].x[i] : word[0].x[2 * i];
            T &b = LAYOUT == ROPE_HALVES ? word[WORDS - 1].x[i] : word[0].x[2 * i + 1];
            float x = to_float(a), y = to_float(b);
            a = from_float<T>(x * c[i] - y * s[i]);
            b = from_float<T>(x * s[i] + y * c[i]);
        }
    }
};

/* N floats, read with loads as wide as their alignment allows. */
template <int N> struct alignas(N < 4 ? 4 * N : 16) Floats { float v[N]; };

/* Head `head` of a token: q's heads come first, then k's. NULL behind the last. */
template <typename T>
__device__ T *head_of(const RopePart &q, const RopePart &k, unsigned token, int head) {
    bool in_q = head < q.heads; /* each choice between two registers: no parameter is indexed */
    int h = in_q ? head : head - q.heads, heads = in_q ? q.heads : k.heads;
    int head_dim = in_q ? q.head_dim : k.head_dim, offset = in_q ? q.offset : k.offset;
    T *data = (T *)(in_q ? q.data : k.data);
    return h < heads ? data + ((int64_t)token * heads + h) * head_dim + offset : NULL;
}

template <typename T, int LAYOUT, int RUNG> struct Plan {
    static const bool STREAM = RUNG == 4;
    static const int THREADS = RUNG == 4 ? 64 : 256;
    static const int HEADS = RUNG == 4 ? 4 / Piece<T, LAYOUT>::WORDS : 1; /* of a thread */
};

/* A thread turns piece number `piece` of the heads group, group + groups, group + 2 groups, ... */
template <typename T, int LAYOUT, int RUNG>
__global__ void __launch_bounds__(Plan<T, LAYOUT, RUNG>::THREADS)
    rotate_pieces(RopePart q, RopePart k, Table table, const int32_t *positions, unsigned count,
                  unsigned half, unsigned groups, float sign) {
    typedef Piece<T, LAYOUT> P;
    typedef Plan<T, LAYOUT, RUNG> Plan;
    const int HEADS = Plan::HEADS;
    unsigned thread = blockIdx.x * blockDim.x + threadIdx.x, pieces = half / P::PAIRS;
    if (thread >= count) return;
    unsigned piece = thread % pieces, rest = thread / pieces;
    unsigned token = rest / groups, group = rest % groups;
    int position = positions[token];
    unsigned column = piece * P::WIDTH;

    T *at[HEADS];
    P x[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) { /* all loads first */
        at[h] = head_of<T>(q, k, token, (int)(group + h * groups));
        if (at[h]) x[h].template load<Plan::STREAM>(at[h] += column, half);
    }
    Floats<P::PAIRS> c, s;
    if (position >= 0 && position < table.max_position) {
        int64_t first = (int64_t)position * half + piece * P::PAIRS;
        c = *(const Floats<P::PAIRS> *)(table.cos + first);
        s = *(const Floats<P::PAIRS> *)(table.sin + first);
    } else {
        for (int i = 0; i < P::PAIRS; i++) c.v[i] = s.v[i] = NAN;
    }
#pragma unroll
    for (int i = 0; i < P::PAIRS; i++) s.v[i] *= sign;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (!at[h]) continue;
        x[h].turn(c.v, s.v);
        x[h].template store<Plan::STREAM>(at[h], half);
    }
}

template <typename T, int LAYOUT, int RUNG>
static void launch_pieces(Gpu *gpu, DType dtype, RopePart q, RopePart k, Table table,
                          const int32_t *positions, int64_t tokens, int dim, int inverse) {
    typedef Plan<T, LAYOUT, RUNG> Plan;
    if (!q.data) q.heads = 0;
    if (!k.data) k.heads = 0;
    int64_t groups = ceil_div(q.heads + k.heads, Plan::HEADS);
    int64_t threads = groups * (dim / 2 / Piece<T, LAYOUT>::PAIRS); /* of one token */
    if (threads == 0) return;
    int64_t most = tokens_in_a_launch(threads);
    for (int64_t t = 0; t < tokens; t += most) {
        int64_t count = (tokens - t < most ? tokens - t : most) * threads;
        gpu_launch(gpu, rotate_pieces<T, LAYOUT, RUNG>, ceil_div(count, Plan::THREADS),
                   Plan::THREADS, 0, from_token(q, dtype, t), from_token(k, dtype, t), table,
                   positions + t, (unsigned)count, (unsigned)dim / 2, (unsigned)groups,
                   inverse ? -1.0f : 1.0f);
    }
}

template <int RUNG>
static void rotate_in_pieces(Gpu *gpu, DType dtype, RopePart q, RopePart k, Table table,
                             const int32_t *positions, int64_t tokens, int dim, RopeLayout layout,
                             int inverse) {
    CHECK(rope_vector_supports(dtype, q, k, table.cos, table.sin, dim, layout),
          "%d rotated numbers, of %d and %d, from %d and %d on: not whole 16-byte words", dim,
          q.head_dim, k.head_dim, q.offset, k.offset);
    if (layout == ROPE_HALVES)
        DTYPE_SWITCH(dtype, T,
                     (launch_pieces<T, ROPE_HALVES, RUNG>)(gpu, dtype, q, k, table, positions,
                                                           tokens, dim, inverse));
    else
        DTYPE_SWITCH(dtype, T,
                     (launch_pieces<T, ROPE_INTERLEAVED, RUNG>)(gpu, dtype, q, k, table, positions,
                                                                tokens, dim, inverse));
}

static bool whole_words(RopePart part, int64_t size) {
    if (!part.data) return true;
    uintptr_t all =
        (uintptr_t)part.data | (uintptr_t)(part.offset * size) | (uintptr_t)(part.head_dim * size);
    return all % 16 == 0;
}

int rope_vector_supports(DType dtype, RopePart q, RopePart k, const float *cos, const float *sin,
                         int dim, RopeLayout layout) {
    int64_t size = (int64_t)dtype_size(dtype);
    int64_t words = layout == ROPE_HALVES ? dim / 2 : dim; /* what must be whole words */
    return words * size % 16 == 0 && whole_words(q, size) && whole_words(k, size) &&
           ((uintptr_t)cos | (uintptr_t)sin) % 16 == 0;
}

void rope_vector_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, const float *cos,
                      const float *sin, const int32_t *positions, int64_t tokens, int dim,
                      int max_position, RopeLayout layout, int inverse) {
    rotate_in_pieces<3>(gpu, dtype, q, k, Table{cos, sin, max_position}, positions, tokens, dim,
                        layout, inverse);
}

void rope_heads_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, const float *cos,
                     const float *sin, const int32_t *positions, int64_t tokens, int dim,
                     int max_position, RopeLayout layout, int inverse) {
    rotate_in_pieces<4>(gpu, dtype, q, k, Table{cos, sin, max_position}, positions, tokens, dim,
                        layout, inverse);
}

void rope_rotate_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, const float *cos,
                      const float *sin, const int32_t *positions, int64_t tokens, int dim,
                      int max_position, RopeLayout layout, int inverse) {
    if (rope_vector_supports(dtype, q, k, cos, sin, dim, layout))
        rope_heads_cuda(gpu, dtype, q, k, cos, sin, positions, tokens, dim, max_position, layout,
                        inverse);
    else
        rope_table_cuda(gpu, dtype, q, k, cos, sin, positions, tokens, dim, max_position, layout,
                        inverse);
}
