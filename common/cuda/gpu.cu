/*
 * The device layer, with CUDA. A process uses one GPU, one stream, one cuBLASLt handle.
 */
#include "common/core/memory.h"
#include "common/cuda/gpu.cuh"

#include <cuda_profiler_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int gpu_count(void) {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

Gpu *gpu_open(int index, Error *err) {
    int count = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0) {
        error_set(err, "no usable GPU (%s): check `nvidia-smi`, or use --device cpu",
                  status == cudaSuccess ? "none found" : cudaGetErrorString(status));
        return NULL;
    }
    if (index < 0 || index >= count) {
        error_set(err, "there is no GPU %d: this machine has %d, counted from 0", index, count);
        return NULL;
    }
    cudaDeviceProp properties;
    CUDA_CHECK(cudaSetDevice(index));
    CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
    Gpu *gpu = (Gpu *)must_alloc(1, sizeof *gpu);
    gpu->sm_count = properties.multiProcessorCount;
    gpu->compute_capability = properties.major * 10 + properties.minor;
    gpu->shared_memory_max = (int)properties.sharedMemPerBlockOptin;
    gpu->memory = properties.totalGlobalMem;
    snprintf(gpu->name, sizeof gpu->name, "%s", properties.name);
    CUDA_CHECK(cudaStreamCreate(&gpu->stream));
    CUDA_CHECK(cudaEventCreate(&gpu->start));
    CUDA_CHECK(cudaEventCreate(&gpu->stop));
    gpu->workspace_bytes = (size_t)64 << 20;
    CUDA_CHECK(cudaMalloc(&gpu->workspace, gpu->workspace_bytes));
    if (cublasLtCreate(&gpu->blas) != CUBLAS_STATUS_SUCCESS) fatal("cuBLASLt does not start");
    return gpu;
}

void gpu_close(Gpu *gpu) {
    gpu_matmul_free(gpu);
    cublasLtDestroy(gpu->blas);
    cudaFree(gpu->workspace);
    cudaEventDestroy(gpu->start);
    cudaEventDestroy(gpu->stop);
    cudaStreamDestroy(gpu->stream);
    free(gpu);
}

GpuText gpu_describe(Gpu *gpu) {
    GpuText d;
    snprintf(d.text, sizeof d.text, "%s, %d SMs, sm_%d, %.1f GiB", gpu->name, gpu->sm_count,
             gpu->compute_capability, gpu->memory / 1073741824.0);
    return d;
}

void *gpu_alloc(Gpu *gpu, size_t bytes) {
    (void)gpu;
    void *data = NULL;
    if (cudaMalloc(&data, bytes) == cudaSuccess) return data;
    /* the failed allocation is reported by our caller, not by the next launch */
    cudaGetLastError();
    return NULL;
}

size_t gpu_memory_free(Gpu *gpu) {
    (void)gpu;
    size_t free_bytes = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total));
    return free_bytes;
}

void gpu_free(Gpu *gpu, void *data) {
    (void)gpu;
    CUDA_CHECK(cudaFree(data));
}

/* From pageable memory, which all of ours is, CUDA has taken a copy when it returns: the CPU does
 * not wait for what the stream still has to do. */
void gpu_upload(Gpu *gpu, void *device, const void *host, size_t bytes) {
    CUDA_CHECK(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, gpu->stream));
}

void gpu_download(Gpu *gpu, void *host, const void *device, size_t bytes) {
    CUDA_CHECK(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, gpu->stream));
    CUDA_CHECK(cudaStreamSynchronize(gpu->stream));
}

void gpu_copy(Gpu *gpu, void *to, const void *from, size_t bytes) {
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, gpu->stream));
}

void gpu_set(Gpu *gpu, void *device, int byte, size_t bytes) {
    CUDA_CHECK(cudaMemsetAsync(device, byte, bytes, gpu->stream));
}

struct GpuGraph {
    cudaGraphExec_t executable;
};

/* Thread-local: other threads may go on using CUDA while this one records. */
void gpu_graph_begin(Gpu *gpu) {
    CUDA_CHECK(cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeThreadLocal));
    gpu->capturing = true;
}

GpuGraph *gpu_graph_end(Gpu *gpu) {
    cudaGraph_t recorded;
    CUDA_CHECK(cudaStreamEndCapture(gpu->stream, &recorded));
    gpu->capturing = false;
    GpuGraph *graph = (GpuGraph *)must_alloc(1, sizeof *graph);
    CUDA_CHECK(cudaGraphInstantiate(&graph->executable, recorded, 0));
    CUDA_CHECK(cudaGraphDestroy(recorded));
    return graph;
}

void gpu_graph_launch(Gpu *gpu, GpuGraph *graph) {
    CUDA_CHECK(cudaGraphLaunch(graph->executable, gpu->stream));
}

void gpu_graph_free(GpuGraph *graph) {
    if (!graph) return;
    CUDA_CHECK(cudaGraphExecDestroy(graph->executable));
    free(graph);
}

void gpu_profile_start(Gpu *gpu) {
    CUDA_CHECK(cudaStreamSynchronize(gpu->stream));
    CUDA_CHECK(cudaProfilerStart());
}

void gpu_profile_stop(Gpu *gpu) {
    CUDA_CHECK(cudaStreamSynchronize(gpu->stream));
    CUDA_CHECK(cudaProfilerStop());
}

__global__ void profile_mark() {}

void gpu_mark(Gpu *gpu, int number) {
    profile_mark<<<number, 1, 0, gpu->stream>>>();
    CUDA_CHECK(cudaGetLastError());
}

void gpu_timer_start(Gpu *gpu) { CUDA_CHECK(cudaEventRecord(gpu->start, gpu->stream)); }

double gpu_timer_stop(Gpu *gpu) {
    float milliseconds;
    CUDA_CHECK(cudaEventRecord(gpu->stop, gpu->stream));
    CUDA_CHECK(cudaEventSynchronize(gpu->stop));
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, gpu->start, gpu->stop));
    return milliseconds;
}
