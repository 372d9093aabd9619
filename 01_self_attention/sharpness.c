/*
 * Query i and its keys are the random numbers of stream i, the query first. With p the softmax, the
 * squares of its derivative's elements p_j (delta_jk - p_k) are summed over j and k.
 */
#include "01_self_attention/sharpness.h"

#include "01_self_attention/softmax.h"
#include "common/core/memory.h"
#include "common/core/rng.h"

#include <math.h>
#include <stdlib.h>

static void add_row(double *largest, double *slope, const float *scores) {
    float p[SHARPNESS_KEYS], top = 0;
    double squares = 0;
    softmax_reference_forward_cpu(p, scores, 1, SHARPNESS_KEYS);
    for (int j = 0; j < SHARPNESS_KEYS; j++) {
        top = fmaxf(top, p[j]);
        for (int k = 0; k < SHARPNESS_KEYS; k++) squares += pow(p[j] * ((j == k) - p[k]), 2);
    }
    *largest += top / SHARPNESS_QUERIES;
    *slope += sqrt(squares) / SHARPNESS_QUERIES;
}

Sharpness sharpness(int dim, uint64_t seed) {
    Sharpness mean = {{0}, {0}};
    float *query = must_alloc((size_t)dim, sizeof *query);
    for (int i = 0; i < SHARPNESS_QUERIES; i++) {
        float scores[2][SHARPNESS_KEYS];
        uint64_t stream = (uint64_t)i, next = 0;
        while (next < (uint64_t)dim) query[next] = rng_normal(seed, stream, next), next++;
        for (int j = 0; j < SHARPNESS_KEYS; j++) {
            float score = 0;
            for (int c = 0; c < dim; c++) score += query[c] * rng_normal(seed, stream, next++);
            scores[0][j] = score;
            scores[1][j] = score / sqrtf((float)dim);
        }
        for (int side = 0; side < 2; side++)
            add_row(&mean.largest[side], &mean.slope[side], scores[side]);
    }
    free(query);
    return mean;
}
