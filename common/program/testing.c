/*
 * The comparisons behind every test. Each gathers all it has to say before it fails, because the
 * first message is often the only one that is read: which tensor, which element, both values, and
 * how far they are apart.
 */
#include "common/program/testing.h"

#include "common/files/files.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/* ---- tests that do not end ---- */

/* Criterion's list of tests, which the linker gathers; weak: a program may have none. */
extern struct criterion_test *__start_cr_tst[] __attribute__((weak));
extern struct criterion_test *__stop_cr_tst[] __attribute__((weak));

/*
 * tools/criterion.py says in TEST_SECONDS how long a test may take: one that loops for ever would
 * hold up all others. (Criterion's own flag for it, --timeout, does nothing in 2.4.1.) When the
 * tool is killed, so are the tests. A program run by hand has no limits, for a debugger's sake.
 */
__attribute__((constructor)) static void limit_tests(void) {
    const char *seconds = getenv("TEST_SECONDS");
    if (!seconds) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (struct criterion_test **test = __start_cr_tst; test < __stop_cr_tst; test++)
        if (*test && (*test)->data->timeout == 0) (*test)->data->timeout = strtod(seconds, NULL);
}

/* ---- devices and tensors ---- */

void test_needs_gpu(void) {
    if (gpu_count() == 0) cr_skip_test("no GPU (or built without nvcc)");
}

Context test_context(Device device, DType dtype) {
    Context ctx;
    Error err;
    if (context_init(&ctx, device, dtype, 1234, &err)) cr_assert_fail("%s", err.text);
    return ctx;
}

float *test_floats(int64_t n) {
    float *values = must_alloc((size_t)n, sizeof *values);
    memset(values, 0xFF, (size_t)n * sizeof *values);
    return values;
}

Tensor *test_normal(Context *ctx, const char *name, uint64_t stream, const int64_t *shape,
                    int ndim) {
    Tensor *t = tensor_new(ctx, name, ctx->dtype, shape, ndim);
    t->requires_grad = true;
    int64_t n = tensor_count(t);
    float *values = test_floats(n);
    /* From the far end: a context hands out its own streams from 0 on. */
    for (int64_t i = 0; i < n; i++) values[i] = rng_normal(ctx->rng.seed, ~stream, (uint64_t)i);
    tensor_upload(ctx, t, values);
    free(values);
    return t;
}

float *test_values(Context *ctx, const Tensor *t) {
    float *values = test_floats(tensor_count(t));
    tensor_download(ctx, values, t);
    return values;
}

int32_t *test_ints(Context *ctx, const Tensor *t) {
    int32_t *values = must_alloc((size_t)tensor_count(t), sizeof *values);
    tensor_download_ints(ctx, values, t);
    return values;
}

float *test_gradient(Context *ctx, const Tensor *t) {
    if (!t->has_grad || !t->grad) cr_assert_fail("the gradient of '%s' was not written", t->name);
    return test_values(ctx, t->grad);
}

void test_poison(Context *ctx, Tensor *t) {
    /* All bits one is a NaN in F32 and in BF16, and -1 in integers. */
    device_set(ctx->gpu, t->data, 0xFF, tensor_bytes(t));
}

/* ---- weights ---- */

void test_params(Params *params, float std) {
    Error err;
    if (params_allocate(params, true, &err)) cr_assert_fail("%s", err.text);
    for (int i = 0; i < params->count; i++) {
        Tensor *t = params->list[i];
        bool vector = t->ndim == 1;
        float mean = vector && strstr(t->name, "norm") ? 1.0f : 0.0f;
        float own = vector ? 0.3f : std > 0 ? std : 1 / sqrtf((float)tensor_dim(t, -1));
        float *values = test_floats(tensor_count(t));
        for (int64_t j = 0; j < tensor_count(t); j++) {
            values[j] = mean + own * rng_normal(7, 1000 + (uint64_t)i, (uint64_t)j);
            if (t->dtype == BF16) values[j] = bf16_to_float(bf16_from_float(values[j]));
        }
        params_set(params, t, values);
        free(values);
    }
}

float *test_weight(Params *params, const Tensor *t) {
    float *values = test_floats(tensor_count(t));
    params_get(params, t, values);
    return values;
}

float *test_weight_gradient(Params *params, const Tensor *t) {
    float *values = test_floats(tensor_count(t));
    params_get_grad(params, t, values);
    return values;
}

/* ---- comparisons ---- */

