/*
 * Tensors, arena, tape, random numbers, weights and the optimizer.
 */
#include "common/core/fastmath.h"
#include "common/program/testing.h"

#include <math.h>
#include <omp.h>
#include <signal.h>
#include <string.h>

/* ---- numbers ---- */

Test(bf16, rounds_to_nearest_even) {
    struct {
        uint32_t bits;
        uint16_t want;
    } cases[] = {
        {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81},
        {0x3f807fff, 0x3f80}, {0xff800000, 0xff80}, {0x7f7fffff, 0x7f80}, {0x80000000, 0x8000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        float x;
        memcpy(&x, &cases[i].bits, sizeof x);
        cr_assert(bf16_from_float(x) == cases[i].want, "%08x became %04x", cases[i].bits,
                  bf16_from_float(x));
    }
    cr_assert(isnan(bf16_to_float(bf16_from_float(NAN))));
    for (uint32_t b = 0; b < 0x10000; b++) /* every finite BF16 survives the way there and back */
        if ((b & 0x7f80) != 0x7f80)
            cr_assert(bf16_from_float(bf16_to_float((uint16_t)b)) == b, "%04x", b);
}

Test(fast_exp, is_as_exact_as_it_says) {
    double worst = 0;
    for (double x = -87.2; x < 88; x += 1e-3) {
        double exact = exp((float)x), error = fabs(fast_exp((float)x) - exact) / exact;
        if (error > worst) worst = error;
    }
    cr_assert(worst < 1e-7, "relative error %g", worst);
    check_all(fast_exp(-INFINITY) == 0, fast_exp(-100) == 0, fast_exp(0) == 1);
    cr_assert(isnan(fast_exp(NAN)));
}

/* Known answers of Philox4x32-10 from its authors' Random123 distribution (kat_vectors). */
Test(rng, philox_known_answers) {
    Philox p = philox(0, 0, 0);
    uint32_t zero[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    cr_assert(!memcmp(p.word, zero, sizeof zero));
    p = philox(~0ull, ~0ull, ~0ull);
    uint32_t ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    cr_assert(!memcmp(p.word, ones, sizeof ones));
    p = philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88);
    uint32_t pi[4] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
    cr_assert(!memcmp(p.word, pi, sizeof pi));
}

Test(rng, normal_has_the_right_moments) {
    enum { N = 200000 };
    double sum = 0, squares = 0, fourth = 0;
    for (int i = 0; i < N; i++) {
        double x = rng_normal(3, 5, (uint64_t)i);
        sum += x, squares += x * x, fourth += x * x * x * x;
    }
    /* Five standard errors: var(x) = 1, var(x^2) = 2, var(x^4) = 96. */
    cr_assert(fabs(sum / N) < 5 * sqrt(1.0 / N), "mean %g", sum / N);
    cr_assert(fabs(squares / N - 1) < 5 * sqrt(2.0 / N), "variance %g", squares / N);
    cr_assert(fabs(fourth / N - 3) < 5 * sqrt(96.0 / N), "fourth moment %g", fourth / N);
}

/* ---- arena ---- */

CONTEXT_TEST(arena, every_step_gets_the_same_addresses) {
    void *first[40];
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < 40; i++) {
            size_t bytes = (size_t)(i * i * 7919 % 500000 + (i == 20) * 9000000);
            void *p = arena_alloc(&ctx.data, bytes);
            cr_assert((uintptr_t)p % 256 == 0, "not aligned: %p", p);
            if (step == 1) first[i] = p; /* the first step grows the arena, the later ones repeat */
            if (step == 2) cr_assert(p == first[i], "allocation %d moved", i);
            if (device == CPU) memset(p, 1, bytes); /* sanitizers watch the ends */
        }
        context_reset(&ctx);
    }
}

/* What a mark gives back is handed out again, over the border of a block and from the very
 * start. */
CONTEXT_TEST(arena, a_mark_gives_back_what_came_after_it) {
    enum { FIRST = 1000, BUFFER = 3 << 20 }; /* a buffer is more than what a first block holds */
    ArenaMark start = arena_mark(&ctx.data);
    void *kept = arena_alloc(&ctx.data, FIRST);
    void *buffer = NULL, *small = NULL;
    size_t peak = 0;
    for (int layer = 0; layer < 5; layer++) {
        ArenaMark mark = arena_mark(&ctx.data);
        void *a = arena_alloc(&ctx.data, 500), *b = arena_alloc(&ctx.data, BUFFER);
        check_all(a != kept, b != kept);
        if (layer) cr_assert(a == small && b == buffer, "layer %d got other addresses", layer);
        if (layer) cr_assert(context_peak_bytes(&ctx) == peak, "the peak grew");
        small = a, buffer = b, peak = context_peak_bytes(&ctx);
        arena_release(&ctx.data, mark);
    }
    cr_assert(ctx.data.used == 1024, "%zu bytes in use, of one buffer of 1000", ctx.data.used);
    cr_assert(arena_alloc(&ctx.data, 500) == small);
    arena_release(&ctx.data, start);
    cr_assert(ctx.data.used == 0);
    cr_assert(arena_alloc(&ctx.data, FIRST) == kept);
}

