/*
 * Matrix products by cuBLASLt, in plans that are made once.
 *
 * cuBLASLt wants descriptors of the operation and of each matrix, and then a heuristic picks an
 * algorithm. That takes longer than a small product, so a plan is kept for each combination of
 * shapes, dtypes and transpositions that has been asked for, and found again by comparing them.
 * cuBLAS thinks in columns, we in rows: C = A B in rows is C^T = B^T A^T in columns, so B goes
 * first, and nothing is transposed.
 */
#include "common/cuda/gpu_matmul.cuh"

#include "common/core/memory.h"

#include <stdlib.h>

/*
 * A plan: cuBLASLt's descriptors and the algorithm its heuristic chose. Finding it takes longer
 * than a small product, so plans are remembered; a training step uses a few dozen.
 */
struct MatmulPlan {
    GpuMatmul product;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
};

enum { MAX_PLANS = 256 };

struct MatmulPlans {
    int count, next; /* the oldest is replaced when all places are taken */
    MatmulPlan plan[MAX_PLANS];
};

#define BLAS_CHECK(call)                                                                         \
    do {                                                                                         \
        cublasStatus_t status_ = (call);                                                         \
        if (status_ != CUBLAS_STATUS_SUCCESS)                                                    \
            fatal("%s:%d: %s: %s", __FILE__, __LINE__, #call, cublasLtGetStatusString(status_)); \
    } while (0)

static cudaDataType_t cuda_type(DType dtype) { return dtype == BF16 ? CUDA_R_16BF : CUDA_R_32F; }

/* A row-major [rows, columns] matrix is, to cuBLAS, a column-major [columns, rows] one. */
static cublasLtMatrixLayout_t layout(DType dtype, int64_t rows, int64_t columns, int64_t ld,
                                     int64_t batch, int64_t stride) {
    cublasLtMatrixLayout_t l;
    int32_t count = (int32_t)batch;
    BLAS_CHECK(cublasLtMatrixLayoutCreate(&l, cuda_type(dtype), columns, rows, ld));
    BLAS_CHECK(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                                sizeof count));
    BLAS_CHECK(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                &stride, sizeof stride));
    return l;
}

static void make_plan(Gpu *gpu, MatmulPlan *plan, const GpuMatmul *p) {
    plan->product = *p;
    cublasOperation_t transpose = CUBLAS_OP_T;
    BLAS_CHECK(cublasLtMatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    /* C = A B in row-major is C^T = B^T A^T in column-major: B goes first. */
    if (p->transpose_b)
        BLAS_CHECK(cublasLtMatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                  &transpose, sizeof transpose));
    if (p->transpose_a)
        BLAS_CHECK(cublasLtMatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB,
                                                  &transpose, sizeof transpose));
    if (p->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        BLAS_CHECK(cublasLtMatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                  &epilogue, sizeof epilogue));
        int32_t type = cuda_type(p->out_dtype);
        BLAS_CHECK(cublasLtMatmulDescSetAttribute(
            plan->operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type));
    }
    plan->a = layout(p->dtype, p->transpose_a ? p->k : p->m, p->transpose_a ? p->m : p->k, p->lda,
                     p->batch, p->stride_a);
    plan->b = layout(p->dtype, p->transpose_b ? p->n : p->k, p->transpose_b ? p->k : p->n, p->ldb,
                     p->batch, p->stride_b);
    plan->c = layout(p->out_dtype, p->m, p->n, p->ldc, p->batch, p->stride_c);

    cublasLtMatmulPreference_t preference;
    BLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference));
    BLAS_CHECK(
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &gpu->workspace_bytes, sizeof gpu->workspace_bytes));
    uint32_t alignment = 16; /* views into a tensor may begin at any 16 bytes */
    for (int i = 0; i < 4; i++)
        BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(
            preference,
            (cublasLtMatmulPreferenceAttributes_t)(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i),
            &alignment, sizeof alignment));
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(gpu->blas, plan->operation, plan->b, plan->a, plan->c,
                                       plan->c, preference, 1, &result, &found);
    if (status != CUBLAS_STATUS_SUCCESS || !found)
        fatal("cuBLASLt has no algorithm for [%lld, %lld] x [%lld, %lld] in %s", (long long)p->m,
              (long long)p->k, (long long)p->k, (long long)p->n, dtype_name(p->dtype));
    plan->algorithm = result.algo;
    cublasLtMatmulPreferenceDestroy(preference);
}

