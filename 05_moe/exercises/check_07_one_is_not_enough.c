/* The predictions against the project's own backward pass. */
#include "05_moe/router.h"

#include <criterion/criterion.h>
#include <math.h>

extern const float rivals[2], agreed[2], agreed_alone[2], one, one_alone;
extern const int learns_that_both_were_bad, learns_that_the_one_was_bad;

/* k experts of two; pencil is what was predicted */
static void check(const char *name, const float *pencil, int k, int norm, float d0, float d1) {
    const float scores[2] = {0.6f, 0.2f}, dweights[2] = {d0, d1};
    const int32_t indices[2] = {0, 1};
    float sum = k == 2 ? 0.8f : 0.6f, dscores[2];
    float weights[2] = {norm ? 0.6f / sum : 0.6f, norm ? 0.2f / sum : 0.2f};
    route_weights_backward_cpu(
        dscores, 0, dweights, weights, scores, indices,
        (RouteShape){.tokens = 1, .experts = 2, .top_k = k, .norm = norm, .scale = 1});
    for (int j = 0; j < k; j++)
        cr_assert(fabsf(pencil[j] - dscores[j]) < 1e-4f, "%s: score %d's gradient is not %g", name,
                  j, pencil[j]);
}

Test(one_is_not_enough, gradients) {
    check("rivals", rivals, 2, 1, 1, -1);
    check("agreed", agreed, 2, 1, 1, 1);
    check("agreed_alone", agreed_alone, 2, 0, 1, 1);
    check("one", &one, 1, 1, 1, 0);
    check("one_alone", &one_alone, 1, 0, 1, 0);
}

Test(one_is_not_enough, what_can_be_learned) {
    cr_assert(learns_that_both_were_bad == (agreed[0] != 0 || agreed[1] != 0),
              "learns_that_both_were_bad does not fit `agreed`");
    cr_assert(learns_that_the_one_was_bad == (one != 0),
              "learns_that_the_one_was_bad does not fit `one`");
}