CPU_TEST(arena, a_mark_of_a_step_that_is_over_stops_the_program, .signal = SIGABRT) {
    arena_alloc(&ctx.data, 1000);
    ArenaMark mark = arena_mark(&ctx.data);
    context_reset(&ctx);
    arena_release(&ctx.data, mark);
}

/* ---- what stops a program ---- */

CPU_TEST(tensor, a_wrong_shape_stops_the_program, .signal = SIGABRT) {
    linear(&ctx, test_normal(&ctx, "x", 1, SHAPE(2, 3)), test_normal(&ctx, "w", 2, SHAPE(4, 5)),
           NULL);
}

CPU_TEST(tape, a_loss_must_be_a_scalar, .signal = SIGABRT) {
    ctx.recording = true;
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(2, 3));
    tape_backward(&ctx, add(&ctx, x, x));
}

CPU_TEST(embedding, an_id_outside_the_table_stops_the_program, .signal = SIGABRT) {
    int32_t ids[2] = {0, 4};
    embedding(&ctx, test_normal(&ctx, "table", 1, SHAPE(4, 3)),
              tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(2)));
}

Test(context, bf16_on_the_cpu_is_refused) {
    Context ctx;
    cr_assert(context_init(&ctx, CPU, BF16, 1, &err) == -1);
    cr_assert(strstr(err.text, "--device cuda"), "%s", err.text);
}

Test(context, cuda_without_a_gpu_is_refused) {
    if (gpu_count() > 0) cr_skip_test("there is a GPU");
    Context ctx;
    cr_assert(context_init(&ctx, CUDA, F32, 1, &err) == -1);
    cr_assert(strstr(err.text, "--device cpu"), "%s", err.text);
}

/* ---- tape ---- */

CPU_TEST(tape, a_reshaped_tensor_passes_its_gradient_on) {
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(2, 6));
    float c[12], want[12];
    for (int i = 0; i < 12; i++) c[i] = (float)i, want[i] = 2 * (float)i;
    Tensor *weights = tensor_copy_in(&ctx, "c", F32, c, SHAPE(3, 4));
    ctx.recording = true;
    Tensor *y = reshape(&ctx, x, SHAPE(3, 4)), *z = reshape(&ctx, x, SHAPE(3, 4));
    Tensor *loss = add(&ctx, weighted_sum(&ctx, y, weights), weighted_sum(&ctx, z, weights));
    tape_backward(&ctx, loss);
    check_close("two views of x", x->grad->data, want, 12, 0);
}

CPU_TEST(tape, what_does_not_reach_the_loss_gets_no_gradient) {
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(4)),
           *other = test_normal(&ctx, "other", 2, SHAPE(4));
    ctx.recording = true;
    add(&ctx, other, other);
    tape_backward(&ctx, sum(&ctx, x));
    check_all(x->has_grad, !other->has_grad);
}

/* A BF16 model's losses are F32: they are added, summed and differentiated as such. */
CONTEXT_TEST(tape, f32_numbers_in_any_context) {
    ctx.recording = true;
    const float host[3] = {1, 2.0001f, 3}, three[3] = {3, 3, 3};
    Tensor *x = tensor_copy_in(&ctx, "x", F32, host, SHAPE(3));
    x->requires_grad = true;
    Tensor *a = sum(&ctx, x), *b = sum(&ctx, reshape(&ctx, x, SHAPE(1, 3)));
    Tensor *loss = add(&ctx, a, add(&ctx, a, b));
    const float want[1] = {3 * 6.0001f};
    check_tensor(&ctx, "sum", loss, want, 1e-6);
    tape_backward(&ctx, loss);
    cr_assert(!ctx.recording && ctx.tape_length == 0, "the recording goes on");
    check_tensor(&ctx, "gradient", x->grad, three, 0);
}

/* The same bits from one thread and from four: sums are cut into fixed chunks. */
Test(threads, do_not_change_results) {
    float results[2][33 * 40], norms[2];
    for (int round = 0; round < 2; round++) {
        omp_set_num_threads(round ? 4 : 1);
        Context ctx = test_context(CPU, F32);
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(999, 40)),
               *w = test_normal(&ctx, "w", 2, SHAPE(40));
        int32_t ids[999];
        for (int i = 0; i < 999; i++) ids[i] = i * i % 33;
        Tensor *table = test_normal(&ctx, "table", 3, SHAPE(33, 40));
        ctx.recording = true;
        Tensor *y = add(&ctx, rmsnorm(&ctx, x, w, 1e-6f),
                        embedding(&ctx, table, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(999))));
        Tensor *square = test_normal(&ctx, "square", 4, SHAPE(40, 40));
        y = linear(&ctx, y, square, NULL);
        tape_backward(&ctx, mean(&ctx, silu(&ctx, y)));
        memcpy(results[round], table->grad->data, sizeof results[round]);
        float scratch[NORM_CHUNKS + 1];
        grad_norm_cpu(scratch, x->grad->data, 999 * 40, 1);
        norms[round] = scratch[NORM_CHUNKS];
        context_free(&ctx);
    }
    check_all(!memcmp(results[0], results[1], sizeof results[0]), norms[0] == norms[1]);
}