/* Element i as the indices of a shape: "[3, 5]"; plain "[i]" without one. */
static ShapeText index_text(const Tensor *shape, int64_t i) {
    ShapeText text;
    if (!shape) {
        snprintf(text.text, sizeof text.text, "[%lld]", (long long)i);
        return text;
    }
    int64_t index[MAX_DIMS];
    for (int d = shape->ndim - 1; d >= 0; d--) {
        index[d] = i % shape->shape[d];
        i /= shape->shape[d];
    }
    size_t used = 0;
    for (int d = 0; d < shape->ndim; d++)
        used += (size_t)snprintf(text.text + used, sizeof text.text - used, "%s%lld",
                                 d ? ", " : "[", (long long)index[d]);
    snprintf(text.text + used, sizeof text.text - used, "]");
    return text;
}

/*
 * How far a single element may be off: so many times the tolerance, of its own size plus the root
 * mean square of all. Simulated: BF16 rounding of a product's outputs takes 2 times the distance
 * of the whole; where rows differ in size the large ones make the noise, and the gradients of
 * attention over 1,024 positions take 13 times. 16 lets both through at a distance just allowed.
 * An element that is missing is off by all of its size: at 4 roundings of BF16 this finds nine of
 * ten that are zero or another's, and the tenth is small.
 */
enum { ELEMENT_LIMIT = 16 };

/* The truth must be finite, and so must be what is compared with it. Returns the sum of squares. */
static double check_finite(const char *what, const Tensor *shape, const float *a, const float *b,
                           int64_t n) {
    double truth = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(b[i]))
            cr_assert_fail("%s: the expected value at %s is %g: the truth itself is broken", what,
                           index_text(shape, i).text, b[i]);
        if (!isfinite(a[i])) {
            int64_t bad = 0;
            for (int64_t j = i; j < n; j++) bad += !isfinite(a[j]);
            cr_assert_fail("%s: %g at %s, expected %.9g (%lld of %lld elements are not finite; a "
                           "poisoned element that was not written is NaN)",
                           what, a[i], index_text(shape, i).text, b[i], (long long)bad,
                           (long long)n);
        }
        truth += (double)b[i] * b[i];
    }
    return truth;
}

/* shape: for the index in the message; NULL prints it flat. */
static void compare(const char *what, const Tensor *shape, const float *a, const float *b,
                    int64_t n, double tolerance) {
    if (n == 0) return;
    double truth = check_finite(what, shape, a, b, n), rms = sqrt(truth / (double)n);
    double apart = 0, largest = -1, own = 1; /* largest: error in units of own, the worst's size */
    int64_t worst = 0, differing = 0;
    for (int64_t i = 0; i < n; i++) {
        double difference = fabs((double)a[i] - b[i]), size = truth > 0 ? fabs(b[i]) + rms : 1;
        apart += difference * difference;
        differing += difference > tolerance * fabs((double)b[i]);
        if (difference / size > largest) {
            largest = difference / size;
            own = size;
            worst = i;
        }
    }
    double distance = sqrt(apart / (truth > 0 ? truth : (double)n));
    const char *passed = distance > tolerance                  ? "too far in all"
                         : largest > ELEMENT_LIMIT * tolerance ? "one element is too far off"
                                                               : NULL;
    if (passed)
        cr_assert_fail("%s: %s: relative distance %.3g, allowed %.3g; worst at %s (element %lld of "
                       "%lld): got %.9g, expected %.9g, apart by %.3g, allowed %.3g; off by more "
                       "than the tolerance's share of themselves: %lld",
                       what, passed, distance, tolerance, index_text(shape, worst).text,
                       (long long)worst, (long long)n, a[worst], b[worst], largest * own,
                       ELEMENT_LIMIT * tolerance * own, (long long)differing);
}

void check_close(const char *what, const float *a, const float *b, int64_t n, double tolerance) {
    compare(what, NULL, a, b, n, tolerance);
}

void check_tensor(Context *ctx, const char *what, const Tensor *t, const float *expected,
                  double tolerance) {
    float *values = test_values(ctx, t);
    compare(what, t, values, expected, tensor_count(t), tolerance);
    free(values);
}

void check_conditions(const char *file, int line, const char *text, const bool *holds, int count) {
    for (int i = 0; i < count; i++)
        if (!holds[i])
            cr_assert_fail("%s:%d: number %d of these %d is false: %s", file, line, i + 1, count,
                           text);
}

double tolerance_of(DType dtype, int64_t k) {
    double f32 = sqrt((double)(k > 1 ? k : 1)) * 0x1p-24;
    return dtype == BF16 ? f32 + 0x1p-9 : f32;
}

