/* Against the chapter's policy_loss(), on the CPU. */
#include "09_grpo/loss/policy_loss.h"

#include "common/program/testing.h"

#include <math.h>

double gspo_loss(const float *logp, const float *old, const int *mask, const float *advantages,
                 int B, int T, double epsilon);

enum { B = 4, T = 6 };

CPU_TEST(two_mistakes, as_the_chapter_has_it) {
    static const int lengths[B] = {6, 2, 3, 1};
    float logp[B * T], old[B * T], advantages[B] = {1, -0.5f, -2, 0.5f};
    int32_t targets[B * T];
    int mask[B * T], actions = 0;
    PolicyLossConfig cfg = policy_loss_defaults(LOSS_GRPO);
    cfg.sequence_level = true, cfg.epsilon = cfg.epsilon_high = 0.1f;
    for (uint64_t trial = 0; trial < 10; trial++) {
        actions = 0;
        for (int i = 0; i < B * T; i++) {
            mask[i] = i % T < lengths[i / T], actions += mask[i];
            targets[i] = mask[i] ? 3 : IGNORE_TARGET;
            logp[i] = -1 - fabsf(rng_normal(1, trial, (uint64_t)i));
            old[i] = logp[i] + 0.3f * rng_normal(2, trial, (uint64_t)i);
        }
        PolicyBatch batch = {.targets = tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(B, T)),
                             .advantages = tensor_copy_in(&ctx, "a", F32, advantages, SHAPE(B)),
                             .old = tensor_copy_in(&ctx, "old", F32, old, SHAPE(B, T)),
                             .micro_batches = 1,
                             .completions = B,
                             .actions = actions};
        Tensor *stats, *x = tensor_copy_in(&ctx, "logp", F32, logp, SHAPE(B, T));
        float want = *test_values(&ctx, policy_loss(&ctx, x, &batch, &cfg, &stats));
        double got = gspo_loss(logp, old, mask, advantages, B, T, 0.1);
        cr_assert(fabs(got - (double)want) < 1e-5, "%g, but policy_loss() says %g", got, want);
    }
}
