/* Checks exercise 05.9 with the router itself, which gets scores by their logits. */
#include "05_moe/router.h"

#include <criterion/criterion.h>
#include <math.h>

extern const int group_out, chosen[3], without_groups;
extern const double weights[3];

enum { E = 6, K = 3 };

static void route(int groups, int open, int32_t *indices, float *w) {
    const float score[E] = {0.9f, 0.1f, 0.5f, 0.4f, 0.3f, 0.8f};
    const float bias[E] = {-0.3f, 0, 0.1f, 0.1f, 0.1f, 0};
    float logits[E], s[E];
    int32_t status = 0;
    for (int e = 0; e < E; e++) logits[e] = logf(score[e] / (1 - score[e]));
    route_forward_cpu(s, indices, w, &status, logits, bias,
                      (RouteShape){.tokens = 1,
                                   .experts = E,
                                   .top_k = K,
                                   .groups = groups,
                                   .topk_groups = open,
                                   .group_best = 2,
                                   .sigmoid = 1,
                                   .norm = 1,
                                   .scale = 1});
}

Test(groups, chosen) {
    int32_t indices[K];
    float w[K];
    route(3, 2, indices, w);
    for (int j = 0; j < K; j++) {
        cr_assert(chosen[j] == indices[j], "chosen[%d] is not %d", j, chosen[j]);
        cr_assert(fabs(weights[j] - w[j]) < 2e-3, "weights[%d] is not %g", j, weights[j]);
        cr_assert(group_out != indices[j] / 2, "an expert of group %d is chosen", group_out);
    }
    cr_assert(group_out >= 0 && group_out < 3, "there is no group %d", group_out);
}

Test(groups, all_open) {
    int32_t with[K], all[K];
    float w[K];
    route(3, 2, with, w);
    route(1, 1, all, w);
    int other = 9;
    for (int j = 0; j < K; j++)
        if (all[j] != with[0] && all[j] != with[1] && all[j] != with[2]) other = all[j];
    cr_assert(without_groups == other, "without_groups is not %d", without_groups);
}
