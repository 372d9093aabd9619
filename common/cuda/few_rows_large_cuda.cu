/*
 * Products of a few rows with large matrices of codes.
 *
 * The kernel for all sizes (few_rows_cuda.cu) turns codes into numbers as fast as this one, and yet
 * a large matrix of 4 bits took it twice the time of reading. What each step here bought is told
 * with numbers in 08_quant/PERFORMANCE.md:
 *
 *     spans      a warp takes four chunks side by side, 256 bytes of a row: an address serves eight
 *                loads, and the scales of a row's groups are one
 *     registers  the next span is on its way into registers while this one is multiplied, also
 *                across tiles. Through shared memory a code costs more instructions than it is
 *                worth
 *     tiles      with more than 8 rows of x, TILES tiles of W share what a warp loads of them, and
 *                GROUPS of warps what the L1 cache has
 *
 * A sum has SLOTS parts: that of slot k is made of the spans k, k + SLOTS, ..., chunk by chunk, and
 * the parts are added in order. Whoever computes them, a row's bits are the same.
 */
#include "common/cuda/few_rows_codes.cuh"

enum { SLOTS = 8, SPAN = 4 /* chunks */, SPAN_BYTES = 256 };

/* Chunks that share a scale: the blocks that a span is made of, at least. */
template <DType F> __host__ __device__ constexpr int chunks_a_scale() {
    return F == I4 ? 1 : F == F8_E4M3 ? 2 : SPAN;
}

/* The spans of a warp, one after the other: those of its slots, STEP apart, of a tile, then of the
 * block's next tile. */
template <DType F, int TILES, int STEP, int GROUPS> struct SpanPlace {
    static const int HEIGHT = TILES * FEW_ROWS_TILE; /* rows of a warp */
    int64_t tile;                                    /* GROUPS of HEIGHT rows */
    int slot, span;
    const unsigned char *codes; /* where the lane's first row begins */
    int scale[TILES][2];        /* where those of its rows do */

    /* The last rows of W, where there are no more. */
    static __device__ __forceinline__ int64_t first_row(const FewRowsWeight &w, int64_t tile) {
        return min((tile * GROUPS + threadIdx.x / 32 % GROUPS) * HEIGHT, w.out - HEIGHT);
    }
    __device__ __forceinline__ void begin(const FewRowsWeight &w, int64_t tile_) {
        tile = tile_, slot = span = threadIdx.x / 32 / GROUPS;
        int64_t row = first_row(w, tile) + threadIdx.x % 32 / 4;
        codes = few_rows_row<F>(w, 0, row) + threadIdx.x % 4 * 16;
#pragma unroll
        for (int t = 0; t < 2 * TILES; t++)
            scale[t / 2][t % 2] = (int)((row + 8 * t) >> w.out_shift) * w.scales;
    }
    __device__ __forceinline__ void next(const FewRowsWeight &w, int spans, int64_t tiles) {
        span += SLOTS;
        if (span < spans) return;
        span = slot += STEP;
        if (slot < min(SLOTS, spans)) return;
        tile += gridDim.x;
        if (tile < tiles) begin(w, tile);
    }
};

/* A lane's codes of PART chunks of a span. */
template <DType F, int TILES, int PART> struct SpanPart {
    static const int SHARE = chunks_a_scale<F>(), SCALES = PART / SHARE > 0 ? PART / SHARE : 1;
    struct alignas(4 * SCALES) Scales {
        float v[SCALES];
    };
    uint4 codes[TILES][2][PART];
    Scales scale[TILES][2];

    template <typename Place>
    __device__ __forceinline__ void load(const Place &at, const FewRowsWeight &w, int part) {
        const int64_t eight = few_rows_row<F>(w, 0, 8) - few_rows_row<F>(w, 0, 0);
        const unsigned char *from = at.codes + at.span * SPAN_BYTES + part * PART * 64;
        const int block = (at.span * SPAN + part * PART) * few_rows_columns<F>() >> w.in_shift;
#pragma unroll
        for (int t = 0; t < 2 * TILES; t++) {
#pragma unroll
            for (int i = 0; i < PART; i++) codes[t / 2][t % 2][i] = load_once(from + i * 64);
            from += eight;
            scale[t / 2][t % 2] = *(const Scales *)(w.scale + at.scale[t / 2][t % 2] + block);
        }
    }

    /* sum += part * x: of x(n) from the span's first column on. */
    template <int NT>
    __device__ __forceinline__ void multiply(float (&sum)[TILES * NT][4],
                                             const bf16 *const (&x)[NT], int part) const {
        const int COLUMNS = few_rows_columns<F>(), WORDS = F == I4 ? 1 : 2; /* of 8 numbers */
#pragma unroll
        for (int i = 0; i < PART; i++) {
            float products[TILES][NT][4] = {};
#pragma unroll
            for (int u = 0; u < 4 / WORDS; u++) {
                const int column = (part * PART + i) * COLUMNS + 8 * (u * WORDS / 2);
                uint4 numbers[NT];
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    uint4 a = *(const uint4 *)(x[n] + column);
                    numbers[n] = a;
                    if (F != I4) continue;
                    uint4 b = *(const uint4 *)(x[n] + column + COLUMNS / 2);
                    numbers[n] = u % 2 ? uint4{a.z, a.w, b.z, b.w} : uint4{a.x, a.y, b.x, b.y};
                }
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    const uint32_t *low = (const uint32_t *)&codes[t][0][i] + u * WORDS;
                    const uint32_t *high = (const uint32_t *)&codes[t][1][i] + u * WORDS;
                    few_rows_multiply(products[t], few_rows_decode<F>({low[0], low[WORDS - 1]}),
                                      few_rows_decode<F>({high[0], high[WORDS - 1]}), numbers);
                }
            }
#pragma unroll
            for (int t = 0; t < TILES; t++)
                few_rows_scaled(sum + t * NT, products[t], scale[t][0].v[i / SHARE],
                                scale[t][1].v[i / SHARE]);
        }
    }
};

