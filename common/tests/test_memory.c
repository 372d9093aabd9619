/*
 * The memory door: what comes through it is there, cleared where that is promised, and the same on
 * every device.
 */
#include "common/core/memory.h"

#include "common/program/testing.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

Test(memory, is_cleared_and_there_even_for_nothing) {
    char *nothing = must_alloc(0, 0), *again = must_realloc(NULL, 0, 8);
    cr_assert(nothing && again);
    int *dirty = must_alloc(1000, sizeof *dirty);
    memset(dirty, 0xFF, 1000 * sizeof *dirty);
    free(dirty);
    int *numbers = must_alloc(1000, sizeof *numbers);
    for (int i = 0; i < 1000; i++) cr_assert_eq(numbers[i], 0);
    char *copy = must_strdup("text");
    cr_assert_str_eq(copy, "text");
}

Test(memory, a_size_that_overflows_ends_the_program, .exit_code = 1) { must_alloc(SIZE_MAX, 16); }

Test(memory, a_list_that_cannot_grow_ends_the_program, .exit_code = 1) {
    size_t capacity = 0;
    grow(NULL, &capacity, (size_t)1 << 60, 1024);
}

Test(memory, a_list_keeps_what_it_holds_while_it_doubles) {
    size_t capacity = 0, enlarged = 0;
    int *list = NULL;
    for (size_t i = 0; i < 1000; i++) {
        size_t before = capacity;
        list = grow(list, &capacity, i + 1, sizeof *list);
        enlarged += capacity != before;
        list[i] = (int)i;
    }
    for (int i = 0; i < 1000; i++) cr_assert_eq(list[i], i);
    cr_assert(capacity >= 1000 && enlarged <= 8, "%zu times to %zu", enlarged, capacity);
}

CONTEXT_TEST(memory, comes_back_from_the_device) {
    int32_t host[] = {7, -1, 3, 1 << 30}, got[4];
    int32_t *there = device_alloc(ctx.gpu, sizeof host), *copy = device_alloc(ctx.gpu, 1);
    cr_assert(there && copy && (uintptr_t)there % 256 == 0 && (uintptr_t)copy % 256 == 0);
    device_put(ctx.gpu, there, host, sizeof host);
    device_free(ctx.gpu, copy);
    copy = device_alloc(ctx.gpu, sizeof host);
    device_set(ctx.gpu, copy, 0xFF, sizeof host);
    device_copy(ctx.gpu, copy, there, 3 * sizeof *host);
    device_get(ctx.gpu, got, copy, sizeof got);
    cr_assert(got[0] == 7 && got[1] == -1 && got[2] == 3 && got[3] == -1);
    device_free(ctx.gpu, there);
    device_free(ctx.gpu, copy);
    device_free(ctx.gpu, NULL);
    char *large = device_alloc(ctx.gpu, (8 << 20) + 1); /* whole large pages */
    cr_assert(large && (device == CUDA || (uintptr_t)large % (2 << 20) == 0));
    device_set(ctx.gpu, large, 1, (8 << 20) + 1);
    device_free(ctx.gpu, large);

    Tensor *t = tensor_copy_in(&ctx, "t", I32, host, SHAPE(2, 2));
    tensor_download_ints(&ctx, got, t);
    cr_assert_arr_eq(got, host, sizeof host);
}

CONTEXT_TEST(memory, that_is_not_to_be_had_is_null) {
    cr_assert_null(device_alloc(ctx.gpu, (size_t)1 << 60));
}

CPU_TEST(memory, of_floats_is_not_read_as_ints, .signal = SIGABRT) {
    int32_t got[1];
    tensor_download_ints(&ctx, got, tensor_new(&ctx, "t", F32, SHAPE(1)));
}
