/*
 * The small work between the steps of speculative decoding: lists of a few ids for each text.
 *
 * A thread has a text; there are at most FEW_ROWS of them, and for each a few dozen numbers. What
 * limits is the launch. The formulas are those of speculate_graph.c and drafter_planted.c.
 */
#include "06_mtp/speculate/speculate.h"
#include "common/cuda/gpu.cuh"

static const int THREADS = 32;

static unsigned blocks_for(int64_t batch) { return (unsigned)ceil_div(batch, THREADS); }

/* One block: the step's number moves when all texts have read it. */
static __global__ void accept_kernel(int32_t *ids, int32_t *last, int32_t *back, int32_t *rest,
                                     int32_t *found, int32_t *step, const int32_t *says, int batch,
                                     int k, int most) {
    int32_t *rows = found + (int64_t)*step * batch * (2 + most);
    for (int b = threadIdx.x; b < batch; b += blockDim.x) {
        int32_t *mine = ids + b * (1 + SPECULATE_MOST), *row = rows + b * (2 + most);
        const int32_t *said = says + b * (k + 1);
        int agree = 0;
        while (agree < k && mine[agree + 1] == said[agree]) agree++;
        int count = min(agree + 1, rest[b]);
        rest[b] -= count;
        last[b] = count - 1;
        back[b] = k + 1 - count;
        row[0] = count;
        for (int j = 0; j <= k; j++) row[1 + j] = said[j];
        if (count) mine[0] = max(said[count - 1], 0);
    }
    __syncthreads();
    if (threadIdx.x == 0) ++*step;
}

extern "C" void speculate_accept_cuda(Gpu *gpu, DType dtype, int32_t *ids, int32_t *last,
                                      int32_t *back, int32_t *rest, int32_t *found, int32_t *step,
                                      const int32_t *says, int64_t batch, int64_t k, int64_t most) {
    (void)dtype; /* ids are I32 whatever the states are */
    gpu_launch(gpu, accept_kernel, 1, THREADS, 0, ids, last, back, rest, found, step, says,
               (int)batch, (int)k, (int)most);
}

static __global__ void line_kernel(int32_t *line, int32_t *rows, int32_t *kept, int32_t *before,
                                   const int32_t *next, const int32_t *last, int batch, int W,
                                   int T, int k, int skip) {
    int b = blockIdx.x * blockDim.x + threadIdx.x;
    if (b >= batch) return;
    int end = max(last[b], 0);
    line += (int64_t)b * (W + T + k);
    for (int i = 0; i < W + T + k; i++)
        line[i] = i < W ? before[b * W + i] : i <= W + end ? next[(int64_t)b * T + i - W] : 0;
    rows[b] = b * (skip + T) + skip + end;
    for (int w = 0; w < W; w++) {
        kept[b * W + w] = b * (W + T) + last[b] + 1 + w;
        before[b * W + w] = line[last[b] + 1 + w];
    }
}

extern "C" void draft_line_cuda(Gpu *gpu, DType dtype, int32_t *line, int32_t *rows, int32_t *kept,
                                int32_t *before, const int32_t *next, const int32_t *last,
                                int64_t batch, int64_t W, int64_t T, int64_t k, int64_t skip) {
    (void)dtype;
    gpu_launch(gpu, line_kernel, blocks_for(batch), THREADS, 0, line, rows, kept, before, next,
               last, (int)batch, (int)W, (int)T, (int)k, (int)skip);
}

static __global__ void window_kernel(int32_t *ids, const int32_t *line, int batch, int count,
                                     int from, int width) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, b = i / count;
    if (b < batch) ids[i] = line[(int64_t)b * width + from + i % count];
}

extern "C" void draft_window_cuda(Gpu *gpu, DType dtype, int32_t *ids, const int32_t *line,
                                  int64_t batch, int64_t count, int64_t from, int64_t width) {
    (void)dtype;
    gpu_launch(gpu, window_kernel, blocks_for(batch * count), THREADS, 0, ids, line, (int)batch,
               (int)count, (int)from, (int)width);
}

static __global__ void put_kernel(int32_t *chosen, int32_t *drafts, const int32_t *map, int batch,
                                  int j) {
    int b = blockIdx.x * blockDim.x + threadIdx.x;
    if (b >= batch) return;
    int id = map ? map[chosen[b]] : chosen[b];
    chosen[b] = drafts[b * (1 + SPECULATE_MOST) + j] = id;
}

extern "C" void draft_put_cuda(Gpu *gpu, DType dtype, int32_t *chosen, int32_t *drafts,
                               const int32_t *map, int64_t batch, int64_t j) {
    (void)dtype;
    gpu_launch(gpu, put_kernel, blocks_for(batch), THREADS, 0, chosen, drafts, map, (int)batch,
               (int)j);
}

static __global__ void append_kernel(int32_t *line, const int32_t *chosen, const int32_t *last,
                                     int batch, int W, int j, int width) {
    int b = blockIdx.x * blockDim.x + threadIdx.x;
    if (b < batch) line[(int64_t)b * width + W + max(last[b], 0) + j] = chosen[b];
}

extern "C" void draft_append_cuda(Gpu *gpu, DType dtype, int32_t *line, const int32_t *chosen,
                                  const int32_t *last, int64_t batch, int64_t W, int64_t j,
                                  int64_t width) {
    (void)dtype;
    gpu_launch(gpu, append_kernel, blocks_for(batch), THREADS, 0, line, chosen, last, (int)batch,
               (int)W, (int)j, (int)width);
}

static __global__ void plant_kernel(int32_t *drafts, const int32_t *truth, const int32_t *right,
                                    const int32_t *lengths, int batch, int k, int length,
                                    int period, int vocab) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, b = i / k, j = i % k + 1;
    if (b >= batch) return;
    int place = lengths[b] + j;
    int id = place < length ? truth[(int64_t)b * length + place] : 0;
    bool wrong = !right[(int64_t)(j - 1) * period + place % period];
    drafts[b * (1 + SPECULATE_MOST) + j] = (id + wrong) % vocab;
}

extern "C" void draft_plant_cuda(Gpu *gpu, DType dtype, int32_t *drafts, const int32_t *truth,
                                 const int32_t *right, const int32_t *lengths, int64_t batch,
                                 int64_t k, int64_t length, int64_t period, int64_t vocab) {
    (void)dtype;
    gpu_launch(gpu, plant_kernel, blocks_for(batch * k), THREADS, 0, drafts, truth, right, lengths,
               (int)batch, (int)k, (int)length, (int)period, (int)vocab);
}
