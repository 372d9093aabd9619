/* Checks exercise 02.7 with a clock for the warpgroup and one for the tensor cores. */
#include "02_causal/exercises/overlap.h"

#include <criterion/criterion.h>

void attention_tiles(int tiles);

enum { TILES = 10, PRODUCT = 2, SOFTMAX = 4, ALLOWED = 62 };

static int now, tensor_free; /* when the warpgroup is, and when the last product will be done */
static int scores_done[TILES], values_done[TILES]; /* 0: not started */
static int scores_seen[TILES], softmax_done[TILES], rescaled[TILES];
static int next_scores, next_softmax, next_values; /* tiles come in order */

static int product(void) {
    tensor_free = (now > tensor_free ? now : tensor_free) + PRODUCT;
    return tensor_free;
}

static int later(int a, int b) { return a > b ? a : b; }

void start_scores(int tile) {
    cr_assert(tile == next_scores && tile < TILES, "start_scores(%d), but the next tile is %d",
              tile, next_scores);
    cr_assert(tile == 0 || softmax_done[tile - 1],
              "start_scores(%d) overwrites scores that softmax(%d) has not read", tile, tile - 1);
    scores_done[next_scores++] = product();
}

void wait_for_scores(int tile) {
    cr_assert(scores_done[tile], "wait_for_scores(%d), which nobody has started", tile);
    now = later(now, scores_done[tile]);
    scores_seen[tile] = 1;
}

void softmax(int tile) {
    cr_assert(tile == next_softmax, "softmax(%d), but the next tile is %d", tile, next_softmax);
    cr_assert(scores_seen[tile], "softmax(%d) before wait_for_scores(%d)", tile, tile);
    now += SOFTMAX;
    softmax_done[next_softmax++] = 1;
}

void rescale(int tile) {
    cr_assert(softmax_done[tile], "rescale(%d) before softmax(%d)", tile, tile);
    cr_assert(tile == 0 || (values_done[tile - 1] && now >= values_done[tile - 1]),
              "rescale(%d) while P V of tile %d is not done", tile, tile - 1);
    rescaled[tile] = 1;
}

void start_values(int tile) {
    cr_assert(tile == next_values, "start_values(%d), but the next tile is %d", tile, next_values);
    cr_assert(rescaled[tile], "start_values(%d) before rescale(%d)", tile, tile);
    values_done[next_values++] = product();
}

void wait_for_values(int tile) {
    cr_assert(values_done[tile], "wait_for_values(%d), which nobody has started", tile);
    now = later(now, values_done[tile]);
}

Test(overlap, the_order_is_right_and_the_time_short) {
    attention_tiles(TILES);
    cr_assert(next_values == TILES, "%d of %d tiles were added", next_values, TILES);
    cr_assert(now >= values_done[TILES - 1], "the last P V is not waited for");
    cr_assert(now <= ALLOWED, "it takes %d units of time; %d are enough", now, ALLOWED);
}
