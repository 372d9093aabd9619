/*
 * Latent attention on the GPU: the keys of all heads and their backward, and the two products that
 * absorb. (The absorbed attention itself: mla_decode_*.cu.)
 */
#include "04_mla/mla.h"
#include "common/cuda/gpu_matmul.cuh"

static const int THREADS = 256;

static bool of_16_bytes(const void *p) { return (uintptr_t)p % 16 == 0; }

/* Can every head's part of every row be taken in packs of 16 bytes? */
static bool packs_fit(DType dtype, MlaShape s, const void *a, const void *b, const void *c) {
    int n = 16 / (int)dtype_size(dtype);
    return s.nope % n == 0 && s.rope % n == 0 && s.v % n == 0 && of_16_bytes(a) && of_16_bytes(b) &&
           of_16_bytes(c);
}

/* ---- keys ---- */

/*
 * k = [k_nope of kv | k_rope]. A thread takes a column (a pack of them) of one token through all
 * heads, and asks for HEADS packs before it stores the first. Moved: H nope numbers of kv, H (nope
 * + rope) of k, and k_rope once. Nothing is computed: memory is the limit.
 */
enum { HEADS = 8 };
template <typename T, int N>
__global__ void keys_kernel(T *k, const T *kv, const T *k_rope, int64_t rows, MlaShape s) {
    typedef Pack<T, N> P;
    int nope = s.nope / N, rope = s.rope / N, v = s.v / N, width = nope + rope;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = i / width;
    int column = (int)(i - row * width);
    if (row >= rows) return;
    bool shared = column >= nope;
    const P *from = shared ? (const P *)k_rope + row * rope + column - nope
                           : (const P *)kv + row * s.heads * (nope + v) + column;
    int64_t step = shared ? 0 : nope + v;
    P *to = (P *)k + row * s.heads * width + column;
    for (int first = 0; first < s.heads; first += HEADS) {
        P x[HEADS];
#pragma unroll
        for (int h = 0; h < HEADS; h++)
            if (first + h < s.heads) x[h] = from[(first + h) * step];
#pragma unroll
        for (int h = 0; h < HEADS; h++)
            if (first + h < s.heads) to[(int64_t)(first + h) * width] = x[h];
    }
}

/* A thread for each column of each row. */
static unsigned blocks_for(int64_t rows, MlaShape s, int pack) {
    return (unsigned)ceil_div(rows * ((s.nope + s.rope) / pack), THREADS);
}

void mla_keys_cuda(Gpu *gpu, DType dtype, void *k, const void *kv, const void *k_rope, int64_t rows,
                   MlaShape s) {
    if (rows == 0) return;
    bool packs = packs_fit(dtype, s, k, kv, k_rope);
    DTYPE_SWITCH(dtype, T, {
        const int N = 16 / (int)sizeof(T);
        auto kernel = packs ? keys_kernel<T, N> : keys_kernel<T, 1>;
        gpu_launch(gpu, kernel, blocks_for(rows, s, packs ? N : 1), THREADS, 0, k, kv, k_rope, rows,
                   s);
    });
}

/*
 * The way back: dk's nope part passes on to dkv, and its rope part is summed over the heads, in
 * order, so that the result is the same in every run. A thread takes a column (a pack of them) of
 * one token through all heads; the columns of a few tokens fill a block. Moved: H (nope + rope)
 * numbers of dk, H nope of dkv (twice when it is added to): memory is the limit. So a thread asks
 * for HEADS packs before it uses the first.
 */
template <typename T, int N>
__global__ void keys_backward_kernel(T *dkv, int add_kv, T *dk_rope, int add_rope, const T *dk,
                                     int64_t rows, MlaShape s) {
    typedef Pack<T, N> P;
    int nope = s.nope / N, rope = s.rope / N, v = s.v / N, width = nope + rope;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = i / width;
    int column = (int)(i - row * width);
    bool shared = column >= nope;
    if (row >= rows || !(shared ? dk_rope : dkv)) return;
    const P *from = (const P *)dk + row * s.heads * width + column;
    P *to = shared ? (P *)dk_rope + row * rope + column - nope
                   : (P *)dkv + row * s.heads * (nope + v) + column;
    float sum[N] = {};
    if (shared && add_rope)
        for (int j = 0; j < N; j++) sum[j] = to_float(to->v[j]);
    for (int first = 0; first < s.heads; first += HEADS) {
        P g[HEADS] = {};
#pragma unroll
        for (int h = 0; h < HEADS; h++)
            if (first + h < s.heads) g[h] = from[(int64_t)(first + h) * width];
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (shared)
                for (int j = 0; j < N; j++) sum[j] += to_float(g[h].v[j]);
            else if (first + h < s.heads) {
                P *place = to + (int64_t)(first + h) * (nope + v);
                if (add_kv)
                    for (int j = 0; j < N; j++)
                        g[h].v[j] = from_float<T>(to_float(place->v[j]) + to_float(g[h].v[j]));
                *place = g[h];
            }
        }
    }
    if (shared)
        for (int j = 0; j < N; j++) to->v[j] = from_float<T>(sum[j]);
}

void mla_keys_backward_cuda(Gpu *gpu, DType dtype, void *dkv, int add_kv, void *dk_rope,
                            int add_rope, const void *dk, int64_t rows, MlaShape s) {
    if (rows == 0) return;
    bool packs = packs_fit(dtype, s, dkv, dk_rope, dk);
    DTYPE_SWITCH(dtype, T, {
        const int N = 16 / (int)sizeof(T);
        auto kernel = packs ? keys_backward_kernel<T, N> : keys_backward_kernel<T, 1>;
        gpu_launch(gpu, kernel, blocks_for(rows, s, packs ? N : 1), THREADS, 0, dkv, add_kv,
                   dk_rope, add_rope, dk, rows, s);
    });
}

