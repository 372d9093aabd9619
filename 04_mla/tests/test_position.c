/*
 * Lists of positions, and the end of the table.
 */
#include "04_mla/position.h"

#include "common/program/testing.h"

#include <string.h>

static void check_positions(Context *ctx, const Tensor *t, const int32_t *first, int offset) {
    int64_t B = tensor_dim(t, 0), T = tensor_dim(t, 1);
    int32_t *got = test_ints(ctx, t);
    for (int64_t i = 0; i < B * T; i++) {
        int wanted = (first ? first[i / T] : offset) + (int)(i % T);
        cr_assert(got[i] == wanted, "[%d, %d] is %d, not %d", (int)(i / T), (int)(i % T), got[i],
                  wanted);
    }
}

CONTEXT_TEST(position, counts_from_an_offset) {
    static const int sizes[] = {1, 31, 33, 127, 1000};
    for (int i = 0; i < 5; i++)
        for (int B = 1; B <= 3; B++)
            check_positions(&ctx, positions_from(&ctx, B, sizes[i], 5 * i), NULL, 5 * i);
}

CONTEXT_TEST(position, counts_from_each_sequence_s_length) {
    enum { B = 5, T = 33 };
    static const int32_t first[B] = {7, 0, 4000, 1, 63};
    Tensor *lengths = tensor_copy_in(&ctx, "lengths", I32, first, SHAPE(B));
    Tensor *positions = positions_from(&ctx, B, T, -1);
    ON(&ctx, positions_fill, positions->data, lengths->data, 0, B, T);
    check_positions(&ctx, positions, first, 0);
}

Test(position, past_the_table_is_an_error) {
    Position position = {.max_position = 100, .scale = 1};
    cr_assert_eq(position_room(&position, 0, 100, &err), 0);
    cr_assert_eq(position_room(&position, 99, 1, &err), 0);
    cr_assert_eq(position_room(NULL, 1000000, 1, &err), 0, "no table, no limit");
    cr_assert_eq(position_room(&position, 90, 11, &err), -1);
    cr_assert(strstr(err.text, "100 positions (max_position_embeddings)"), "it says: %s", err.text);
    cr_assert(strstr(err.text, "11 tokens from position 90 on need 101"), "it says: %s", err.text);
    cr_assert_eq(position_room(&position, 100, 1, NULL), -1);
}
