/*
 * The device layer: the few things the C side needs of a GPU.
 *
 * gpu.cu implements them with CUDA, gpu_none.c for builds without nvcc (where gpu_open says so). A
 * Gpu holds the stream every kernel runs on and the cuBLASLt handle with its workspace; nothing is
 * global. Kernels are launched by functions NAME_cuda(Gpu *gpu, DType dtype, ...) whose further
 * arguments are, in the same order, those of NAME_cpu(...): KERNEL() declares both and ON() calls
 * one of them.
 */
#ifndef COMMON_GPU_H
#define COMMON_GPU_H

#include "common/core/error.h"
#include "common/core/tensor.h"

__BEGIN_DECLS

typedef struct Gpu Gpu;

/* Opens GPU `index`, from 0 on, for this thread. NULL and a message when there is none, the driver
 * is too old, or the program was built without nvcc. */
Gpu *gpu_open(int index, Error *err);
void gpu_close(Gpu *gpu);

/* How many GPUs this program can use: 0 without nvcc. */
int gpu_count(void);

/* "NVIDIA H200, 132 SMs, sm_90, 139.8 GiB" */
typedef struct GpuText {
    char text[160];
} GpuText;
GpuText gpu_describe(Gpu *gpu);

void *gpu_alloc(Gpu *gpu, size_t bytes); /* NULL when there is not enough memory */
void gpu_free(Gpu *gpu, void *data);
size_t gpu_memory_free(Gpu *gpu); /* bytes that no program has taken */

/* In stream order. The copies to and from the host return when the host's memory may be used
 * again. */
void gpu_upload(Gpu *gpu, void *device, const void *host, size_t bytes);
void gpu_download(Gpu *gpu, void *host, const void *device, size_t bytes);
void gpu_copy(Gpu *gpu, void *to, const void *from, size_t bytes);
void gpu_set(Gpu *gpu, void *device, int byte, size_t bytes);

/*
 * A graph: work that was recorded once and can be repeated by one launch, however many kernels it
 * is. Between begin and end nothing runs; what is called is written down with its arguments,
 * addresses and sizes included, so whatever it reads must still be there at the launch. Inside,
 * nothing may wait for the device or ask it for memory: no uploads, no downloads, no gpu_alloc (an
 * arena that has seen the same step before does not need one).
 */
typedef struct GpuGraph GpuGraph;
void gpu_graph_begin(Gpu *gpu);
GpuGraph *gpu_graph_end(Gpu *gpu);
void gpu_graph_launch(Gpu *gpu, GpuGraph *graph); /* in stream order; does not wait */
void gpu_graph_free(GpuGraph *graph);             /* NULL is fine */

/* A profiler that was told to wait (ncu --profile-from-start off) looks at what is launched in
 * between. */
void gpu_profile_start(Gpu *gpu);
void gpu_profile_stop(Gpu *gpu);
/* Launches a kernel that does nothing, profile_mark, in `number` blocks: in a profiler's list of
 * kernels it tells what comes behind it. */
void gpu_mark(Gpu *gpu, int number);

/* Time on the GPU, for benchmarks: milliseconds between two marks in the stream. */
void gpu_timer_start(Gpu *gpu);
double gpu_timer_stop(Gpu *gpu);

/*
 * KERNEL(rmsnorm_forward, Real *y, ...) declares rmsnorm_forward_cpu(float *y, ...) and
 * rmsnorm_forward_cuda(gpu, dtype, void *y, ...). A Real is a float on the CPU and a number of
 * `dtype` on CUDA; what is F32 there too is written float. .cu files see a void * in its place.
 * Without nvcc there is nothing behind an x_cuda, and calling it does not link.
 */
#ifdef __CUDACC__
typedef void Real;
#else
typedef float Real;
#endif
#define KERNEL(name, ...)         \
    void name##_cpu(__VA_ARGS__); \
    void name##_cuda(Gpu *gpu, DType dtype, __VA_ARGS__)

/*
 * ON(ctx, rmsnorm, y, x, ...) calls rmsnorm_cuda(ctx->gpu, ctx->dtype, y, x, ...) or rmsnorm_cpu(y,
 * x, ...). ON_AS is for tensors that may have another dtype than ctx: a loss is F32 in a BF16 model
 * too.
 */
#define ON(ctx, kernel, ...) ON_AS(ctx, (ctx)->dtype, kernel, __VA_ARGS__)
#ifdef WITH_CUDA
#define ON_AS(ctx, dtype_, kernel, ...)                                     \
    ((ctx)->device == CUDA ? kernel##_cuda((ctx)->gpu, dtype_, __VA_ARGS__) \
                           : kernel##_cpu(__VA_ARGS__))
#else
#define ON_AS(ctx, dtype_, kernel, ...) ((void)(ctx), kernel##_cpu(__VA_ARGS__))
#endif

__END_DECLS
#endif