/* ---- absorption ---- */

/*
 * One product for each head, with W where it lies: y[row, h, j] = sum_i x[row, h, i] w[h, i, j].
 * All distances are in numbers.
 */
struct HeadProducts {
    int64_t rows;
    int heads, in, out;
    int64_t x_row, x_head, y_row, y_head, w_head;
    int64_t w_row;     /* from one row of W as stored to the next */
    bool transposed_w; /* W is stored [out, in]; otherwise [in, out] */
};

/* A thread for each number of y. Only for sizes that cuBLASLt cannot take in 16-byte pieces. */
template <typename T>
__global__ void head_products_kernel(T *y, const T *x, const T *w, HeadProducts p) {
    int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= p.rows * p.heads * p.out) return;
    int64_t j = n % p.out, h = n / p.out % p.heads, row = n / p.out / p.heads;
    const T *x_head = x + row * p.x_row + h * p.x_head, *w_head = w + h * p.w_head;
    float sum = 0;
    for (int64_t i = 0; i < p.in; i++)
        sum = fmaf(to_float(x_head[i]),
                   to_float(w_head[p.transposed_w ? j * p.w_row + i : i * p.w_row + j]), sum);
    y[row * p.y_row + h * p.y_head + j] = from_float<T>(sum);
}

/*
 * For one new token of each of a few sequences all of W is read for a few rows: memory is the
 * limit, and cuBLASLt reads it once. Its kernels for 16-byte loads are safe only when each head's
 * matrices begin at a multiple of 16 bytes, which it is not told about every head.
 */
static void head_products(Gpu *gpu, DType dtype, void *y, const void *x, const void *w,
                          HeadProducts p) {
    int64_t n = 16 / (int64_t)dtype_size(dtype);
    bool aligned = of_16_bytes(y) && of_16_bytes(x) && of_16_bytes(w) && p.x_row % n == 0 &&
                   p.x_head % n == 0 && p.y_row % n == 0 && p.y_head % n == 0 &&
                   p.w_head % n == 0 && p.w_row % n == 0;
    if (!aligned) {
        int64_t blocks = ceil_div(p.rows * p.heads * p.out, THREADS);
        DTYPE_SWITCH(dtype, T,
                     gpu_launch(gpu, head_products_kernel<T>, blocks, THREADS, 0, y, x, w, p));
        return;
    }
    GpuMatmul product = gpu_product(dtype, dtype, false, p.transposed_w, p.rows, p.out, p.in);
    product.lda = p.x_row, product.ldb = p.w_row, product.ldc = p.y_row, product.batch = p.heads;
    product.stride_a = p.x_head, product.stride_b = p.w_head, product.stride_c = p.y_head;
    gpu_matmul(gpu, &product, y, x, w, NULL);
}

/* The last `rope` numbers of each head from q to q_absorbed, as they are. */
template <typename T, int N>
__global__ void copy_rope_kernel(T *q_absorbed, const T *q, int64_t heads, int qk, int width,
                                 int rope) {
    typedef Pack<T, N> P;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, h = i / (rope / N);
    int column = (int)(i - h * (rope / N)) * N;
    if (h < heads)
        *(P *)(q_absorbed + h * width + width - rope + column) =
            *(const P *)(q + h * qk + qk - rope + column);
}

void mla_absorb_query_cuda(Gpu *gpu, DType dtype, void *q_absorbed, const void *q, const void *kv_b,
                           int64_t rows, MlaShape s) {
    int64_t qk = s.nope + s.rope, width = s.kv_lora_rank + s.rope, rank = s.kv_lora_rank;
    if (rows == 0) return;
    HeadProducts p = {rows, s.heads, s.nope, s.kv_lora_rank};
    p.x_row = s.heads * qk, p.x_head = qk;
    p.y_row = s.heads * width, p.y_head = width;
    p.w_head = (s.nope + s.v) * rank, p.w_row = rank;
    head_products(gpu, dtype, q_absorbed, q, kv_b, p);
    if (s.rope == 0) return;
    int n = 16 / (int)dtype_size(dtype);
    bool packs = s.nope % n == 0 && s.rope % n == 0 && rank % n == 0 && of_16_bytes(q) &&
                 of_16_bytes(q_absorbed);
    int64_t copies = rows * s.heads * (s.rope / (packs ? n : 1));
    DTYPE_SWITCH(dtype, T, {
        auto kernel = packs ? copy_rope_kernel<T, 16 / (int)sizeof(T)> : copy_rope_kernel<T, 1>;
        gpu_launch(gpu, kernel, ceil_div(copies, THREADS), THREADS, 0, q_absorbed, q,
                   rows * s.heads, (int)qk, (int)width, s.rope);
    });
}

void mla_absorb_output_cuda(Gpu *gpu, DType dtype, void *o, const void *o_latent, const void *kv_b,
                            int64_t rows, MlaShape s) {
    int64_t rank = s.kv_lora_rank;
    if (rows == 0) return;
    HeadProducts p = {rows, s.heads, s.kv_lora_rank, s.v};
    p.x_row = s.heads * rank, p.x_head = rank;
    p.y_row = (int64_t)s.heads * s.v, p.y_head = s.v;
    p.w_head = (s.nope + s.v) * rank, p.w_row = rank, p.transposed_w = true;
    const char *w_uv = (const char *)kv_b + s.nope * rank * (int64_t)dtype_size(dtype);
    head_products(gpu, dtype, o, o_latent, w_uv, p);
}
