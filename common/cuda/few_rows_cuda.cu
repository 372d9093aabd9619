/*
 * Linear layers for a few rows on the GPU. The product itself: few_rows.cuh.
 *
 * A block makes 16 columns of y, its eight warps a share of the sum each. Small layers have a block
 * for each 16 columns; of large ones (a vocabulary) each block takes many, and asks for the next
 * tile's first weights before it adds up this one's sums.
 */
#include "common/cuda/few_rows.cuh"

enum { WARPS = 8, AHEAD = 2, BLOCKS_EACH = 4 /* on a processor, of large layers */ };

template <typename T>
static __device__ __forceinline__ T plus(float sum, const FewRowsPart &p, int64_t n, int64_t o) {
    if (p.bias) sum += to_float(((const T *)p.bias)[o]);
    if (p.residual) sum = to_float(((const T *)p.residual)[n * p.out + o]) + sum;
    return from_float<T>(sum);
}

/* One tile of one of the two products. */
struct Place {
    int part;
    int64_t first; /* row of W */
    __device__ Place(const FewRowsLinear &s, int64_t tile) {
        int64_t tiles = (s.part[0].out + FEW_ROWS_TILE - 1) / FEW_ROWS_TILE;
        part = tile >= tiles;
        first = (part ? tile - tiles : tile) * FEW_ROWS_TILE;
    }
};

template <typename T, int NT>
__global__ void __launch_bounds__(32 * WARPS)
    few_rows_kernel(const __grid_constant__ FewRowsLinear s, int64_t tiles) {
    extern __shared__ __align__(16) unsigned char memory[];
    typedef FewRowsParts<NT, WARPS> Parts;
    Parts &parts = *(Parts *)memory;
    T *rows = (T *)(memory + sizeof(Parts)); /* normalised; sizeof(Parts) is whole 16 bytes */
    static_assert(sizeof(Parts) % 16 == 0, "rows are read 16 bytes at a time");

    const int in = (int)s.in;
    FewRowsSum<T, NT, AHEAD> sum;
    auto begin = [&](int64_t tile) {
        Place at(s, tile);
        const FewRowsPart &p = at.part ? s.part[1] : s.part[0];
        sum.begin((const T *)p.w + at.first * in, in, p.out - at.first, threadIdx.x / 32, WARPS);
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
        sum.run(x);
        parts.put(sum.sum[0], threadIdx.x / 32);
        __syncthreads();
        next = tile + gridDim.x;
        if (next < tiles) begin(next);
        Place at(s, tile);
        const FewRowsPart &p = at.part ? s.part[1] : s.part[0];
#pragma unroll 1
        for (int i = threadIdx.x; i < FEW_ROWS_TILE * x.count; i += 32 * WARPS) {
            int j = i % FEW_ROWS_TILE, n = i / FEW_ROWS_TILE;
            int64_t o = at.first + j, row = first_row + n;
            if (o < p.out) ((T *)p.y)[row * p.out + o] = plus<T>(parts.total(j, n), p, row, o);
        }
        __syncthreads();
    }
#pragma unroll 1
    for (int i = threadIdx.x; blockIdx.x + blockIdx.y == 0 && i < s.advance_count; i += 32 * WARPS)
        s.advance[i] += s.advance_by;
}

static size_t shared_bytes(DType dtype, const FewRowsLinear *s, int NT) {
    size_t parts = NT == 1 ? sizeof(FewRowsParts<1, WARPS>) : sizeof(FewRowsParts<4, WARPS>);
    int stride =
        dtype == BF16 ? few_rows_stride<bf16>((int)s->in) : few_rows_stride<float>((int)s->in);
    size_t rows = (size_t)(s->rows < 8 * NT ? s->rows : 8 * NT);
    return parts + (s->norm ? rows * (size_t)stride * dtype_size(dtype) : 0);
}

int few_rows_supports(const Gpu *gpu, DType dtype, const FewRowsLinear *s) {
    uintptr_t all =
        (uintptr_t)s->x | (uintptr_t)s->norm | (uintptr_t)s->part[0].w | (uintptr_t)s->part[1].w;
    return (dtype == F32 || (dtype == BF16 && gpu->compute_capability >= 80)) && s->rows > 0 &&
           s->rows <= FEW_ROWS && s->in > 0 && s->in <= INT32_MAX / 64 &&
           s->in % FEW_ROWS_CHUNK == 0 && all % 16 == 0 &&
           shared_bytes(dtype, s, 4) <= (size_t)gpu->shared_memory_max;
}

void few_rows_linear_cuda(Gpu *gpu, DType dtype, const FewRowsLinear *s) {
    CHECK(few_rows_supports(gpu, dtype, s), "few_rows_linear: %lld rows of %lld",
          (long long)s->rows, (long long)s->in);
    int64_t tiles =
        ceil_div(s->part[0].out, FEW_ROWS_TILE) + ceil_div(s->part[1].out, FEW_ROWS_TILE);
    int64_t most = (int64_t)BLOCKS_EACH * gpu->sm_count;
    unsigned blocks = (unsigned)(tiles < most ? tiles : most);
    if (tiles == 0) return;
    DTYPE_SWITCH(
        dtype, T,
        FEW_ROWS_SWITCH(s->rows, tiles, gpu, NT, groups,
                        few_rows_launch(gpu, few_rows_kernel<T, NT>, dim3(blocks, groups),
                                        32 * WARPS, shared_bytes(dtype, s, NT), *s, tiles)));
}
