/*
 * The comparisons of testing.h really fail.
 *
 * Every test in the suite "trap" compares something right, and passes. The same program run with
 * TESTING_BREAK=1 breaks one number of each, and then each must fail: the test
 * helpers/every_trap_closes runs it so and looks at the exit status and at what was printed. A
 * helper that always passes would be found there.
 */
#include "common/program/testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool broken(void) { return getenv("TESTING_BREAK") != NULL; }

/* ---- comparisons ---- */

static float pick(float good, float bad) { return broken() ? bad : good; }

Test(trap, close_not_a_number) {
    float a[] = {1, pick(2, NAN), 3}, b[] = {1, 2, 3};
    check_close("three numbers", a, b, 3, 1e3);
}

Test(trap, close_infinite) {
    float a[] = {1, pick(2, INFINITY), 3}, b[] = {1, 2, 3};
    check_close("three numbers", a, b, 3, 1e30);
}

Test(trap, close_truth_not_finite) { /* x / inf = 0 would pass */
    float a[] = {1, pick(2, INFINITY)}, b[] = {1, pick(2, INFINITY)};
    check_close("two numbers", a, b, 2, 1e-6);
}

Test(trap, close_wrong_sign) {
    float a[] = {1, pick(2, -2), 3}, b[] = {1, 2, 3};
    check_close("three numbers", a, b, 3, 1e-6);
}

Test(trap, close_off_by_a_little) { /* 2e-6 of 3.7: a distance of 5e-7 */
    float a[] = {1, pick(2, 2.000002f), 3}, b[] = {1, 2, 3};
    check_close("three numbers", a, b, 3, 4e-7);
}

Test(trap, close_last_element) {
    float a[127], b[127];
    for (int i = 0; i < 127; i++) a[i] = b[i] = 1;
    a[126] = pick(1, 1.001f);
    check_close("127 ones", a, b, 127, 1e-5);
}

/* A grouped product in BF16: the norm of 98,304 numbers has room for four that are wrong. */
Test(trap, close_few_wrong_among_many) {
    enum { N = 384 * 256 };
    static float a[N], b[N];
    for (int i = 0; i < N; i++) {
        b[i] = rng_normal(1, 2, (uint64_t)i);
        a[i] = bf16_to_float(bf16_from_float(b[i]));
    }
    for (int i = 1; i < N; i += N / 4) a[i] += pick(0, 1);
    check_close("a product", a, b, N, 4 * tolerance_of(BF16, 192));
}

Test(trap, all_but_one) {
    int a = 1, b = broken() ? 3 : 2;
    check_all(a == 1, b == 2, a < b);
}

Test(trap, close_truth_is_zero) {
    float a[] = {0, pick(0, 1e-3f)}, b[] = {0, 0};
    check_close("zeros", a, b, 2, 1e-6);
}

Test(trap, close_exact) {
    float a[] = {1, pick(2, 2.0000002f)}, b[] = {1, 2};
    check_close("two numbers", a, b, 2, 0);
}

CPU_TEST(trap, tensor_element) {
    Tensor *t = test_normal(&ctx, "t", 1, SHAPE(3, 5));
    float *expected = test_values(&ctx, t);
    ((float *)t->data)[7] += pick(0, 0.1f);
    check_tensor(&ctx, "t", t, expected, 1e-6);
}

CPU_TEST(trap, poison_is_found) {
    Tensor *t = test_normal(&ctx, "t", 1, SHAPE(33));
    float *expected = test_values(&ctx, t);
    test_poison(&ctx, t);
    for (int i = 0; i < 33 - broken(); i++) ((float *)t->data)[i] = expected[i];
    check_tensor(&ctx, "a kernel that writes every element", t, expected, 0);
}

CPU_TEST(trap, gradient_nobody_wrote) {
    Tensor *t = test_normal(&ctx, "t", 1, SHAPE(4));
    int add;
    float *grad = grad_slot(&ctx, t, &add);
    memset(grad, 0, 4 * sizeof *grad);
    if (broken()) t->has_grad = false;
    test_gradient(&ctx, t);
}

