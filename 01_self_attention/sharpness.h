/*
 * Why scores are divided by sqrt(D): an experiment.
 *
 * A query and KEYS keys of D independent standard normal numbers. A score is a sum of D products of
 * variance 1, so its size is about sqrt(D). Of the softmax of a row of scores two numbers are
 * taken, for the scores as they are and divided by sqrt(D):
 *
 *     largest   the largest of its weights: 1 when it looks at one key only
 *     slope     the size of its derivative, the Frobenius norm of diag(p) - p p^T: 0 when a change
 *               of the scores changes nothing, and nothing is learned
 */
#ifndef SHARPNESS_H
#define SHARPNESS_H

#include <stdint.h>

enum { SHARPNESS_KEYS = 10, SHARPNESS_QUERIES = 1000 };

typedef struct Sharpness {
    double largest[2], slope[2]; /* [0]: scores as they are; [1]: divided by sqrt(D) */
} Sharpness;

/* Means over SHARPNESS_QUERIES queries, each with keys of its own. */
Sharpness sharpness(int dim, uint64_t seed);

#endif