/* ---- gradients ---- */

typedef struct GradientCheck {
    Context *ctx;
    const char *what;
    LossFunction loss;
    void *user;
    double step, tolerance;
    double value; /* of the loss at the inputs as they are */
    Rng rng;      /* the same for every call of loss */
} GradientCheck;

/* The loss, without recording: one number. */
static double loss_value(GradientCheck *check) {
    check->ctx->rng = check->rng;
    check->ctx->recording = false;
    return tensor_get(check->loss(check->ctx, check->user), 0);
}

/* The gradients that the tape computes, one host array per input. */
static float **tape_gradients(GradientCheck *check, Tensor *const *inputs, int input_count) {
    Context *ctx = check->ctx;
    for (int i = 0; i < input_count; i++) {
        inputs[i]->requires_grad = true;
        inputs[i]->has_grad = false; /* what an earlier backward pass left there is not ours */
    }
    ctx->rng = check->rng;
    ctx->recording = true;
    Tensor *loss = check->loss(ctx, check->user);
    check->value = tensor_get(loss, 0); /* before backward: some ops reuse their inputs' memory */
    tape_backward(ctx, loss);

    float **gradients = must_alloc((size_t)input_count, sizeof *gradients);
    for (int i = 0; i < input_count; i++) {
        if (!inputs[i]->has_grad)
            cr_assert_fail("%s: backward wrote no gradient for '%s'", check->what, inputs[i]->name);
        gradients[i] = test_gradient(ctx, inputs[i]);
    }
    return gradients;
}

/* Central difference at element i; *noise: what one rounding of f to F32 on either side may add. */
static double difference_at(GradientCheck *check, Tensor *input, int64_t i, double *noise) {
    /* volatile: the step must be what x really moved */
    volatile float *x = (float *)input->data + i;
    float old = *x;
    *x = (float)(old + check->step);
    double high = *x, above = loss_value(check);
    *x = (float)(old - check->step);
    double low = *x, below = loss_value(check);
    *x = old;
    *noise = (fabs(above) + fabs(below)) * 0x1p-24 / (high - low);
    return (above - below) / (high - low);
}

/* All samples of one input; fails with the worst one. */
static void check_input(GradientCheck *check, Tensor *input, const float *gradient, int samples) {
    int64_t n = tensor_count(input), count = samples < n ? samples : n;
    double mean_square = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(gradient[i]))
            cr_assert_fail("%s: the gradient of '%s' is %g at %s", check->what, input->name,
                           gradient[i], index_text(input, i).text);
        mean_square += (double)gradient[i] * gradient[i] / (double)n;
    }
    double scale = sqrt(mean_square), worst_excess = 0, worst_numeric = 0, worst_allowed = 0;
    int64_t worst = 0, wrong = 0;
    for (int64_t s = 0; s < count; s++) {
        /* Spread evenly from first to last element, shaken so that no column is favoured. */
        int64_t i = count > 1 ? s * (n - 1) / (count - 1) : 0;
        if (s > 0 && s < count - 1 && count < n) {
            int64_t room = (n - 1) / (count - 1);
            i += (int64_t)(rng_uniform(7, 0, (uint64_t)s) * (float)room);
        }
        double noise, numeric = difference_at(check, input, i, &noise);
        double larger = fmax(fabs(numeric), fmax(fabs((double)gradient[i]), scale));
        double allowed = check->tolerance * larger + noise;
        double excess = fabs(numeric - gradient[i]) / allowed;
        if (excess <= 1) continue; /* NaN goes on, to the report */
        wrong++;
        if (!(excess <= worst_excess)) {
            worst_excess = excess;
            worst_numeric = numeric;
            worst_allowed = allowed;
            worst = i;
        }
    }
    if (wrong)
        cr_assert_fail("%s: the gradient of '%s' %s is wrong at %s: backward says %.6g, finite "
                       "differences say %.6g (ratio %.4g), apart by %.3g, allowed %.3g; %lld of "
                       "%lld samples disagree",
                       check->what, input->name, shape_text(input).text,
                       index_text(input, worst).text, gradient[worst], worst_numeric,
                       gradient[worst] / worst_numeric, fabs(gradient[worst] - worst_numeric),
                       worst_allowed, (long long)wrong, (long long)count);
}

