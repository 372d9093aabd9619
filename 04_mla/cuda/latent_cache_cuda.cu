/*
 * The latent cache on the GPU: copies of whole rows, found through the block table; and the lengths
 * of its pages.
 *
 * A warp copies a row: it reads one length and one entry of the block table, then moves
 * c_width + rope_width numbers, read and written once. V3's row is 1152 bytes in BF16, 72 words of
 * 16 bytes; many rows are in flight at once, so gathering is limited by memory. An append of a
 * decoding step is a row for each sequence: there the launch is what it costs. Numbers move as
 * 16-byte words where both widths and all addresses allow it, and one by one otherwise.
 *
 * Lengths and block table are read on the device only. Nothing here waits for the host or takes a
 * length from it, so all can be captured in a CUDA graph.
 */
#include "04_mla/latent_cache.h"

#include "04_mla/cuda/latent_row.cuh"

static const int WARPS = 8;

/* The two parts of a row outside the cache, and the pool: all in words. */
template <typename Word> struct LatentRows {
    Word *latent, *c_kv, *k_rope;
    const int32_t *block_table, *lengths;
    int64_t rows, tokens, max_pages; /* rows = batch * tokens */
    int c_words, rope_words;
};

/* Token t of sequence b in the pool. */
template <typename Word>
__device__ __forceinline__ Word *pool_row(const LatentRows<Word> &z, int64_t b, int64_t t) {
    return z.latent + page_row(z.block_table + b * z.max_pages, t) * (z.c_words + z.rope_words);
}

template <typename Word> __global__ void append_kernel(LatentRows<Word> z) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= z.rows) return;
    int64_t b = row / z.tokens;
    Word *to = pool_row(z, b, z.lengths[b] - z.tokens + row % z.tokens);
    for (int i = threadIdx.x % 32; i < z.c_words; i += 32) to[i] = z.c_kv[row * z.c_words + i];
    for (int i = threadIdx.x % 32; i < z.rope_words; i += 32)
        to[z.c_words + i] = z.k_rope[row * z.rope_words + i];
}

template <typename Word> __global__ void gather_kernel(LatentRows<Word> z) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= z.rows) return;
    int64_t b = row / z.tokens, t = row % z.tokens;
    bool there = t < z.lengths[b];
    const Word *from = there ? pool_row(z, b, t) : z.latent;
    for (int i = threadIdx.x % 32; i < z.c_words; i += 32)
        z.c_kv[row * z.c_words + i] = there ? from[i] : Word{};
    for (int i = threadIdx.x % 32; i < z.rope_words; i += 32)
        z.k_rope[row * z.rope_words + i] = there ? from[z.c_words + i] : Word{};
}

template <typename Word>
static void launch(Gpu *gpu, bool gather, void *latent, const int32_t *block_table,
                   const int32_t *lengths, void *c_kv, void *k_rope, int64_t batch, int64_t tokens,
                   int64_t c_bytes, int64_t rope_bytes, int64_t max_pages) {
    LatentRows<Word> z = {(Word *)latent,
                          (Word *)c_kv,
                          (Word *)k_rope,
                          block_table,
                          lengths,
                          batch * tokens,
                          tokens,
                          max_pages,
                          (int)(c_bytes / (int64_t)sizeof(Word)),
                          (int)(rope_bytes / (int64_t)sizeof(Word))};
    auto kernel = gather ? gather_kernel<Word> : append_kernel<Word>;
    gpu_launch(gpu, kernel, ceil_div(z.rows, WARPS), 32 * WARPS, 0, z);
}

static void copy_rows(Gpu *gpu, DType dtype, bool gather, void *latent, const int32_t *block_table,
                      const int32_t *lengths, void *c_kv, void *k_rope, int64_t batch,
                      int64_t tokens, int64_t c_width, int64_t rope_width, int64_t max_pages) {
    if (batch * tokens == 0) return; /* a grid of no blocks is an error */
    int64_t size = (int64_t)dtype_size(dtype);
    bool aligned = c_width * size % 16 == 0 && rope_width * size % 16 == 0 &&
                   (uintptr_t)latent % 16 == 0 && (uintptr_t)c_kv % 16 == 0 &&
                   (uintptr_t)k_rope % 16 == 0;
    auto words = aligned ? launch<uint4> : dtype == F32 ? launch<uint32_t> : launch<uint16_t>;
    words(gpu, gather, latent, block_table, lengths, c_kv, k_rope, batch, tokens, c_width * size,
          rope_width * size, max_pages);
}