/* y at row j of a block's tile, and x's row n. Rows of W that another tile has, too, are left to
 * it. */
template <int TILES, int GROUPS>
static __device__ __forceinline__ void write_y(const FewRowsLinear &s, int64_t tile, int j, int n,
                                               float value) {
    const int HEIGHT = TILES * FEW_ROWS_TILE;
    const FewRowsPart &p = s.part[0];
    const int64_t start = (tile * GROUPS + j / HEIGHT) * HEIGHT;
    const int64_t o = min(start, p.w.out - HEIGHT) + j % HEIGHT;
    if (o >= start && n < s.rows)
        ((bf16 *)p.y)[n * p.w.out + o] = few_rows_plus<bf16>(value, p, n, o);
}

/* TILES, GROUPS, NT: see above. A span comes in 4 / PART parts, BLOCKS fit a processor. */
template <DType F, int NT, int TILES, int PART, int WARPS, int GROUPS, int BLOCKS>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    few_rows_span_kernel(const __grid_constant__ FewRowsLinear s, int64_t tiles) {
    extern __shared__ __align__(16) unsigned char memory[];
    typedef FewRowsParts<NT, SLOTS> Parts;
    typedef SpanPlace<F, TILES, WARPS / GROUPS, GROUPS> Place;
    const int PARTS = SPAN / PART, ALL = GROUPS * TILES; /* tiles of 16 rows of the block */
    const bool ALONE = GROUPS == WARPS;                  /* a warp has all slots of its tiles */
    const int in = (int)s.in, lane = threadIdx.x % 32, group = threadIdx.x / 32 % GROUPS;
    const int spans = in / (few_rows_columns<F>() * SPAN), count = (int)s.rows;
    const FewRowsPart &p = s.part[0];
    Parts *parts = (Parts *)memory; /* ALL */
    bf16 *rows = (bf16 *)(parts + (ALONE ? 0 : ALL));

    SpanPart<F, TILES, PART> ahead[2];
    Place next;
    next.begin(p.w, blockIdx.x);
    if (next.slot < spans) ahead[0].load(next, p.w, 0), ahead[1].load(next, p.w, 1);
    if (s.norm) few_rows_prefetch((const bf16 *)s.norm, in);
    few_rows_wait();
    few_rows_go();
    FewRowsMatrix<bf16> x = {(const bf16 *)s.x, in, count};
    if (s.norm) {
        few_rows_rmsnorm(rows, x.x, in, count, (const bf16 *)s.norm, in, s.eps);
        x.x = rows, x.stride = few_rows_stride<bf16>(in);
        __syncthreads();
    }
    const bf16 *row[NT]; /* columns of D that no row has may be anything: the last row's */
#pragma unroll
    for (int n = 0; n < NT; n++) row[n] = x(min(8 * n + lane / 4, count - 1)) + lane % 4 * 16;
#pragma unroll 1
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        float total[TILES * NT][4] = {};
#pragma unroll 1
        for (int slot = threadIdx.x / 32 / GROUPS; slot < (ALONE ? min(SLOTS, spans) : SLOTS);
             slot += WARPS / GROUPS) {
            float sum[TILES * NT][4] = {};
#pragma unroll 1
            for (int span = slot; span < spans; span += SLOTS) {
                const bf16 *at[NT];
#pragma unroll
                for (int n = 0; n < NT; n++) at[n] = row[n] + span * (SPAN * few_rows_columns<F>());
                Place here = next;
                next.next(p.w, spans, tiles);
#pragma unroll
                for (int i = 0; i < PARTS; i++) {
                    ahead[i % 2].multiply(sum, at, i);
                    if (i + 2 < PARTS)
                        ahead[i % 2].load(here, p.w, i + 2);
                    else if (next.tile < tiles)
                        ahead[i % 2].load(next, p.w, i + 2 - PARTS);
                }
            }
#pragma unroll
            for (int t = 0; t < TILES; t++)
                few_rows_each<NT>(sum + t * NT, [&](int j, int n, float value) {
                    if (!ALONE && n < count) parts[group * TILES + t].part[slot][j][n] = value;
                });
#pragma unroll
            for (int i = 0; i < 4 * TILES * NT; i++) total[i / 4][i % 4] += sum[i / 4][i % 4];
        }
        if (ALONE) {
#pragma unroll
            for (int t = 0; t < TILES; t++)
                few_rows_each<NT>(total + t * NT, [&](int j, int n, float value) {
                    write_y<TILES, GROUPS>(s, tile, (group * TILES + t) * FEW_ROWS_TILE + j, n,
                                           value);
                });
            continue;
        }
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < ALL * FEW_ROWS_TILE * count; i += 32 * WARPS) {
            const int j = i % (ALL * FEW_ROWS_TILE), n = i / (ALL * FEW_ROWS_TILE);
            write_y<TILES, GROUPS>(s, tile, j, n,
                                   parts[j / FEW_ROWS_TILE].total(j % FEW_ROWS_TILE, n));
        }
        __syncthreads();
    }
    few_rows_advance(s);
}