void check_gradients(Context *ctx, const char *what, LossFunction loss, void *user,
                     Tensor *const *inputs, int input_count, int samples, double step,
                     double tolerance) {
    CHECK(ctx->device == CPU && ctx->dtype == F32, "finite differences need the CPU and F32");
    CHECK(samples > 0 && step > 0, "%d samples, step %g", samples, step);
    GradientCheck check = {ctx, what, loss, user, step, tolerance, 0, ctx->rng};
    bool recording = ctx->recording;
    float **gradients = tape_gradients(&check, inputs, input_count);

    /* The function that is differentiated must be the one that is probed. */
    double again = loss_value(&check);
    if (!(fabs(again - check.value) <= 1e-5 * fabs(check.value) + 1e-7))
        cr_assert_fail("%s: the loss is %.9g while recording and %.9g without", what, check.value,
                       again);
    for (int i = 0; i < input_count; i++) {
        check_input(&check, inputs[i], gradients[i], samples);
        free(gradients[i]);
    }
    free(gradients);
    ctx->recording = recording;
}

/* ---- golden files ---- */

SafeTensors *golden_open(const char *path) {
    char found[512];
    Error err;
    if (project_path(found, sizeof found, path, &err)) cr_assert_fail("%s", err.text);
    if (access(found, R_OK) == 0) {
        SafeTensors *file = safetensors_open(found, &err);
        if (!file) cr_assert_fail("%s", err.text);
        return file;
    }
    const char *slash = strchr(path, '/');
    int chapter = slash ? (int)(slash - path) : 0;
    cr_assert_fail("no golden file %s: run the tests from the repository's root; to make the file "
                   "(it needs PyTorch), run python3 tools/goldens/%.*s.py",
                   path, chapter, path);
    return NULL;
}

static const Tensor *golden_find(SafeTensors *golden, const char *name) {
    const Tensor *t = safetensors_find(golden, name);
    if (!t) cr_assert_fail("%s holds no tensor '%s'", safetensors_path(golden), name);
    return t;
}

Tensor *golden_tensor(Context *ctx, SafeTensors *golden, const char *name) {
    const Tensor *t = golden_find(golden, name);
    int64_t n = tensor_count(t);
    if (t->dtype == F32 || t->dtype == BF16) {
        float *values = test_floats(n);
        for (int64_t i = 0; i < n; i++) values[i] = tensor_get(t, i);
        Tensor *copy = tensor_copy_in(ctx, t->name, ctx->dtype, values, t->shape, t->ndim);
        free(values);
        copy->requires_grad = true;
        return copy;
    }
    if (t->dtype != I64) return tensor_copy_in(ctx, t->name, t->dtype, t->data, t->shape, t->ndim);
    int32_t *ids = must_alloc((size_t)n, sizeof *ids);
    for (int64_t i = 0; i < n; i++) {
        int64_t id;
        memcpy(&id, (const char *)t->data + (size_t)i * sizeof id, sizeof id);
        CHECK(id >= INT32_MIN && id <= INT32_MAX, "'%s' holds %lld: too large for I32", name,
              (long long)id);
        ids[i] = (int32_t)id;
    }
    Tensor *copy = tensor_copy_in(ctx, t->name, I32, ids, t->shape, t->ndim);
    free(ids);
    return copy;
}

const float *golden_values(SafeTensors *golden, const char *name) {
    const Tensor *t = golden_find(golden, name);
    if (t->dtype != F32)
        cr_assert_fail("'%s' in %s is %s, not F32", name, safetensors_path(golden),
                       dtype_name(t->dtype));
    return t->data;
}

void golden_weights(Params *params, SafeTensors *golden, const char *prefix) {
    for (int i = 0; i < params->count; i++) {
        Tensor *t = params->list[i];
        params_set(params, t, golden_values(golden, t->name + strlen(prefix)));
    }
}

void golden_check(Context *ctx, Params *params, SafeTensors *golden, const char *prefix, Tensor *x,
                  Tensor *y, double tolerance) {
    Tensor *c = tensor_copy_in(ctx, "c", F32, golden_values(golden, "c"), y->shape, y->ndim);
    tape_backward(ctx, weighted_sum(ctx, y, c));
    check_tensor(ctx, "y", y, golden_values(golden, "y"), tolerance);
    check_tensor(ctx, "gradient of x", x->grad, golden_values(golden, "grad.x"), tolerance);
    for (int i = 0; i < params->count; i++) {
        const Tensor *t = params->list[i];
        char name[128];
        snprintf(name, sizeof name, "grad.%s", t->name + strlen(prefix));
        check_close(name, test_weight_gradient(params, t), golden_values(golden, name),
                    tensor_count(t), tolerance);
    }
}
