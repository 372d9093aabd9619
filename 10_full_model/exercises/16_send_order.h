/* Rows on their way to spread experts. */
#ifndef SEND_ORDER_H
#define SEND_ORDER_H

#include <stdint.h>

/*
 * Row i of `rows` is for expert expert[i]; rank r has the experts from r * experts / ranks on.
 * order [rows] becomes the rows' numbers as they stand in what is sent: by rank, then by expert,
 * and of one expert in their old order. counts [ranks]: how many go to each rank.
 */
void send_order(int64_t *counts, int32_t *order, const int32_t *expert, int rows, int experts,
                int ranks);

#endif
