/*
 * Kernels that begin early.
 *
 * A chain of small kernels waits more than it works: the next one starts only when the last block
 * of the one before it has ended and its writes are visible. Since Hopper a kernel may start while
 * its predecessor still runs (programmatic dependent launch). What does not depend on another
 * kernel, its place and its weights, it fetches at once; then it waits.
 *
 *     few_rows_wait();    from here on all that the kernels before have written is there
 *     few_rows_go();      from here on the next kernel may start
 *
 * Every thread calls both. Before few_rows_wait() a kernel writes nothing to memory, and it reads:
 *   - weights;
 *   - what the kernel before the last has written, if the last one calls few_rows_wait() first and
 *     few_rows_go() after it: then no kernel starts early enough to miss it.
 *
 * Only inside a graph that is being captured: no kernel of it writes weights, while outside a graph
 * another kernel may do so just before. Elsewhere, and on older GPUs, few_rows_launch() is an
 * ordinary launch and both functions do nothing.
 */
#ifndef COMMON_FEW_ROWS_LAUNCH_CUH
#define COMMON_FEW_ROWS_LAUNCH_CUH

#include "common/cuda/gpu.cuh"

__device__ __forceinline__ void few_rows_go() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void few_rows_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* kernel<<<grid, threads, shared>>>(arguments...), early where that is possible. */
template <typename... Parameters, typename... Arguments>
static void few_rows_launch(Gpu *gpu, void (*kernel)(Parameters...), dim3 grid, int threads,
                            size_t shared, Arguments... arguments) {
    if (shared > 48 << 10)
        CUDA_CHECK(cudaFuncSetAttribute((const void *)kernel,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = shared;
    config.stream = gpu->stream;
    config.attrs = &early;
    config.numAttrs = gpu->capturing && gpu->compute_capability >= 90 ? 1 : 0;
    CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

#endif
