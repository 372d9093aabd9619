/*
 * The rotation on the GPU: a ladder of four rungs.
 *
 * What must move: each rotated number is read once and written once, in place; at DeepSeek-V3's
 * sizes, 128 query heads and one key head with 64 of 192 numbers rotated, that is 33 KiB a token
 * in BF16. The table adds 256 bytes a token. Some 6 operations a pair are nothing beside that: the
 * memory is the only honest limit. (Memory moves in sectors of 32 bytes: the 128 bytes of a head
 * fill four of them whole, so the gaps between heads cost no bytes.)
 *
 * A position outside the table cannot stop the program from here (the host checks positions where
 * it makes them): nothing outside is read, and the token's numbers become NaN, which is seen.
 */
#include "../common/gpu.cuh"
#include "rope.h"

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
 * Rung 1: the angle is made where it is needed. The memory waits for sincosf, which takes some
 * 20 instructions, and beyond an angle of 105615 a slow path of hundreds; and each head of a token
 * makes the same ones again. Not exact either: the angle p f, rounded to F32, is off by 2^-25 of
 * itself, at position 163840 by 0.005.
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
 * Rung 2: cos and sin from the table. What limits it now: loads and stores of 2 or 4 bytes (in the
 * interleaved layout a warp needs two of them for each line), an index computed for each pair, and
 * two launches, the second of which is far too small to fill the GPU when k has one head.
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
                     rotate_pairs<T>
                     <<<(unsigned)ceil_div(count, THREADS), THREADS, 0, gpu->stream>>>(
                         from_token(part, dtype, t), angles, positions + t, (unsigned)count,
                         (unsigned)dim / 2, layout == ROPE_HALVES, inverse ? -1.0f : 1.0f));
    }
}

extern "C" void rope_sincos_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, double theta,
                                 const int32_t *positions, int64_t tokens, int dim,
                                 int max_position, RopeLayout layout, int inverse) {
    Sincos angles = {(float)(-2 * log2(theta) / dim), max_position};
    launch_pairs(gpu, dtype, q, angles, positions, tokens, dim, layout, inverse);
    launch_pairs(gpu, dtype, k, angles, positions, tokens, dim, layout, inverse);
}

extern "C" void rope_table_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, const float *cos,
                                const float *sin, const int32_t *positions, int64_t tokens, int dim,
                                int max_position, RopeLayout layout, int inverse) {
    Table angles = {cos, sin, max_position};
    launch_pairs(gpu, dtype, q, angles, positions, tokens, dim, layout, inverse);
    launch_pairs(gpu, dtype, k, angles, positions, tokens, dim, layout, inverse);
}

/* ---- rungs 3 and 4: whole 16-byte words, q and k together ---- */

/*
 * Rung 3: a thread turns a piece of a head: one 16-byte word of neighbours, or one of each half,
 * for all heads of q and then of k. What limits it: for 16 bytes of BF16 neighbours it reads 32
 * bytes of cos and sin, from the caches, but through the same path; and it has one load or two
 * under way, then waits.
 *
 * Rung 4: the same piece of HEADS heads. They have the same angles: cos and sin are read once and
 * stay in registers, and HEADS loads are under way at once. What limits it now is the memory.
 */
