/*
 * Linear layers for a few rows on the GPU. The product itself: few_rows.cuh.
 *
 * A block makes 16 columns of y, its eight warps a share of the sum each. Small layers have a block
 * for each 16 columns; of large ones (a vocabulary) each block takes many, and asks for the next
 * tile's first weights before it adds up this one's sums.
 */
#include "common/cuda/few_rows_codes.cuh"

enum { WARPS = 8, AHEAD = 2 };

/* One tile of one of the two products. */
struct Place {
    int part;
    int64_t first; /* row of W */
    __device__ Place(const FewRowsLinear &s, int64_t tile) {
        int64_t tiles = (s.part[0].w.out + FEW_ROWS_TILE - 1) / FEW_ROWS_TILE;
        part = tile >= tiles;
        first = (part ? tile - tiles : tile) * FEW_ROWS_TILE;
    }
};

/* W: numbers, or codes of one kind or any. */
template <typename W, int NT>
__global__ void __launch_bounds__(32 * WARPS)
    few_rows_kernel(const __grid_constant__ FewRowsLinear s, int64_t tiles) {
    typedef typename FewRowsChunk<W>::Number T;
    extern __shared__ __align__(16) unsigned char memory[];
    typedef FewRowsParts<NT, WARPS> Parts;
    Parts &parts = *(Parts *)memory;
    T *rows = (T *)(memory + sizeof(Parts)); /* normalised; sizeof(Parts) is whole 16 bytes */
    static_assert(sizeof(Parts) % 16 == 0, "rows are read 16 bytes at a time");

    const int in = (int)s.in;
    FewRowsSum<W, NT, AHEAD> sum;
    auto begin = [&](int64_t tile) {
        Place at(s, tile);
        const FewRowsPart &p = at.part ? s.part[1] : s.part[0];
        sum.begin(p.w, 0, at.first, threadIdx.x / 32, WARPS);
    };
    int64_t tile = blockIdx.x;
    begin(tile);
    if (s.norm) few_rows_prefetch((const T *)s.norm, in);
    few_rows_wait();
    few_rows_go();
    const int first_row = 8 * NT * blockIdx.y;
    FewRowsMatrix<T> x = {(const T *)s.x + (int64_t)first_row * in, in,
                          min((int)s.rows - first_row, 8 * NT)};
    if (s.norm) {
        few_rows_rmsnorm(rows, x.x, in, x.count, (const T *)s.norm, in, s.eps);
        x.x = rows, x.stride = few_rows_stride<T>(in);
        __syncthreads();
    }
#pragma unroll 1
    for (int64_t next; tile < tiles; tile = next) {
        Place at(s, tile);
        const FewRowsPart &p = at.part ? s.part[1] : s.part[0];
        sum.run(p.w, x);
        next = tile + gridDim.x;
        parts.put(sum.sum[0], threadIdx.x / 32);
        __syncthreads();
        if (next < tiles) begin(next);
#pragma unroll 1
        for (int i = threadIdx.x; i < FEW_ROWS_TILE * x.count; i += 32 * WARPS) {
            int j = i % FEW_ROWS_TILE, n = i / FEW_ROWS_TILE;
            int64_t o = at.first + j, row = first_row + n;
            if (o < p.w.out)
                ((T *)p.y)[row * p.w.out + o] = few_rows_plus<T>(parts.total(j, n), p, row, o);
        }
        __syncthreads();
    }
    few_rows_advance(s);
}

/*
 * A vocabulary: far more tiles than warps, and each short. There a warp takes whole tiles, one
 * after the other, and nobody waits for anybody: the loads of the next tile are under way while
 * this one ends. All tiles are of part 0.
 */
