/*
 * The yardstick: cuBLASLt's own product with scales for 1 x 128 and 128 x 128.
 *
 * It thinks in columns: our d [m, n] is its n x m, its A is our b (transposed: K-major), its B our
 * a. Scales of 1 x 128 lie as ours do; the rows of those of 128 x 128 are padded to four numbers,
 * so we ask for sizes where nothing is padded.
 */
#include "08_quant/fp8_rungs.h"
#include "common/cuda/gpu.cuh"

#if CUBLAS_VERSION >= 120900

#define BLAS_CHECK(call)                                                                         \
    do {                                                                                         \
        cublasStatus_t status_ = (call);                                                         \
        if (status_ != CUBLAS_STATUS_SUCCESS)                                                    \
            fatal("%s:%d: %s: %s", __FILE__, __LINE__, #call, cublasLtGetStatusString(status_)); \
    } while (0)

/* The last product's plan; a benchmark asks for the same one many times. */
struct Plan {
    int64_t m, n, k;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algorithm;
    cublasStatus_t status;
};

static void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t what,
                const void *value, size_t size) {
    BLAS_CHECK(cublasLtMatmulDescSetAttribute(operation, what, value, size));
}

static void set_scales(const Plan *plan, const float *a_scale, const float *b_scale) {
    set(plan->operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &b_scale, sizeof b_scale);
    set(plan->operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &a_scale, sizeof a_scale);
}

static void make_plan(Gpu *gpu, Plan *plan, int64_t m, int64_t n, int64_t k) {
    cublasOperation_t transpose = CUBLAS_OP_T, not_transposed = CUBLAS_OP_N;
    int32_t squares = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
    int32_t rows = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
    BLAS_CHECK(cublasLtMatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose);
    set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB, &not_transposed, sizeof not_transposed);
    set(plan->operation, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &squares, sizeof squares);
    set(plan->operation, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &rows, sizeof rows);
    /* the heuristic wants to see where scales lie: any place will do */
    set_scales(plan, (const float *)gpu->workspace, (const float *)gpu->workspace);
    BLAS_CHECK(cublasLtMatrixLayoutCreate(&plan->a, CUDA_R_8F_E4M3, k, n, k));
    BLAS_CHECK(cublasLtMatrixLayoutCreate(&plan->b, CUDA_R_8F_E4M3, k, m, k));
    BLAS_CHECK(cublasLtMatrixLayoutCreate(&plan->d, CUDA_R_16BF, n, m, n));
    cublasLtMatmulPreference_t preference;
    BLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference));
    BLAS_CHECK(
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &gpu->workspace_bytes, sizeof gpu->workspace_bytes));
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    plan->status = cublasLtMatmulAlgoGetHeuristic(gpu->blas, plan->operation, plan->a, plan->b,
                                                  plan->d, plan->d, preference, 1, &result, &found);
    if (plan->status == CUBLAS_STATUS_SUCCESS && !found) plan->status = CUBLAS_STATUS_NOT_SUPPORTED;
    cublasLtMatmulPreferenceDestroy(preference);
    plan->algorithm = result.algo;
    plan->m = m, plan->n = n, plan->k = k;
}

static const Plan *find_plan(Gpu *gpu, int64_t m, int64_t n, int64_t k) {
    static Plan plan;
    if (plan.m != m || plan.n != n || plan.k != k) make_plan(gpu, &plan, m, n, k);
    return &plan;
}

const char *fp8_blas_refusal(Gpu *gpu, DType dtype, int64_t m, int64_t n, int64_t k) {
    if (dtype != BF16 || gpu->compute_capability != 90) return "for BF16 results on sm_90 alone";
    if (m % 4 || n % 128 || k % 512 || !m || !n || !k) return "scales would be padded";
    cublasStatus_t status = find_plan(gpu, m, n, k)->status;
    return status == CUBLAS_STATUS_SUCCESS ? NULL : cublasLtGetStatusString(status);
}

void fp8_product_blas_cuda(Gpu *gpu, DType dtype, void *d, const void *base, const uint8_t *a,
                           const float *a_scale, const uint8_t *b, const float *b_scale, int64_t m,
                           int64_t n, int64_t k) {
    const char *refusal = fp8_blas_refusal(gpu, dtype, m, n, k);
    CHECK(!refusal, "cuBLASLt's block-scaled product: %s", refusal);
    const Plan *plan = find_plan(gpu, m, n, k);
    set_scales(plan, a_scale, b_scale);
    float one = 1, beta = base ? 1 : 0;
    BLAS_CHECK(cublasLtMatmul(gpu->blas, plan->operation, &one, b, plan->a, a, plan->b, &beta,
                              base ? base : d, plan->d, d, plan->d, &plan->algorithm,
                              gpu->workspace, gpu->workspace_bytes, gpu->stream));
}

#else

const char *fp8_blas_refusal(Gpu *, DType, int64_t, int64_t, int64_t) {
    return "cuBLASLt has it since CUDA 12.9, and this program was built with an older one";
}

void fp8_product_blas_cuda(Gpu *, DType, void *, const void *, const uint8_t *, const float *,
                           const uint8_t *, const float *, int64_t, int64_t, int64_t) {
    fatal("cuBLASLt has block scales since CUDA 12.9; this program was built with an older one");
}

#endif