template <typename T, int LAYOUT> struct Piece {
    static const int WIDTH = 16 / sizeof(T); /* numbers in a word */
    static const int WORDS = LAYOUT == ROPE_HALVES ? 2 : 1;
    static const int PAIRS = WIDTH * WORDS / 2;
    struct alignas(16) Word {
        T x[WIDTH];
    } word[WORDS];

    __device__ void load(const T *at, unsigned half) {
#pragma unroll
        for (int w = 0; w < WORDS; w++) word[w] = *(const Word *)(at + w * half);
    }
    __device__ void store(T *at, unsigned half) const {
#pragma unroll
        for (int w = 0; w < WORDS; w++) *(Word *)(at + w * half) = word[w];
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

/* A thread turns piece number `piece` of the heads group, group + groups, group + 2 groups, ... */
template <typename T, int LAYOUT, int HEADS>
__global__ void rotate_pieces(RopePart q, RopePart k, Table table, const int32_t *positions,
                              unsigned count, unsigned half, unsigned groups, float sign) {
    typedef Piece<T, LAYOUT> P;
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
        if (at[h]) x[h].load(at[h] += column, half);
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
        x[h].store(at[h], half);
    }
}

template <typename T, int LAYOUT, int HEADS>
static void launch_pieces(Gpu *gpu, DType dtype, RopePart q, RopePart k, Table table,
                          const int32_t *positions, int64_t tokens, int dim, int inverse) {
    if (!q.data) q.heads = 0;
    if (!k.data) k.heads = 0;
    int64_t groups = ceil_div(q.heads + k.heads, HEADS);
    int64_t threads = groups * (dim / 2 / Piece<T, LAYOUT>::PAIRS); /* of one token */
    if (threads == 0) return;
    int64_t most = tokens_in_a_launch(threads);
    for (int64_t t = 0; t < tokens; t += most) {
        int64_t count = (tokens - t < most ? tokens - t : most) * threads;
        rotate_pieces<T, LAYOUT, HEADS>
            <<<(unsigned)ceil_div(count, THREADS), THREADS, 0, gpu->stream>>>(
                from_token(q, dtype, t), from_token(k, dtype, t), table, positions + t,
                (unsigned)count, (unsigned)dim / 2, (unsigned)groups, inverse ? -1.0f : 1.0f);
        LAUNCH_CHECK();
    }
}

template <int HEADS>
static void rotate_in_pieces(Gpu *gpu, DType dtype, RopePart q, RopePart k, Table table,
                             const int32_t *positions, int64_t tokens, int dim, RopeLayout layout,
                             int inverse) {
    CHECK(rope_vector_supports(dtype, q, k, table.cos, table.sin, dim, layout),
          "%d rotated numbers, of %d and %d, from %d and %d on: not whole 16-byte words", dim,
          q.head_dim, k.head_dim, q.offset, k.offset);
    if (layout == ROPE_HALVES)
        DTYPE_SWITCH(dtype, T,
                     (launch_pieces<T, ROPE_HALVES, HEADS>)(gpu, dtype, q, k, table, positions,
                                                            tokens, dim, inverse));
    else
        DTYPE_SWITCH(dtype, T,
                     (launch_pieces<T, ROPE_INTERLEAVED, HEADS>)(gpu, dtype, q, k, table, positions,
                                                                 tokens, dim, inverse));
}

static bool whole_words(RopePart part, int64_t size) {
    if (!part.data) return true;
    uintptr_t all =
        (uintptr_t)part.data | (uintptr_t)(part.offset * size) | (uintptr_t)(part.head_dim * size);
    return all % 16 == 0;
}

extern "C" int rope_vector_supports(DType dtype, RopePart q, RopePart k, const float *cos,
                                    const float *sin, int dim, RopeLayout layout) {
    int64_t size = (int64_t)dtype_size(dtype);
    int64_t words = layout == ROPE_HALVES ? dim / 2 : dim; /* what must be whole words */
    return words * size % 16 == 0 && whole_words(q, size) && whole_words(k, size) &&
           ((uintptr_t)cos | (uintptr_t)sin) % 16 == 0;
}

extern "C" void rope_vector_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, const float *cos,
                                 const float *sin, const int32_t *positions, int64_t tokens,
                                 int dim, int max_position, RopeLayout layout, int inverse) {
    rotate_in_pieces<1>(gpu, dtype, q, k, Table{cos, sin, max_position}, positions, tokens, dim,
                        layout, inverse);
}

extern "C" void rope_heads_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, const float *cos,
                                const float *sin, const int32_t *positions, int64_t tokens, int dim,
                                int max_position, RopeLayout layout, int inverse) {
    rotate_in_pieces<4>(gpu, dtype, q, k, Table{cos, sin, max_position}, positions, tokens, dim,
                        layout, inverse);
}

extern "C" void rope_rotate_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, const float *cos,
                                 const float *sin, const int32_t *positions, int64_t tokens,
                                 int dim, int max_position, RopeLayout layout, int inverse) {
    if (rope_vector_supports(dtype, q, k, cos, sin, dim, layout))
        rope_heads_cuda(gpu, dtype, q, k, cos, sin, positions, tokens, dim, max_position, layout,
                        inverse);
    else
        rope_table_cuda(gpu, dtype, q, k, cos, sin, positions, tokens, dim, max_position, layout,
                        inverse);
}
