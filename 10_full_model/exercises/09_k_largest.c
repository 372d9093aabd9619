/*
 * Exercise 10.9: the k largest, without sorting
 *
 * A row of n scores, of which many may be equal: ReLU makes zeros. Write the positions of the k
 * largest into selected, ascending, and -1 behind them if there are fewer than k. Of equal scores
 * the lower position is taken; 0 and -0 are equal; NaN is below all numbers. Sorting the row costs
 * n log n, k rounds of "the largest so far" cost n k: do it in a few passes over the row.
 *
 * POINTS: 4
 * REPLACES: top_k_row_cpu in 10_full_model/sparse/top_k_cpu.c
 * TESTS: test_indexer:top_k
 */
#include "10_full_model/sparse/index_kernels.h"

void top_k_row_cpu(int32_t *selected, const float *scores, int n, int k) {
    for (int i = 0; i < k; i++) selected[i] = i < n ? i : -1; /* right when n <= k */
}