static void destroy_plan(MatmulPlan *plan) {
    cublasLtMatmulDescDestroy(plan->operation);
    cublasLtMatrixLayoutDestroy(plan->a);
    cublasLtMatrixLayoutDestroy(plan->b);
    cublasLtMatrixLayoutDestroy(plan->c);
}

static bool same_product(const GpuMatmul *x, const GpuMatmul *y) {
    return x->dtype == y->dtype && x->out_dtype == y->out_dtype &&
           x->transpose_a == y->transpose_a && x->transpose_b == y->transpose_b && x->m == y->m &&
           x->n == y->n && x->k == y->k && x->lda == y->lda && x->ldb == y->ldb &&
           x->ldc == y->ldc && x->batch == y->batch && x->stride_a == y->stride_a &&
           x->stride_b == y->stride_b && x->stride_c == y->stride_c && x->bias == y->bias;
}

static MatmulPlan *find_plan(Gpu *gpu, const GpuMatmul *product) {
    if (!gpu->plans) gpu->plans = (MatmulPlans *)must_alloc(1, sizeof *gpu->plans);
    MatmulPlans *plans = gpu->plans;
    for (int i = 0; i < plans->count; i++)
        if (same_product(&plans->plan[i].product, product)) return &plans->plan[i];
    MatmulPlan *plan = &plans->plan[plans->next];
    if (plans->count == MAX_PLANS)
        destroy_plan(plan);
    else
        plans->count++;
    plans->next = (plans->next + 1) % MAX_PLANS;
    make_plan(gpu, plan, product);
    return plan;
}

/* Plans are made for matrices that begin at 16 bytes, or at what their rows begin at. */
static bool aligned(const void *matrix, int64_t ld, size_t size) {
    uintptr_t row = (uintptr_t)ld * size | 16, largest = row & -row; /* power of two that divides */
    return (uintptr_t)matrix % largest == 0;
}

void gpu_matmul_onto(Gpu *gpu, const GpuMatmul *product, void *c, const void *base, const void *a,
                     const void *b, const void *bias) {
    if (product->m == 0 || product->n == 0 || product->batch == 0) return;
    size_t size = dtype_size(product->dtype), out_size = dtype_size(product->out_dtype);
    CHECK(aligned(a, product->lda, size) && aligned(b, product->ldb, size) &&
              aligned(c, product->ldc, out_size) && aligned(base, product->ldc, out_size),
          "gpu_matmul: a matrix begins at fewer bytes than its rows do: %p, %p -> %p", a, b, c);
    MatmulPlan *plan = find_plan(gpu, product);
    if (product->bias)
        BLAS_CHECK(cublasLtMatmulDescSetAttribute(
            plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    BLAS_CHECK(cublasLtMatmul(gpu->blas, plan->operation, &product->alpha, b, plan->b, a, plan->a,
                              &product->beta, base, plan->c, c, plan->c, &plan->algorithm,
                              gpu->workspace, gpu->workspace_bytes, gpu->stream));
}

void gpu_matmul(Gpu *gpu, const GpuMatmul *product, void *c, const void *a, const void *b,
                const void *bias) {
    gpu_matmul_onto(gpu, product, c, c, a, b, bias);
}

void gpu_matmul_free(Gpu *gpu) {
    if (!gpu->plans) return;
    for (int i = 0; i < gpu->plans->count; i++) destroy_plan(&gpu->plans->plan[i]);
    free(gpu->plans);
}
