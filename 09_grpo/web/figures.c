/*
 * Figures of chapter 09 for the book: the advantages of a group; a policy over ten answers that
 * draws, is rewarded and learns, step by step; and what a token's ratio does to its gradient.
 */
#include "09_grpo/advantage.h"
#include "09_grpo/loss/policy_loss.h"
#include "09_grpo/loss/policy_terms.h"
#include "09_grpo/loss/token_logprobs.h"
#include "common/program/web.h"
#include "common/text/sampler.h"

#include <math.h>
#include <string.h>

enum { MOST = 32, ANSWERS = 10, POINTS = 81 };

/* rewards (1 to 32 of them), scale (0: by the group's deviation, 1: not) -> advantages, mean,
 * std. */
WEB(group) {
    float rewards[MOST], advantages[MOST];
    AdvantageReport report;
    Error err;
    int n = web_list(rewards, MOST, "rewards", -1e3, 1e3);
    web_value("count", n);
    if (n < 2) return;
    ScaleRewards scale = web_int("scale", 0, 1) ? SCALE_NONE : SCALE_GROUP;
    if (advantages_of(advantages, rewards, 1, n, scale, &report, &err)) fatal("%s", err.text);
    web_floats("rewards", rewards, n);
    web_floats("advantages", advantages, n);
    web_value("mean", report.mean);
    web_value("std", report.std);
}

/* ---- a policy of ten numbers ---- */

static float logits[ANSWERS]; /* kept from step to step */

/* Which answers are right: the one that is asked for; an odd one counts a little, if so wished. */
static float reward_of(int answer, int right, int generous) {
    return answer == right ? 1 : generous && answer % 2 == right % 2 ? 0.3f : 0;
}

/* step (0: begin anew), group, rate, generous -> what was drawn [group], rewards, advantages, and
 * the policy before and after one step of gradient descent on the policy loss. */
WEB(learn) {
    enum { STEPS = 60, RIGHT = 7 };
    int step = web_int("step", 0, STEPS - 1), group = web_int("group", 2, 16);
    int generous = web_int("generous", 0, 1);
    float rate = (float)web_number("rate", 0, 20), rewards[MOST], advantages[MOST];
    float before[ANSWERS], after[ANSWERS];
    int32_t drawn[MOST];
    Sampling plain = {.temperature = 1, .top_p = 1};
    Error err;
    Context ctx;
    if (!step)
        for (int i = 0; i < ANSWERS; i++) logits[i] = rng_normal(11, 1, (uint64_t)i);
    sample_probabilities(before, logits, ANSWERS, &plain);
    for (int i = 0; i < group; i++) {
        drawn[i] =
            sample_token(logits, ANSWERS, &plain, rng_uniform(12, (uint64_t)step, (uint64_t)i)).id;
        rewards[i] = reward_of(drawn[i], RIGHT, generous);
    }
    if (advantages_of(advantages, rewards, 1, group, SCALE_GROUP, NULL, &err))
        fatal("%s", err.text);

    web_context(&ctx, 1); /* the group as a batch of answers of one token each */
    ctx.recording = true;
    Tensor *z = tensor_new(&ctx, "logits", F32, SHAPE(group, 1, ANSWERS)), *stats;
    for (int i = 0; i < group; i++) memcpy((float *)z->data + i * ANSWERS, logits, sizeof logits);
    Tensor *targets = tensor_copy_in(&ctx, "targets", I32, drawn, SHAPE(group, 1));
    Tensor *a = tensor_copy_in(&ctx, "advantages", F32, advantages, SHAPE(group));
    PolicyLossConfig cfg = policy_loss_defaults(LOSS_GRPO);
    PolicyBatch batch = {.targets = targets,
                         .advantages = a,
                         .micro_batches = 1,
                         .completions = group,
                         .actions = group};
    TokenLogprobs logp = token_logprobs(&ctx, z, targets, 1, NULL);
    tape_backward(&ctx, policy_loss(&ctx, logp.logprobs, &batch, &cfg, &stats));
    float gradient[ANSWERS] = {0};
    for (int i = 0; i < group * ANSWERS && z->has_grad; i++)
        gradient[i % ANSWERS] += ((float *)z->grad->data)[i];
    for (int i = 0; i < ANSWERS; i++) logits[i] -= rate * gradient[i];
    sample_probabilities(after, logits, ANSWERS, &plain);

    web_ints("drawn", drawn, group);
    web_floats("rewards", rewards, group);
    web_floats("advantages", advantages, group);
    web_floats("before", before, ANSWERS);
    web_floats("after", after, ANSWERS);
    web_floats("gradient", gradient, ANSWERS);
    web_value("right", RIGHT);
    web_value("progress", (step + 1.0) / STEPS);
    web_value("done", step + 1 == STEPS);
    context_free(&ctx);
}

/* advantage, epsilon, epsilon_high, cap -> for ratios 0 .. 4: minus the term (what is made larger)
 * of clip, cispo and sapo, and the pull on log pi: minus both derivatives. */
WEB(clip) {
    float ratio[POINTS], value[2 * POINTS], pull[3 * POINTS];
    float a = (float)web_number("advantage", -2, 2), low = (float)web_number("epsilon", 0, 1);
    float high = (float)web_number("epsilon_high", 0, 4), cap = (float)web_number("cap", 1, 10);
    for (int i = 0; i < POINTS; i++) {
        float r = ratio[i] = 0.02f + 4.0f * (float)i / (POINTS - 1);
        PolicyTerm terms[3] = {policy_clipped(r, a, low, high, 0), policy_cispo(r, a, logf(r), cap),
                               policy_sapo(r, a, a < 0 ? 1.05f : 1)};
        value[i] = -terms[0].value, value[POINTS + i] = -terms[2].value;
        for (int t = 0; t < 3; t++) pull[t * POINTS + i] = -(terms[t].direct + terms[t].through);
    }
    web_floats("ratio", ratio, POINTS);
    web_floats("value", value, 2 * POINTS);
    web_floats("pull", pull, 3 * POINTS);
}
