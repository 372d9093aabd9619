/*
 * Exercise 10.16: who gets what
 *
 * Before tokens can travel, each rank must know in which order its rows leave and how many go where
 * (16_send_order.h). One pass that counts and one that places them is enough. Some ranks get
 * nothing; one may get everything.
 *
 * POINTS: 3
 * TESTS: check_16_send_order
 */
#include "10_full_model/exercises/16_send_order.h"

void send_order(int64_t *counts, int32_t *order, const int32_t *expert, int rows, int experts,
                int ranks) {
    (void)expert, (void)experts;
    for (int r = 0; r < ranks; r++) counts[r] = rows / ranks;
    for (int i = 0; i < rows; i++) order[i] = i;
}
