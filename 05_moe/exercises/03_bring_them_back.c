/*
 * Exercise 05.3: bring them back.
 *
 * The experts have answered: yp [rows, d], sorted by expert. Token n's answer is
 *
 *     y[n] = base[n] + sum over its choices j of weights[n, j] * yp[row of slot n * top_k + j]
 *
 * row_of_slot says where each choice's row is; -1 says that it was dropped, and adds nothing. base
 * [N, d] is what the answer is added to; NULL stands for zeros. y is not cleared before.
 *
 * POINTS: 2
 *
 * REPLACES: dispatch_combine_cpu in 05_moe/dispatch_cpu.c
 *
 * TESTS: test_dispatch:dispatch/there*cpu test_dispatch:dispatch/kernels*cpu
 */
#include "05_moe/dispatch.h"

void dispatch_combine_cpu(float *y, const float *base, const float *yp, const float *weights,
                          const int32_t *row_of_slot, int64_t tokens, int top_k, int64_t d) {}
