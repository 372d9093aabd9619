/* The predictions against the chapter's own functions. */
#include "09_grpo/advantage.h"
#include "09_grpo/loss/policy_rows.h"

#include <criterion/criterion.h>
#include <math.h>

extern const double best, worst, grpo_wrong, dapo_wrong, loss_grpo, loss_dapo;

static const float rewards[4] = {1, 0, 0.5f, 0}, tokens[4] = {2, 4, 2, 2};

/* The loss on-policy, and the weight of a token of the second answer. */
static double loss_of(LossType type, const float *a, double *wrong) {
    PolicyShape s = {.cfg = policy_loss_defaults(type), .micro_batches = 1, .completions = 4};
    double loss = 0;
    s.actions = 10;
    for (int i = 0; i < 4; i++) {
        double weight = policy_weight(&s, tokens[i], 10);
        loss -= weight * tokens[i] * a[i];
        if (i == 1) *wrong = weight;
    }
    return loss;
}

Test(four_answers, advantages) {
    float a[4];
    cr_assert_eq(advantages_of(a, rewards, 1, 4, SCALE_GROUP, NULL, NULL), 0);
    cr_assert(fabs(best - (double)a[0]) < 2e-3, "the first one does not have %g", best);
    cr_assert(fabs(worst - (double)a[1]) < 2e-3, "the second one does not have %g", worst);
}

Test(four_answers, losses) {
    float a[4];
    double weight;
    advantages_of(a, rewards, 1, 4, SCALE_GROUP, NULL, NULL);
    double grpo = loss_of(LOSS_GRPO, a, &weight);
    cr_assert(fabs(grpo_wrong - weight) < 1e-3, "grpo_wrong is not %g", grpo_wrong);
    cr_assert(fabs(loss_grpo - grpo) < 1e-3, "loss_grpo is not %g", loss_grpo);
    double dapo = loss_of(LOSS_DAPO, a, &weight);
    cr_assert(fabs(dapo_wrong - weight) < 1e-3, "dapo_wrong is not %g", dapo_wrong);
    cr_assert(fabs(loss_dapo - dapo) < 1e-3, "loss_dapo is not %g", loss_dapo);
}