template <typename W, int NT>
__global__ void __launch_bounds__(32 * WARPS)
    few_rows_long_kernel(const __grid_constant__ FewRowsLinear s, int64_t tiles) {
    extern __shared__ __align__(16) unsigned char memory[];
    typedef typename FewRowsChunk<W>::Number T;
    const int AHEAD = NT == 1 ? 6 : 3;
    T *rows = (T *)memory;
    const FewRowsPart &p = s.part[0];
    const int in = (int)s.in, chunks = in / FewRowsChunk<W>::COLUMNS;
    const int64_t step = (int64_t)gridDim.x * WARPS;
    int64_t tile = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;

    FewRowsChunk<W> ahead[AHEAD];
    FewRowsTile<W> from;
    int64_t asked_tile = tile; /* whose chunk is asked for next */
    int asked = 0;
    auto fetch = [&](int i) {
        if (asked_tile >= tiles) return;
        if (asked == 0) from.begin(p.w, 0, asked_tile * FEW_ROWS_TILE);
        ahead[i].load(from, p.w, asked);
        if (++asked == chunks) asked = 0, asked_tile += step;
    };
#pragma unroll
    for (int i = 0; i < AHEAD; i++) fetch(i);
    if (s.norm) few_rows_prefetch((const T *)s.norm, in);
    few_rows_wait();
    few_rows_go();
    FewRowsMatrix<T> x = {(const T *)s.x, in, (int)s.rows};
    if (s.norm) {
        few_rows_rmsnorm(rows, x.x, in, x.count, (const T *)s.norm, in, s.eps);
        x.x = rows, x.stride = few_rows_stride<T>(in);
        __syncthreads();
    }
    float sum[NT][4] = {};
    int chunk = 0;
#pragma unroll 1
    while (tile < tiles) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (tile >= tiles) break;
            FewRowsInput<W, NT> input;
            input.load(x, p.w, chunk);
            ahead[i].multiply(sum, input, p.w);
            fetch(i);
            if (++chunk < chunks) continue;
            few_rows_each<NT>(sum, [&](int j, int n, float value) {
                int64_t o = tile * FEW_ROWS_TILE + j;
                if (o < p.w.out && n < x.count)
                    ((T *)p.y)[n * p.w.out + o] = few_rows_plus<T>(value, p, n, o);
            });
            memset(sum, 0, sizeof sum);
            chunk = 0, tile += step;
        }
    }
    few_rows_advance(s);
}

/*
 * Large matrices of BF16: memory is the limit, if enough of it is on its way. Registers hold two
 * chunks of a lane, and a warp may wait for its oldest load as if it were the youngest; so chunks
 * go through shared memory (cp.async), RING of them for each warp, also across tiles. A lane asks
 * for its own 16 bytes and takes its own, so nobody waits for another lane. Sums are those of
 * few_rows_kernel, bit for bit. All tiles are of part 0.
 */
enum { SLOT = 2 * 512 }; /* bytes of a chunk */

template <int NT, int RING>
__global__ void __launch_bounds__(32 * WARPS)
    few_rows_ring_kernel(const __grid_constant__ FewRowsLinear s, int64_t tiles) {
    extern __shared__ __align__(16) unsigned char memory[];
    typedef FewRowsParts<NT, WARPS> Parts;
    Parts &parts = *(Parts *)memory;
    const int in = (int)s.in, chunks = in / FEW_ROWS_CHUNK, warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    char *ring = (char *)memory + sizeof(Parts) + warp * RING * SLOT;
    bf16 *rows = (bf16 *)(memory + sizeof(Parts) + WARPS * RING * SLOT); /* normalised */
    const FewRowsPart &p = s.part[0];

    FewRowsTile<bf16> from;
    int64_t asked_tile = blockIdx.x; /* whose chunk is asked for next */
    int asked = warp;
    auto ask = [&](int slot) {
        if (asked_tile < tiles) {
            if (asked == warp) from.begin(p.w, 0, asked_tile * FEW_ROWS_TILE);
            const int column = asked * FEW_ROWS_CHUNK + lane % 4 * 8;
            char *to = ring + slot * SLOT + lane * 16;
            cp_async_16(to, from.low + column, true);
            cp_async_16(to + 512, from.high + column, true);
            asked += WARPS;
            if (asked >= chunks) asked = warp, asked_tile += gridDim.x;
        }
        cp_async_commit(); /* empty at the end: the groups must be counted */
    };
    for (int i = 0; i < RING - 1; i++) ask(i);
    if (s.norm) few_rows_prefetch((const bf16 *)s.norm, in);
    few_rows_wait();
    few_rows_go();
    FewRowsMatrix<bf16> x = {(const bf16 *)s.x, in, (int)s.rows};
    if (s.norm) {
        few_rows_rmsnorm(rows, x.x, in, x.count, (const bf16 *)s.norm, in, s.eps);
        x.x = rows, x.stride = few_rows_stride<bf16>(in);
        __syncthreads();
    }
    int slot = 0, before = RING - 1;
#pragma unroll 1
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        float sum[NT][4] = {};
#pragma unroll 1
        for (int chunk = warp; chunk < chunks; chunk += WARPS) {
            FewRowsChunk<bf16> c;
            FewRowsInput<bf16, NT> input;
            input.load(x, p.w, chunk);
            cp_async_wait<RING - 2>();
            const uint4 *mine = (const uint4 *)(ring + slot * SLOT) + lane;
            c.low = mine[0], c.high = mine[32];
            ask(before);
            c.multiply(sum, input, p.w);
            before = slot;
            slot = slot + 1 == RING ? 0 : slot + 1;
        }
        parts.put(sum, warp);
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < FEW_ROWS_TILE * x.count; i += 32 * WARPS) {
            int j = i % FEW_ROWS_TILE, n = i / FEW_ROWS_TILE;
            int64_t o = tile * FEW_ROWS_TILE + j;
            if (o < p.w.out)
                ((bf16 *)p.y)[n * p.w.out + o] = few_rows_plus<bf16>(parts.total(j, n), p, n, o);
        }
        __syncthreads();
    }
    few_rows_advance(s);
}