Test(trap, golden_absent) {
    if (broken()) golden_open("common/tests/goldens/absent.safetensors");
}

/* ---- finite differences: y = x^3 w, with a backward that can be told to err ---- */

typedef struct Cube {
    Tensor *x, *w, *constants;
    float factor;    /* dx is multiplied by it: 1 is right */
    int wrong_at;    /* this element of dx is off by 10 %; -1: none */
    bool forget_w;   /* no gradient for w */
    bool not_finite; /* dw[2] is NaN */
    bool unlike;     /* computes something else while recording */
} Cube;

typedef struct CubeSaved {
    Tensor *y, *x, *w;
    const Cube *cube;
} CubeSaved;

static void cube_backward(Context *ctx, void *saved) {
    CubeSaved *s = saved;
    const float *x = s->x->data, *w = s->w->data, *dy = s->y->grad->data;
    int add_x, add_w;
    float *dx = grad_slot(ctx, s->x, &add_x);
    for (int64_t i = 0; i < tensor_count(s->x); i++) {
        float g = 3 * x[i] * x[i] * w[i] * dy[i] * s->cube->factor;
        if (i == s->cube->wrong_at) g *= 1.1f;
        dx[i] = add_x ? dx[i] + g : g;
    }
    if (s->cube->forget_w) return;
    float *dw = grad_slot(ctx, s->w, &add_w);
    for (int64_t i = 0; i < tensor_count(s->w); i++) {
        float g = x[i] * x[i] * x[i] * dy[i];
        dw[i] = add_w ? dw[i] + g : g;
    }
    if (s->cube->not_finite) dw[2] = NAN;
}

static Tensor *cube_loss(Context *ctx, void *user) {
    const Cube *cube = user;
    Tensor *y = tensor_new(ctx, "y", F32, cube->x->shape, cube->x->ndim);
    const float *x = cube->x->data, *w = cube->w->data;
    for (int64_t i = 0; i < tensor_count(y); i++)
        ((float *)y->data)[i] = x[i] * x[i] * x[i] * w[i] + (cube->unlike && ctx->recording);
    RECORD(ctx, y, cube_backward, CubeSaved, .y = y, .x = cube->x, .w = cube->w, .cube = cube);
    return weighted_sum(ctx, y, cube->constants);
}

/* samples 15: every element. The third derivative makes a step of 1e-2 wrong by 1e-4: a tolerance
 * of 1e-2 is ample. */
static void check_cube(Cube cube, int rows, int cols, int samples) {
    Context ctx = test_context(CPU, F32);
    cube.x = test_normal(&ctx, "x", 1, SHAPE(rows, cols));
    cube.w = test_normal(&ctx, "w", 2, SHAPE(rows, cols));
    cube.constants = test_normal(&ctx, "constants", 3, SHAPE(rows, cols));
    cube.constants->requires_grad = false;
    check_gradients(&ctx, "cube", cube_loss, &cube, (Tensor *[]){cube.x, cube.w}, 2, samples, 1e-2,
                    1e-2);
}

static Cube right_cube(void) { return (Cube){.factor = 1, .wrong_at = -1}; }

Test(trap, gradient_wrong_sign) {
    Cube cube = right_cube();
    if (broken()) cube.factor = -1;
    check_cube(cube, 3, 5, 15);
}

Test(trap, gradient_wrong_factor) {
    Cube cube = right_cube();
    if (broken()) cube.factor = 1.05f;
    check_cube(cube, 3, 5, 15);
}

Test(trap, gradient_wrong_at_one_element) {
    Cube cube = right_cube();
    if (broken()) cube.wrong_at = 14; /* a large one: small ones may hide */
    check_cube(cube, 3, 5, 15);
}

Test(trap, gradient_wrong_at_the_last_element) { /* 4 samples of 127 still see it */
    Cube cube = right_cube();
    if (broken()) cube.factor = 1, cube.wrong_at = 126;
    check_cube(cube, 1, 127, 4);
}

