/*
 * What the tests of all chapters share: devices, comparisons, gradients by finite differences,
 * golden files.
 *
 * A test that exists for every device takes the device as a parameter:
 *
 *     DEVICE_TEST(rmsnorm, agrees_with_reference) {   // one Criterion test per device and dtype
 *         Context ctx = test_context(device, dtype);
 *         ...
 *     }
 *
 * It runs as rmsnorm/agrees_with_reference_cpu, _cuda and _cuda_bf16; without a GPU the last two
 * are counted as skipped. CONTEXT_TEST is the same with `ctx` at hand, CPU_TEST has a `ctx` for
 * the CPU alone, and CUDA_TEST a dtype for CUDA alone. Every comparison says which numbers differ,
 * where and by how much, and fails on NaN; test_testing.c proves that they really fail.
 *
 * A test is a process of its own, so what it holds at its end is not given back: not the memory
 * that the functions below return, nor a context outside of loops.
 *
 * testing.c needs Criterion, so it is linked into test programs only.
 */
#ifndef COMMON_TESTING_H
#define COMMON_TESTING_H

#include "common/core/context.h"
#include "common/core/ops.h"
#include "common/core/optimizer.h"
#include "common/files/safetensors.h"

#include <criterion/criterion.h>

#define DEVICE_TEST(suite, name)                                   \
    static void suite##_##name##_body(Device device, DType dtype); \
    Test(suite, name##_cpu) { suite##_##name##_body(CPU, F32); }   \
    CUDA_TEST(suite, name) { suite##_##name##_body(CUDA, dtype); } \
    static void suite##_##name##_body(Device device, DType dtype)

#define CUDA_TEST(suite, name)                      \
    static void suite##_##name##_cuda(DType dtype); \
    Test(suite, name##_cuda) {                      \
        test_needs_gpu();                           \
        suite##_##name##_cuda(F32);                 \
    }                                               \
    Test(suite, name##_cuda_bf16) {                 \
        test_needs_gpu();                           \
        suite##_##name##_cuda(BF16);                \
    }                                               \
    static void suite##_##name##_cuda(DType dtype)

#define CONTEXT_TEST(suite, name)                                                                 \
    static void suite##_##name##_in(Context ctx, Device device, DType dtype);                     \
    DEVICE_TEST(suite, name) { suite##_##name##_in(test_context(device, dtype), device, dtype); } \
    static void suite##_##name##_in(Context ctx, __attribute__((unused)) Device device,           \
                                    __attribute__((unused)) DType dtype)

/* Behind the name: what Criterion's Test takes, such as .signal = SIGABRT. */
#define CPU_TEST(suite, name, ...)                                                    \
    static void suite##_##name##_in(Context ctx);                                     \
    Test(suite, name, ##__VA_ARGS__) { suite##_##name##_in(test_context(CPU, F32)); } \
    static void suite##_##name##_in(Context ctx)

/* Skips the running test, with a reason, when there is no GPU. */
void test_needs_gpu(void);

/* A context on the device with a fixed seed, recording off. Fails the test if the device does not
 * open. */
Context test_context(Device device, DType dtype);

/* ---- tensors ---- */

/*
 * A tensor of ctx->dtype with Normal(0, 1) numbers (rounded when that is BF16), requires_grad set.
 * `stream` picks the numbers: the same stream gives the same ones on every device, and not those of
 * any stream that ctx->rng hands out.
 */
Tensor *test_normal(Context *ctx, const char *name, uint64_t stream, const int64_t *shape,
                    int ndim);

/* Fresh host memory for n numbers, which are NaN until they are written. */
float *test_floats(int64_t n);

/* The tensor's numbers as F32 in fresh host memory; of an I32 tensor; and those of t->grad, which
 * fail the test if no backward function wrote them. */
float *test_values(Context *ctx, const Tensor *t);
int32_t *test_ints(Context *ctx, const Tensor *t);
float *test_gradient(Context *ctx, const Tensor *t);

/* Fills memory with a NaN pattern, so that an element that is never written is found. */
void test_poison(Context *ctx, Tensor *t);

/* ---- weights ---- */

/*
 * Allocates what a test has registered, for training, and fills it so that no number is 0 or 1,
 * which would hide a weight that is forgotten: matrices Normal(0, std), or with 1 / sqrt(inputs)
 * as their std where std is 0; norms' weights 1 + Normal(0, 0.3), biases Normal(0, 0.3). The
 * numbers are those that ctx->dtype holds, so the same on every device and in every dtype.
 */
void test_params(Params *params, float std);

/*
 * MODULE(Multihead, MultiheadConfig, multihead_init(params, "self_attn", cfg), 0.3f) defines the
 * type Module: weights `w` with their config and Params of their own, and
 *     module_init(Module *m, Context *ctx, MultiheadConfig cfg)
 */
#define MODULE(Weights, Config, registration, std)                           \
    typedef struct Module {                                                  \
        Params params;                                                       \
        Config cfg;                                                          \
        Weights w;                                                           \
    } Module;                                                                \
    static inline void module_init(Module *m, Context *ctx, Config config) { \
        Params *params = &m->params;                                         \
        const Config *cfg = &m->cfg;                                         \
        m->cfg = config;                                                     \
        params_init(params, ctx);                                            \
        m->w = registration;                                                 \
        test_params(params, std);                                            \
    }

/* A weight's F32 master in fresh host memory, and its gradient: zeros where nothing was written. */
float *test_weight(Params *params, const Tensor *t);
float *test_weight_gradient(Params *params, const Tensor *t);

/* ---- comparisons ---- */

/* For the calls of a test: what the last one that failed had to say. */
static Error err __attribute__((unused));

/* What returns 0, or says in err why not: check_ok(model_init(..., &err), &err). */
static inline void check_ok(int status, const Error *err) {
    if (status) cr_assert_fail("%s", err->text);
}

/*
 * Relative distance ||a - b|| / ||b|| <= tolerance (b the truth), every element within
 * 16 * tolerance * (|b_i| + root mean square of b), and every number finite. The second bound finds
 * the few wrong elements that a norm over many does not see. Where b is zero throughout, both are
 * absolute. On failure prints `what`, which bound was passed, the distance, and the worst element
 * with its index and both values. tolerance 0 asks for equality.
 */
void check_close(const char *what, const float *a, const float *b, int64_t n, double tolerance);

/* The same for a tensor against host numbers; the index is printed in the tensor's shape. */
void check_tensor(Context *ctx, const char *what, const Tensor *t, const float *expected,
                  double tolerance);

/*
 * check_all(a == 1, b == 2): like cr_assert(a == 1 && b == 2), but the message says which is false.
 * All are evaluated, in any order, so none may depend on another.
 */
#define check_all(...)                                                              \
    check_conditions(__FILE__, __LINE__, #__VA_ARGS__, (const bool[]){__VA_ARGS__}, \
                     (int)(sizeof((const bool[]){__VA_ARGS__}) / sizeof(bool)))
void check_conditions(const char *file, int line, const char *text, const bool *holds, int count);

/*
 * tolerance_of(dtype, k): what rounding alone may do to a sum of k products: about sqrt(k)
 * roundings of F32 (2^-24), and for BF16 outputs one rounding more, of 2^-9 in the mean over many
 * numbers (a single one: up to 2^-8). Use a multiple of it and say why.
 */
double tolerance_of(DType dtype, int64_t k);

/*
 * Finite differences: compares the gradient of loss(ctx, user) by each tensor in `inputs` with
 * central differences (f(x + h) - f(x - h)) / 2h, h = step, at up to `samples` elements of each
 * (the first and the last are always among them), in a CPU F32 context. The loss function builds
 * its graph anew at each call from the inputs, and sees the same ctx->rng each time, so dropout
 * draws the same mask. It must not reset the context: the inputs live there.
 *
 * An element fails when the two differ by more than tolerance * max(|either|, root mean square of
 * this gradient), plus what rounding f to F32 does to the difference; so elements far smaller than
 * the others are hardly tested. The message names the input, the element, both values and their
 * ratio. An input whose gradient was not written fails too. With step 1e-2 and a loss of order 1, a
 * tolerance of 1e-2 is usual.
 */
typedef Tensor *(*LossFunction)(Context *ctx, void *user);
void check_gradients(Context *ctx, const char *what, LossFunction loss, void *user,
                     Tensor *const *inputs, int input_count, int samples, double step,
                     double tolerance);

/* ---- golden files ---- */

/*
 * Golden files, written by tools/goldens/: path is CHAPTER/goldens/NAME.safetensors, looked for
 * from the repository's root or from a folder in it. Fails the test, with the path and how to make
 * the file, if it is not there.
 */
SafeTensors *golden_open(const char *path);

/*
 * A copy on ctx's device. F32 and BF16 tensors get ctx->dtype and requires_grad, as from
 * test_normal; I64 becomes I32, since ids are I32 here and PyTorch writes I64. The name stays valid
 * until the file is closed.
 */
Tensor *golden_tensor(Context *ctx, SafeTensors *golden, const char *name);

/* The F32 numbers themselves, in host memory; they belong to the file. */
const float *golden_values(SafeTensors *golden, const char *name);

/*
 * For a module's golden file: it has x, c, y, the weights by their names without `prefix`, and the
 * gradients of sum(y * c) as grad.NAME. golden_weights() sets all weights; golden_check() runs the
 * tape from y and compares y and the gradients by x and by every weight.
 */
void golden_weights(Params *params, SafeTensors *golden, const char *prefix);
void golden_check(Context *ctx, Params *params, SafeTensors *golden, const char *prefix, Tensor *x,
                  Tensor *y, double tolerance);

#endif