void latent_append_cuda(Gpu *gpu, DType dtype, void *latent, const int32_t *block_table,
                        const int32_t *lengths, const void *c_kv, const void *k_rope, int64_t batch,
                        int64_t tokens, int64_t c_width, int64_t rope_width, int64_t max_pages) {
    copy_rows(gpu, dtype, false, latent, block_table, lengths, (void *)c_kv, (void *)k_rope, batch,
              tokens, c_width, rope_width, max_pages);
}

void latent_gather_cuda(Gpu *gpu, DType dtype, void *c_kv, void *k_rope, const void *latent,
                        const int32_t *block_table, const int32_t *lengths, int64_t batch,
                        int64_t length, int64_t c_width, int64_t rope_width, int64_t max_pages) {
    copy_rows(gpu, dtype, true, (void *)latent, block_table, lengths, c_kv, k_rope, batch, length,
              c_width, rope_width, max_pages);
}

/* ---- eight bits: a warp a row, too ---- */

template <typename T> struct EightBits {
    unsigned char *latent;
    T *c_kv, *k_rope;
    const int32_t *block_table, *lengths;
    int64_t rows, tokens, max_pages; /* rows = batch * tokens */
    int c_width, rope_width;
    __device__ __forceinline__ unsigned char *row(int64_t b, int64_t t) const {
        return latent +
               page_row(block_table + b * max_pages, t) * latent_row_bytes(c_width, rope_width);
    }
};

template <typename T> __global__ void append_e4m3_kernel(const EightBits<T> z) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= z.rows) return;
    int64_t b = row / z.tokens;
    const T *c = z.c_kv + row * z.c_width, *k = z.k_rope + row * z.rope_width;
    latent_row_write(
        z.row(b, z.lengths[b] - z.tokens + row % z.tokens), z.c_width, z.rope_width,
        [&](int i) { return to_float(c[i]); }, [&](int i) { return to_float(k[i]); });
}

template <typename T> __global__ void gather_e4m3_kernel(const EightBits<T> z) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= z.rows) return;
    int64_t b = row / z.tokens, t = row % z.tokens;
    bool there = t < z.lengths[b];
    const unsigned char *from = there ? z.row(b, t) : z.latent;
    T *c = z.c_kv + row * z.c_width, *k = z.k_rope + row * z.rope_width;
    for (int i = threadIdx.x % 32; i < z.c_width; i += 32)
        c[i] = from_float<T>(there ? latent_row_c(from, i, z.c_width) : 0.0f);
    for (int i = threadIdx.x % 32; i < z.rope_width; i += 32)
        k[i] = from_float<T>(there ? latent_row_k(from, i, z.c_width) : 0.0f);
}

void latent_append_e4m3_cuda(Gpu *gpu, DType dtype, void *latent, const int32_t *block_table,
                             const int32_t *lengths, const void *c_kv, const void *k_rope,
                             int64_t batch, int64_t tokens, int64_t c_width, int64_t rope_width,
                             int64_t max_pages) {
    if (batch * tokens == 0) return;
    DTYPE_SWITCH(dtype, T, {
        EightBits<T> z = {
            (unsigned char *)latent, (T *)c_kv, (T *)k_rope, block_table,  lengths,
            batch * tokens,          tokens,    max_pages,   (int)c_width, (int)rope_width};
        gpu_launch(gpu, append_e4m3_kernel<T>, ceil_div(z.rows, WARPS), 32 * WARPS, 0, z);
    });
}

void latent_gather_e4m3_cuda(Gpu *gpu, DType dtype, void *c_kv, void *k_rope, const void *latent,
                             const int32_t *block_table, const int32_t *lengths, int64_t batch,
                             int64_t length, int64_t c_width, int64_t rope_width,
                             int64_t max_pages) {
    if (batch * length == 0) return;
    DTYPE_SWITCH(dtype, T, {
        EightBits<T> z = {
            (unsigned char *)latent, (T *)c_kv, (T *)k_rope, block_table,  lengths,
            batch * length,          length,    max_pages,   (int)c_width, (int)rope_width};
        gpu_launch(gpu, gather_e4m3_kernel<T>, ceil_div(z.rows, WARPS), 32 * WARPS, 0, z);
    });
}

static __global__ void move_kernel(int32_t *lengths, int32_t tokens, const int32_t *back,
                                   int64_t batch) {
    int64_t b = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (b < batch) lengths[b] += tokens - (back ? back[b] : 0);
}

void pages_move_cuda(Gpu *gpu, DType dtype, int32_t *lengths, int32_t tokens, const int32_t *back,
                     int64_t batch) {
    (void)dtype; /* lengths are I32 whatever the rows are */
    gpu_launch(gpu, move_kernel, ceil_div(batch, 256), 256, 0, lengths, tokens, back, batch);
}