static size_t shared_bytes(DType dtype, const FewRowsLinear *s, int NT) {
    size_t parts = NT == 1   ? sizeof(FewRowsParts<1, WARPS>)
                   : NT == 2 ? sizeof(FewRowsParts<2, WARPS>)
                             : sizeof(FewRowsParts<4, WARPS>);
    int stride =
        dtype == BF16 ? few_rows_stride<bf16>((int)s->in) : few_rows_stride<float>((int)s->in);
    size_t rows = (size_t)(s->rows < 8 * NT ? s->rows : 8 * NT);
    return parts + (s->norm ? rows * (size_t)stride * dtype_size(dtype) : 0);
}

int few_rows_supports(const Gpu *gpu, DType dtype, const FewRowsLinear *s) {
    uintptr_t all = (uintptr_t)s->x | (uintptr_t)s->norm;
    for (int i = 0; i < 2; i++) {
        const FewRowsWeight *w = &s->part[i].w;
        if (!few_rows_weight_supports(w, dtype) || (w->data && w->in != s->in)) return 0;
    }
    if (!few_rows_same_kind(&s->part[0].w, &s->part[1].w)) return 0;
    return (dtype == F32 || (dtype == BF16 && gpu->compute_capability >= 80)) && s->rows > 0 &&
           s->rows <= FEW_ROWS && s->in > 0 && s->in % FEW_ROWS_CHUNK == 0 && all % 16 == 0 &&
           shared_bytes(dtype, s, 4) <= (size_t)gpu->shared_memory_max;
}

/*
 * Blocks on a processor, of at most `most` that fit: the time is that of the one with the most
 * tiles. Two blocks keep its memory busy, more share it.
 */
static int blocks_each(int64_t tiles, int most, int processors) {
    int best = most;
    int64_t least = INT64_MAX;
    for (int each = most; each >= 1; each--) {
        int64_t time = ceil_div(tiles, (int64_t)each * processors) * (each < 2 ? 2 : each);
        if (time < least) least = time, best = each;
    }
    return best;
}

template <typename Kernel> static int blocks_that_fit(Kernel kernel, size_t shared) {
    int fit = 1;
    if (shared > 48 << 10)
        CUDA_CHECK(cudaFuncSetAttribute((const void *)kernel,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fit, kernel, 32 * WARPS, shared));
    return fit < 1 ? 1 : fit;
}

/* Is it one product of more tiles than there are warps, several times over? Then, by its sizes
 * alone, for every number of rows. */
static bool is_long(const Gpu *gpu, const FewRowsLinear *s) {
    return !s->part[1].w.data && s->part[0].w.out / FEW_ROWS_TILE >= 16 * gpu->sm_count;
}
template <typename W, int NT>
static void launch_long(Gpu *gpu, DType dtype, const FewRowsLinear *s) {
    int64_t tiles = ceil_div(s->part[0].w.out, FEW_ROWS_TILE);
    size_t shared = shared_bytes(dtype, s, NT);
    int fit = blocks_that_fit(few_rows_long_kernel<W, NT>, shared);
    few_rows_launch(gpu, few_rows_long_kernel<W, NT>, dim3((unsigned)(fit * gpu->sm_count)),
                    32 * WARPS, shared, *s, tiles);
}