/* ---- launches ---- */

/* Codes of kind F, with blocks and rows that spans fit into? All that is asked is about W: a row
 * must not take another way when it has company. */
template <DType F> static bool has_spans(const Gpu *gpu, const FewRowsLinear *s) {
    const FewRowsWeight &w = s->part[0].w;
    const int span = SPAN * few_rows_columns<F>(), block = span / SPAN * chunks_a_scale<F>();
    return gpu->compute_capability >= 80 && w.dtype == F && w.scale && !s->part[1].w.data &&
           w.in % span == 0 && w.out >= 64 && w.out * w.in >= 6 << 20 &&
           (uintptr_t)w.scale % 16 == 0 && (F == I4 ? w.in_shift == 7 : 1ll << w.in_shift >= block);
}

template <DType F, int NT, int TILES, int PART, int WARPS, int GROUPS, int BLOCKS>
static bool launch(Gpu *gpu, const FewRowsLinear *s) {
    const int ALL = GROUPS * TILES;
    int64_t tiles = ceil_div(s->part[0].w.out, ALL * FEW_ROWS_TILE);
    size_t shared = GROUPS == WARPS ? 0 : ALL * sizeof(FewRowsParts<NT, SLOTS>);
    if (s->norm) shared += s->rows * few_rows_stride<bf16>((int)s->in) * sizeof(bf16);
    if (shared > (size_t)gpu->shared_memory_max) return false;
    int64_t most = (int64_t)BLOCKS * gpu->sm_count;
    few_rows_launch(gpu, few_rows_span_kernel<F, NT, TILES, PART, WARPS, GROUPS, BLOCKS>,
                    dim3((unsigned)(tiles < most ? tiles : most)), 32 * WARPS, shared, *s, tiles);
    return true;
}

/*
 * Which shape is as fast as any, of those that were tried on an H200. Where there are rows of W for
 * it, more of them share what is loaded of x.
 */
template <DType F> static bool launch_large(Gpu *gpu, const FewRowsLinear *s) {
    if (!has_spans<F>(gpu, s)) return false;
    const FewRowsWeight &w = s->part[0].w;
    if (w.out >= 256 * gpu->sm_count) /* a vocabulary: tiles for all warps */
        return s->rows <= 8 ? launch<F, 1, 1, 1, 8, 8, 3>(gpu, s)
                            : launch<F, 4, 1, 1, 8, 8, 1>(gpu, s);
    if (w.in / (SPAN * few_rows_columns<F>()) < SLOTS / 2) return false; /* few warps would work */
    const bool many = w.out >= 48 * gpu->sm_count;
    if (s->rows <= 8)
        return many ? launch<F, 1, 2, 1, 8, 1, 2>(gpu, s) : launch<F, 1, 1, 2, 8, 1, 2>(gpu, s);
    if (s->rows <= 16 && !many && launch<F, 2, 2, 2, 8, 1, 1>(gpu, s)) return true;
    if constexpr (F == I4) {
        if (s->rows <= 16 && launch<F, 2, 2, 2, 8, 2, 1>(gpu, s)) return true;
    } else {
        if (s->rows <= 16 && launch<F, 2, 1, 2, 8, 2, 2>(gpu, s)) return true;
    }
    return (many && launch<F, 4, 2, 2, 8, 2, 1>(gpu, s)) || launch<F, 4, 2, 2, 8, 1, 1>(gpu, s) ||
           /* with as little beside the rows as few_rows_supports() reckons with */
           launch<F, 4, 1, 1, 8, 1, 1>(gpu, s);
}

bool few_rows_large_cuda(Gpu *gpu, const FewRowsLinear *s) {
    switch (s->part[0].w.dtype) {
    case I4:
        return launch_large<I4>(gpu, s);
    case U8:
        return launch_large<U8>(gpu, s);
    case F8_E4M3:
        return launch_large<F8_E4M3>(gpu, s);
    default:
        return false;
    }
}
