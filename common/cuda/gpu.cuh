/*
 * What every .cu file shares: the inside of a Gpu, error checks, and loads and stores in F32 or
 * BF16.
 */
#ifndef COMMON_GPU_CUH
#define COMMON_GPU_CUH

#include "common/core/gpu.h"

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

typedef __nv_bfloat16 bf16;

struct MatmulPlans; /* gpu_matmul.cu's memory */

struct Gpu {
    cudaStream_t stream;
    cublasLtHandle_t blas;
    struct MatmulPlans *plans;
    void *workspace; /* cuBLASLt's scratch */
    size_t workspace_bytes;
    cudaEvent_t start, stop;
    int sm_count;
    int compute_capability; /* 90 for Hopper */
    int shared_memory_max;  /* bytes a block may ask for */
    bool capturing;         /* between gpu_graph_begin and gpu_graph_end */
    char name[64];
    size_t memory;
};

/* Every CUDA call goes through this: a failure names the call, the place and CUDA's own words. */
#define CUDA_CHECK(call)                                                                    \
    do {                                                                                    \
        cudaError_t status_ = (call);                                                       \
        if (status_ != cudaSuccess)                                                         \
            fatal("%s:%d: %s: %s", __FILE__, __LINE__, #call, cudaGetErrorString(status_)); \
    } while (0)

/* The Gpu to launch on, and the place that does, which a failure names. */
struct LaunchOn {
    Gpu *gpu;
    const char *file;
    int line;
    LaunchOn(Gpu *gpu, const char *file = __builtin_FILE(), int line = __builtin_LINE())
        : gpu(gpu), file(file), line(line) {}
};

/* kernel<<<grid, threads, shared>>>(arguments...). A pointer to void becomes what the kernel takes;
 * a bad configuration is reported here, not three calls later. */
template <typename... Parameters, typename... Arguments>
static void gpu_launch(LaunchOn on, void (*kernel)(Parameters...), dim3 grid, dim3 threads,
                       size_t shared, Arguments... arguments) {
    if (shared > 48 << 10) /* more has to be asked for */
        CUDA_CHECK(cudaFuncSetAttribute((const void *)kernel,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    kernel<<<grid, threads, shared, on.gpu->stream>>>(static_cast<Parameters>(arguments)...);
    cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess)
        fatal("%s:%d: the launch failed: %s", on.file, on.line, cudaGetErrorString(status));
}

/*
 * DTYPE_SWITCH(dtype, T, statement): runs the statement with T = float or __nv_bfloat16.
 */
#define DTYPE_SWITCH(dtype, T, ...)                                                   \
    do {                                                                              \
        if ((dtype) == F32) {                                                         \
            typedef float T;                                                          \
            __VA_ARGS__;                                                              \
        } else {                                                                      \
            CHECK((dtype) == BF16, "dtype %s has no kernel here", dtype_name(dtype)); \
            typedef __nv_bfloat16 T;                                                  \
            __VA_ARGS__;                                                              \
        }                                                                             \
    } while (0)

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

/* N numbers that one thread loads or stores at once: 16 bytes, the widest there is, unless
 * fewer. */
template <typename T, int N = 16 / sizeof(T)> struct alignas(N * sizeof(T)) Pack {
    static const int SIZE = N;
    T v[N];
};

/* Sum and maximum over the 32 lanes of a warp; every lane gets the result. */
__device__ __forceinline__ float warp_sum(float x) {
    for (int offset = 16; offset; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
    for (int offset = 16; offset; offset /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, offset));
    return x;
}

void gpu_matmul_free(Gpu *gpu);

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Enough blocks to fill the GPU, each thread then walking in strides of the whole grid. */
static inline int64_t gpu_blocks(const Gpu *gpu, int threads, int64_t items) {
    int64_t blocks = ceil_div(items, threads), most = 16 * (int64_t)gpu->sm_count;
    return blocks < 1 ? 1 : blocks < most ? blocks : most;
}

#endif
