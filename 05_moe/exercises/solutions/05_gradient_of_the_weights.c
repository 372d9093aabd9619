/*
 * Solution 05.5. With w_i = scale s_i / S the second part is sum_i dw_i w_i / S, the same for all.
 * The tempting wrong answer divides by S and stops there: it holds S fast, though every chosen
 * score is part of it, and pulls all of them in one direction.
 */
#include "05_moe/router.h"

void route_weights_backward_cpu(float *dscores, int add, const float *dweights,
                                const float *weights, const float *scores, const int32_t *indices,
                                RouteShape shape) {
    int64_t E = shape.experts, K = shape.top_k;
    for (int64_t n = 0; n < shape.tokens; n++) {
        for (int64_t e = 0; e < E && !add; e++) dscores[n * E + e] = 0;
        float S = 1e-20f, dot = 0;
        for (int64_t j = 0; j < K; j++) {
            S += scores[n * E + indices[n * K + j]];
            dot += dweights[n * K + j] * weights[n * K + j];
        }
        for (int64_t j = 0; j < K; j++) {
            float direct = shape.scale * dweights[n * K + j];
            dscores[n * E + indices[n * K + j]] += shape.norm ? (direct - dot) / S : direct;
        }
    }
}
