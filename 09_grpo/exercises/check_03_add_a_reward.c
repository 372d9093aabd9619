/* What the reward says; and that a policy learns from it. */
#include "09_grpo/rewards/rewards.h"
#include "09_grpo/tests/test_grpo.h"

#include <math.h>

float reward_near(const Answer *answer);

Test(add_a_reward, says) {
    const struct {
        Answer answer;
        float want;
    } rows[] = {
        {{.text = "112", .expected = "112", .ended = true}, 1},
        {{.text = "113", .expected = "112", .ended = true}, 0.5f},
        {{.text = "108", .expected = "112", .ended = true}, 0.2f},
        {{.text = "042", .expected = "42", .ended = true}, 1},
        {{.text = "112", .expected = "112", .ended = false}, 0},
        {{.text = "", .expected = "0", .ended = true}, 0},
        {{.text = "42+", .expected = "42", .ended = true}, 0},
        {{.text = "-1", .expected = "1", .ended = true}, 0},
        {{.text = "112", .ended = true}, NAN},
        {{.text = "3*7", .expected = "3*7", .ended = true}, NAN},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        float got = reward_near(&rows[i].answer);
        cr_assert(isnan(rows[i].want) ? isnan(got) : fabsf(got - rows[i].want) < 1e-6f,
                  "\"%s\" instead of \"%s\"%s: %g, not %g", rows[i].answer.text,
                  rows[i].answer.expected ? rows[i].answer.expected : "(nothing)",
                  rows[i].answer.ended ? "" : ", cut off", got, rows[i].want);
    }
}

CPU_TEST(add_a_reward, teaches) {
    static Module m;
    static Grpo g;
    static const Reward near = {"near", reward_near, ""};
    AdamW adamw = adamw_defaults();
    TaskConfig task = {task_find("addition", &err), .digits = 1, .seed = 1};
    GrpoConfig cfg = grpo_defaults();
    GrpoReport r;
    double first = 0, last = 0;
    cfg.rollout = (RolloutConfig){16, 8, 4, 3, TASK_END, false, false, false};
    cfg.rewards[0] = (WeightedReward){&near, 1}, cfg.reward_count = 1;
    module_init(&m, &ctx);
    check_ok(grpo_init(&g, &ctx, &m.decoder, NULL, NULL, &m.params, &adamw, &cfg,
                       (GrpoSource){&task, task_prompt, task_text}, &err),
             &err);
    for (int i = 0; i < 60; i++) {
        check_ok(grpo_step(&g, 3e-3f, &r, &err), &err);
        first += i < 5 ? r.reward / 5 : 0, last += i >= 55 ? r.reward / 5 : 0;
    }
    grpo_free(&g);
    cr_assert(last > first + 0.1, "from %g to %g: it pays too little for what is nearly right",
              first, last);
}
