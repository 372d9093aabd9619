/*
 * Runs the six steps to Hopper (steps.h) and says of each whether it is right and how many clocks
 * it takes. Each is held against plain loops in double; the program ends with 1 when one is wrong.
 */
#include "01_self_attention/steps.h"
#include "common/core/dtype.h"
#include "common/core/memory.h"
#include "common/core/rng.h"
#include "common/files/csv.h"
#include "common/program/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef WITH_CUDA

enum { SIDE = STEP_SIDE, K = 4096 };

/* n numbers of BF16 on the device, and what they are in F32. */
static void *random_matrix(Gpu *gpu, uint64_t stream, int n, float *host) {
    uint16_t *bits = must_alloc((size_t)n, sizeof *bits);
    for (int i = 0; i < n; i++) {
        bits[i] = bf16_from_float(rng_normal(1, stream, (uint64_t)i));
        host[i] = bf16_to_float(bits[i]);
    }
    void *device = gpu_alloc(gpu, (size_t)n * sizeof *bits);
    if (!device) fatal("no memory on the GPU");
    gpu_upload(gpu, device, bits, (size_t)n * sizeof *bits);
    free(bits);
    return device;
}

static Csv csv; /* open when --csv says where */

/* --counters: each step once more for tools/counters.py, as bench_row() does it. */
static bool counters;

static void begin_for_profiler(Gpu *gpu, const char *name) {
    static int ranges;
    printf("range %d|the steps to Hopper, one block|%s|nan|nan|nan\n", ++ranges, name);
    fflush(stdout);
    gpu_profile_start(gpu);
    gpu_mark(gpu, ranges);
}

static int say(const char *name, int right, double clocks, const char *what) {
    printf("  %-26s %-6s %8.1f clocks %s\n", name, right ? "right" : "WRONG", clocks, what);
    if (csv.stream) csv_row(&csv, "%s,%.1f", name, clocks);
    return right ? 0 : 1;
}

static int copies(Gpu *gpu) {
    static float host[SIDE * SIDE];
    static uint16_t got[SIDE * SIDE];
    static const char *const names[] = {"1 copy as it lies", "2 copy swizzled"};
    int wrong = 0;
    void *from = random_matrix(gpu, 1, SIDE * SIDE, host), *to = gpu_alloc(gpu, sizeof got);
    if (!to) fatal("no memory on the GPU");
    for (int swizzled = 0; swizzled < 2; swizzled++) {
        int right = 1;
        gpu_set(gpu, to, 0xFF, sizeof got);
        step_copy_cuda(gpu, to, from, swizzled);
        gpu_download(gpu, got, to, sizeof got);
        for (int i = 0; i < SIDE * SIDE; i++) right &= bf16_to_float(got[i]) == host[i];
        wrong += say(names[swizzled], right, step_column_clocks_cuda(gpu, swizzled),
                     "to read 16 bytes of 32 rows, one column");
        if (!counters) continue;
        begin_for_profiler(gpu, names[swizzled]);
        step_column_clocks_cuda(gpu, swizzled);
        gpu_profile_stop(gpu);
    }
    gpu_free(gpu, from);
    gpu_free(gpu, to);
    return wrong;
}

static int product(Gpu *gpu, StepWay way, const char *name) {
    int k = way == STEP_WGMMA ? SIDE : K, rows = step_rows(way), right = 1;
    float *a = must_alloc((size_t)(rows * k), sizeof *a);
    float *b = must_alloc((size_t)(k * SIDE), sizeof *b);
    float *c = must_alloc((size_t)(rows * SIDE), sizeof *c);
    void *on_a = random_matrix(gpu, 2, rows * k, a), *on_b = random_matrix(gpu, 3, k * SIDE, b);
    float *on_c = gpu_alloc(gpu, (size_t)(rows * SIDE) * sizeof *c);
    if (!on_c) fatal("no memory on the GPU");
    double clocks = INFINITY;
    for (int i = 0; i < 5; i++) { /* the first run finds nothing in the L2 cache */
        gpu_set(gpu, on_c, 0xFF, (size_t)(rows * SIDE) * sizeof *c);
        clocks = fmin(clocks, step_product_cuda(gpu, way, on_c, on_a, on_b, k));
    }
    gpu_download(gpu, c, on_c, (size_t)(rows * SIDE) * sizeof *c);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < SIDE; j++) {
            double sum = 0, size = 0;
            for (int p = 0; p < k; p++) {
                sum += (double)a[i * k + p] * b[p * SIDE + j];
                size += fabs((double)a[i * k + p] * b[p * SIDE + j]);
            }
            /* products are exact in F32, their sum is rounded at most k times: far less in fact */
            right &= fabs(c[i * SIDE + j] - sum) <= 1e-6 * size;
        }
    if (counters) {
        begin_for_profiler(gpu, name);
        step_product_cuda(gpu, way, on_c, on_a, on_b, k);
        gpu_profile_stop(gpu);
    }
    gpu_free(gpu, on_a), gpu_free(gpu, on_b), gpu_free(gpu, on_c);
    free(a), free(b), free(c);
    return say(name, right, clocks, "for 64 of k");
}

static const char about[] = "Runs the six steps to Hopper, each alone, and checks them.";

int main(int argc, char **argv) {
    CommonOptions common = {0};
    const Option flags[] = {
        OPT_FLAG("counters", 0, &counters, "Run each step once more for tools/counters.py"),
        OPT_CSV(&common), OPT_END};
    Error err = {0};
    options_parse(argc, argv, about, flags);
    Gpu *gpu = gpu_open(0, &err);
    if (!gpu) fatal("%s", err.text);
    if (!steps_available(gpu)) fatal("the steps need a GPU of sm_90");
    GpuText device = gpu_describe(gpu);
    if (common.csv && csv_open(&csv, common.csv, "step,clocks", device.text, 1, &err))
        fatal("%s", err.text);
    printf("%s. One block, so clocks say how long a step waits.\n", device.text);
    int wrong = copies(gpu);
    wrong += product(gpu, STEP_WGMMA, "3 one product");
    wrong += product(gpu, STEP_ONE_STAGE, "4 one stage");
    wrong += product(gpu, STEP_RING, "4 four stages");
    wrong += product(gpu, STEP_SPECIALISED, "5 specialised");
    wrong += product(gpu, STEP_EIGHT_STAGES, "5 eight stages");
    wrong += product(gpu, STEP_CLUSTER, "6 cluster");
    if (common.csv && csv_close(&csv, &err)) fatal("%s", err.text);
    gpu_close(gpu);
    return wrong ? 1 : 0;
}

#else

int main(int argc, char **argv) {
    const Option flags[] = {OPT_END};
    options_parse(argc, argv, "Runs the six steps to Hopper, each alone, and checks them.", flags);
    fatal("the steps are for CUDA, and this program was built without nvcc");
}

#endif
