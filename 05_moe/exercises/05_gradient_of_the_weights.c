/*
 * Exercise 05.5: the gradient of the weights.
 *
 * The weights of the K chosen experts come from their scores s_j:
 *
 *     norm:   w_j = scale * s_j / S,   S = sum over the chosen of s_i  (+ 1e-20)
 *     else:   w_j = scale * s_j
 *
 * Given dweights (the loss's derivative with respect to each w_j), add to dscores [tokens, experts]
 * that with respect to each score, or (add 0) overwrite it: experts that were not chosen then get
 * 0. The version here forgets that with norm every s_j is also part of S.
 *
 * POINTS: 3
 * REPLACES: route_weights_backward_cpu in 05_moe/router_cpu.c
 * TESTS: test_router:router/backward_by_plain_loops_cpu test_gate:router/gradients_softmax_norm
 */
#include "05_moe/router.h"

void route_weights_backward_cpu(float *dscores, int add, const float *dweights,
                                const float *weights, const float *scores, const int32_t *indices,
                                RouteShape shape) {
    int64_t E = shape.experts, K = shape.top_k;
    for (int64_t n = 0; n < shape.tokens; n++) {
        for (int64_t e = 0; e < E && !add; e++) dscores[n * E + e] = 0;
        for (int64_t j = 0; j < K; j++)
            dscores[n * E + indices[n * K + j]] += shape.scale * dweights[n * K + j];
    }
}