Test(trap, gradient_forgotten) {
    Cube cube = right_cube();
    cube.forget_w = broken();
    check_cube(cube, 3, 5, 15);
}

Test(trap, gradient_not_finite) {
    Cube cube = right_cube();
    cube.not_finite = broken();
    check_cube(cube, 3, 5, 15);
}

Test(trap, gradient_of_something_else) {
    Cube cube = right_cube();
    cube.unlike = broken();
    check_cube(cube, 3, 5, 15);
}

/* ---- the traps, closed ---- */

typedef struct Trap {
    const char *name, *message; /* a part of what must be printed */
} Trap;

static const Trap traps[] = {
    {"close_not_a_number", "nan at [1], expected 2"},
    {"close_infinite", "inf at [1], expected 2"},
    {"close_truth_not_finite", "the truth itself is broken"},
    {"close_wrong_sign", "worst at [1] (element 1 of 3): got -2, expected 2"},
    {"close_off_by_a_little", "worst at [1]"},
    {"close_last_element", "worst at [126]"},
    {"close_few_wrong_among_many", "one element is too far off: relative distance 0.00"},
    {"all_but_one", "number 2 of these 3 is false: a == 1, b == 2, a < b"},
    {"close_truth_is_zero", "worst at [1]"},
    {"close_exact", "worst at [1]"},
    {"tensor_element", "worst at [1, 2] (element 7 of 15)"},
    {"poison_is_found", "nan at [32]"},
    {"gradient_nobody_wrote", "the gradient of 't' was not written"},
    {"golden_absent", "tools/goldens/common.py"},
    {"gradient_wrong_sign", "of 'x' [3, 5] is wrong"},
    {"gradient_wrong_factor", "(ratio 1.05)"},
    {"gradient_wrong_at_one_element", "wrong at [2, 4]"},
    {"gradient_wrong_at_the_last_element", "wrong at [0, 126]"},
    {"gradient_forgotten", "no gradient for 'w'"},
    {"gradient_not_finite", "of 'w' is nan at [0, 2]"},
    {"gradient_of_something_else", "while recording"},
};

/* Runs this program again on one trap, in a clean environment but for TESTING_BREAK; returns its
 * exit status. */
static int spring(const char *name, char *output, size_t size) {
    char program[512], command[1024];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    cr_assert(length > 0);
    program[length] = 0;
    /* env -i: Criterion marks its worker processes by variables, and the new program is not one.
     * LD_LIBRARY_PATH stays, and a sanitizer must not look for leaks in a test that was stopped
     * half-way. */
    const char *libraries = getenv("LD_LIBRARY_PATH");
    snprintf(command, sizeof command,
             "env -i TESTING_BREAK=1 ASAN_OPTIONS=detect_leaks=0 LD_LIBRARY_PATH='%s' '%s' "
             "--filter='trap/%s' --jobs=1 2>&1",
             libraries ? libraries : "", program, name);
    FILE *stream = popen(command, "r");
    cr_assert(stream != NULL);
    size_t used = fread(output, 1, size - 1, stream);
    output[used] = 0;
    return pclose(stream);
}

Test(helpers, every_trap_closes, .timeout = 60) {
    if (broken()) return;
    for (size_t i = 0; i < sizeof traps / sizeof *traps; i++) {
        char output[8192];
        int status = spring(traps[i].name, output, sizeof output);
        cr_expect(status != 0, "%s passes although it is broken", traps[i].name);
        cr_expect(strstr(output, traps[i].message), "%s fails without saying '%s':\n%s",
                  traps[i].name, traps[i].message, output);
    }
}

Test(helpers, tolerance_grows_with_the_sum) {
    cr_assert_float_eq(tolerance_of(F32, 1), 0x1p-24, 1e-12);
    cr_assert_float_eq(tolerance_of(F32, 256), 0x1p-20, 1e-12);
    cr_assert_float_eq(tolerance_of(BF16, 1), 0x1p-9 + 0x1p-24, 1e-12);
}