/* The product with a large matrix of BF16, or false: it is none; by its sizes alone, too. */
template <int NT> static bool launch_ring(Gpu *gpu, const FewRowsLinear *s) {
    const int RING = 6;
    int64_t tiles = ceil_div(s->part[0].w.out, FEW_ROWS_TILE);
    size_t shared = shared_bytes(BF16, s, NT) + WARPS * RING * SLOT;
    if (shared > (size_t)gpu->shared_memory_max) return false;
    int fit = blocks_that_fit(few_rows_ring_kernel<NT, RING>, shared);
    int64_t blocks = (int64_t)blocks_each(tiles, fit, gpu->sm_count) * gpu->sm_count;
    few_rows_launch(gpu, few_rows_ring_kernel<NT, RING>,
                    dim3((unsigned)(blocks < tiles ? blocks : tiles)), 32 * WARPS, shared, *s,
                    tiles);
    return true;
}
static bool launch_large_numbers(Gpu *gpu, DType dtype, const FewRowsLinear *s) {
    const FewRowsWeight &w = s->part[0].w;
    if (dtype != BF16 || w.scale || s->part[1].w.data || is_long(gpu, s)) return false;
    if (w.out * w.in < 6 << 20 || w.in / FEW_ROWS_CHUNK < 2 * WARPS ||
        w.out / FEW_ROWS_TILE < gpu->sm_count)
        return false;
    return s->rows <= 8    ? launch_ring<1>(gpu, s)
           : s->rows <= 16 ? launch_ring<2>(gpu, s)
                           : launch_ring<4>(gpu, s);
}

/* The kernel for weights of kind W, NT tiles of 8 rows a block, and so many groups of blocks. */
template <typename W, int NT>
static void launch(Gpu *gpu, DType dtype, const FewRowsLinear *s, unsigned groups) {
    int64_t tiles =
        ceil_div(s->part[0].w.out, FEW_ROWS_TILE) + ceil_div(s->part[1].w.out, FEW_ROWS_TILE);
    size_t shared = shared_bytes(dtype, s, NT);
    if (tiles == 0) return;
    int64_t blocks = tiles;
    if (tiles > gpu->sm_count) { /* large: a block takes several */
        int fit = blocks_that_fit(few_rows_kernel<W, NT>, shared);
        int64_t most = (int64_t)blocks_each(tiles, fit, gpu->sm_count) * gpu->sm_count;
        if (blocks > most) blocks = most;
    }
    few_rows_launch(gpu, few_rows_kernel<W, NT>, dim3((unsigned)blocks, groups), 32 * WARPS, shared,
                    *s, tiles);
}

/* Codes all of kind F, and blocks that chunks fit into. */
template <DType F> static bool all_are(const FewRowsLinear *s) {
    for (int i = 0; i < 2; i++) {
        const FewRowsWeight &w = s->part[i].w;
        const int C = few_rows_columns<F>();
        if (w.data && (w.dtype != F || w.in % C || 1ll << w.in_shift < C)) return false;
        if (w.data && F == I4 && w.in_shift != 7) return false; /* a chunk is a group */
        /* With fewer chunks than warps half of them would wait; a vocabulary has none that do. */
        if (w.data && w.in / C < 2 * WARPS && w.out < 1 << 14) return false;
    }
    return true;
}

/* Chunks of 16 bytes a lane pay where a warp has two of them, or a vocabulary. */
template <DType F>
static void launch_coded(Gpu *gpu, DType dtype, const FewRowsLinear *s, int64_t tiles) {
    typedef FewRowsCoded<F> Wide;
    if (is_long(gpu, s))
        s->rows <= 8 ? launch_long<Wide, 1>(gpu, dtype, s) : launch_long<Wide, 4>(gpu, dtype, s);
    else
        FEW_ROWS_SWITCH(s->rows, tiles, gpu, NT, groups, launch<Wide, NT>(gpu, dtype, s, groups));
}

void few_rows_linear_cuda(Gpu *gpu, DType dtype, const FewRowsLinear *s) {
    CHECK(few_rows_supports(gpu, dtype, s), "few_rows_linear: %lld rows of %lld",
          (long long)s->rows, (long long)s->in);
    const FewRowsPart *p = s->part;
    const FewRowsWeight &w = p[0].w.data ? p[0].w : p[1].w;
    int64_t tiles = ceil_div(p[0].w.out, FEW_ROWS_TILE) + ceil_div(p[1].w.out, FEW_ROWS_TILE);
    if (launch_large_numbers(gpu, dtype, s) || few_rows_large_cuda(gpu, s)) return;
    if (all_are<I4>(s))
        launch_coded<I4>(gpu, dtype, s, tiles);
    else if (all_are<U8>(s))
        launch_coded<U8>(gpu, dtype, s, tiles);
    else if (all_are<F8_E4M3>(s))
        launch_coded<F8_E4M3>(gpu, dtype, s, tiles);
    else
        FEW_ROWS_KIND(
            dtype, w, W,
            FEW_ROWS_SWITCH(s->rows, tiles, gpu, NT, groups, launch<W, NT>(gpu, dtype, s, groups)));
}
