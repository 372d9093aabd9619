/*
 * The device layer of a program built without nvcc: there is no GPU, and gpu_open says why.
 */
#ifndef WITH_CUDA
#include "common/core/gpu.h"

Gpu *gpu_open(int index, Error *err) {
    (void)index;
    error_set(err, "this program was built without CUDA: install NVIDIA's CUDA toolkit (nvcc), run "
                   "make again, and try `make doctor`; or use --device cpu");
    return NULL;
}

int gpu_count(void) { return 0; }

static void no_gpu(void) { check_failed(__FILE__, __LINE__, "gpu", "built without CUDA"); }

void gpu_close(Gpu *gpu) { (void)gpu; }
GpuText gpu_describe(Gpu *gpu) { return (void)gpu, (GpuText){"no GPU"}; }
void *gpu_alloc(Gpu *gpu, size_t bytes) { return (void)gpu, (void)bytes, no_gpu(), NULL; }
size_t gpu_memory_free(Gpu *gpu) { return (void)gpu, no_gpu(), 0; }
void gpu_free(Gpu *gpu, void *data) { (void)gpu, (void)data, no_gpu(); }
void gpu_upload(Gpu *gpu, void *device, const void *host, size_t bytes) {
    (void)gpu, (void)device, (void)host, (void)bytes, no_gpu();
}
void gpu_download(Gpu *gpu, void *host, const void *device, size_t bytes) {
    (void)gpu, (void)host, (void)device, (void)bytes, no_gpu();
}
void gpu_copy(Gpu *gpu, void *to, const void *from, size_t bytes) {
    (void)gpu, (void)to, (void)from, (void)bytes, no_gpu();
}
void gpu_set(Gpu *gpu, void *device, int byte, size_t bytes) {
    (void)gpu, (void)device, (void)byte, (void)bytes, no_gpu();
}
void gpu_graph_begin(Gpu *gpu) { (void)gpu, no_gpu(); }
GpuGraph *gpu_graph_end(Gpu *gpu) { return (void)gpu, no_gpu(), NULL; }
void gpu_graph_launch(Gpu *gpu, GpuGraph *graph) { (void)gpu, (void)graph, no_gpu(); }
void gpu_graph_free(GpuGraph *graph) { (void)graph; }
void gpu_timer_start(Gpu *gpu) { (void)gpu, no_gpu(); }
void gpu_profile_start(Gpu *gpu) { (void)gpu, no_gpu(); }
void gpu_profile_stop(Gpu *gpu) { (void)gpu, no_gpu(); }
void gpu_mark(Gpu *gpu, int number) { (void)gpu, (void)number, no_gpu(); }
double gpu_timer_stop(Gpu *gpu) { return (void)gpu, no_gpu(), 0.0; }
#endif
