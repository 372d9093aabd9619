/*
 * The table of grpo_flags.h.
 */
#include "10_full_model/reinforce/grpo_flags.h"

static const char *const no_yes[] = {"no", "yes", NULL}, *const levels[] = {"token", "sequence",
                                                                            NULL};

/* Prompts, answers and rewards. */
static int rollout_rows(Option *rows, GrpoRunOptions *o) {
    GrpoConfig *g = &o->grpo;
    RolloutConfig *r = &g->rollout;
    Sampling *s = &g->sampling;
    const int64_t most = (int64_t)1 << 40;
    const Option list[] = {
        OPT_HEAD("How long:"),
        OPT_INT("steps", 0, "N", &o->schedule.steps, 1, most, "Steps: rollouts to learn from"),
        OPT_INT("eval-every", 0, "N", &o->eval_interval, 1, 1 << 30,
                "Look at held-out questions, show samples and save every N steps", .setting = true),
        OPT_INT("eval-prompts", 0, "N", &o->eval_prompts, 1, 1 << 20, "Held-out questions",
                .setting = true),
        OPT_INT("num-generations-eval", 0, "K", &o->num_generations_eval, 1, 4096,
                "Answers to each of them, for pass@1 and pass@K", .setting = true),
        OPT_HEAD("Questions and answers:"),
        OPT_INT("prompts", 0, "N", &r->prompts, 1, 65536, "Questions of a step", .setting = true),
        OPT_INT("num-generations", 0, "G", &r->group, 1, 4096, "Answers to each: a group",
                .setting = true),
        OPT_INT("max-completion-length", 0, "N", &r->max_completion_length, 1, 1 << 20,
                "Tokens of an answer, its end among them (default: of a task what its answers "
                "need, else 512 or half of the context)",
                .setting = true),
        OPT_FLOAT("temperature", 0, "X", &s->temperature, 0, 100, "Of drawing", .setting = true),
        OPT_FLOAT("top-p", 0, "X", &s->top_p, 1e-6, 1, "Draw from the likeliest that reach X",
                  .setting = true),
        OPT_INT("top-k", 0, "K", &s->top_k, 0, 1 << 20, "Draw from the K likeliest; 0: from all",
                .setting = true),
        OPT_FLOAT("min-p", 0, "X", &s->min_p, 0, 1,
                  "Draw only what is at least X times as likely as the likeliest", .setting = true),
        OPT_CHOICE("keep-sampling-mask", 0, "no|yes", &r->keep_support, no_yes,
                   "Where these three cut off: learn with the same tokens left (DeepSeek-V3.2; "
                   "default yes)",
                   .setting = true),
        OPT_CHOICE("keep-routing", 0, "no|yes", &r->keep_routing, no_yes,
                   "Tokens go to the experts again that they were drawn with (DeepSeek-V3.2)",
                   .setting = true),
        OPT_CHOICE("fast-rollouts", 0, "no|yes", &r->fast, no_yes,
                   "On the CPU draw by decoding's own kernels: sampler and trainer differ a little",
                   .setting = true),
        OPT_INT("dynamic-sampling", 0, "N", &g->dynamic_sampling, 0, 1000,
                "Rollouts a step may take to find groups with a difference (DAPO); 0: one",
                .setting = true),
        OPT_CHOICE("mask-truncated-completions", 0, "no|yes", &g->mask_truncated_completions,
                   no_yes, "Learn nothing from answers without an end", .setting = true),
        OPT_INT("num-completions-to-print", 0, "N", &o->num_completions_to_print, 0, 100,
                "Rows of a table of samples; 0: none"),
    };
    int count = sizeof list / sizeof *list;
    for (int i = 0; i < count; i++) rows[i] = list[i];
    return count;
}

static int loss_rows(Option *rows, GrpoRunOptions *o) {
    GrpoConfig *g = &o->grpo;
    PolicyLossConfig *l = &g->loss;
    const Option list[] = {
        OPT_HEAD("The loss:"),
        OPT_CHOICE("loss-type", 0, "NAME", &l->loss_type, policy_loss_names,
                   "grpo, dr_grpo, bnpo, dapo, cispo, sapo; or ppo, reinforce", .setting = true),
        OPT_CHOICE("scale-rewards", 0, "NAME", &g->scale_rewards, scale_rewards_names,
                   "Whose deviation divides rewards: group, batch, none", .setting = true),
        OPT_CHOICE("importance-sampling-level", 0, "NAME", &l->sequence_level, levels,
                   "A ratio for each token, or one for the sequence (GSPO)", .setting = true),
        OPT_FLOAT("epsilon", 0, "X", &l->epsilon, 0, 1e6, "Of the clip", .setting = true),
        OPT_FLOAT("epsilon-high", 0, "X", &l->epsilon_high, 0, 1e6,
                  "Of its upper side (default: epsilon; of cispo 5, the cap itself)",
                  .setting = true),
        OPT_FLOAT("delta", 0, "X", &l->delta, 0, 1e6,
                  "Largest ratio of the side that is not clipped; 0: any", .setting = true),
        OPT_FLOAT("beta", 0, "X", &l->beta, 0, 1e6,
                  "Weight of the KL to the reference; 0: there is none", .setting = true),
        OPT_CHOICE("use-bias-correction-kl", 0, "no|yes", &l->use_bias_correction_kl, no_yes,
                   "That KL times the ratio: unbiased (V3.2)", .setting = true),
        OPT_FLOAT("off-policy-mask-threshold", 0, "X", &l->off_policy_mask_threshold, 0, 1e6,
                  "Leave out bad answers that became less likely by more (V3.2); 0: none",
                  .setting = true),
        OPT_FLOAT("sapo-temperature-pos", 0, "X", &l->sapo_temperature_pos, 0, 1e6, "Of sapo",
                  .setting = true),
        OPT_FLOAT("sapo-temperature-neg", 0, "X", &l->sapo_temperature_neg, 0, 1e6, "Of sapo",
                  .setting = true),
        OPT_INT("num-iterations", 0, "N", &g->num_iterations, 1, 1000, "Passes over a rollout",
                .setting = true),
        OPT_INT("mini-batches", 0, "N", &g->mini_batches, 1, 65536, "Updates in a pass",
                .setting = true),
        OPT_INT("micro-batch", 0, "N", &g->micro_batch, 0, 1 << 24,
                "Answers at once, as memory allows; 0: all of an update", .setting = true),
        OPT_CHOICE("sync-ref-model", 0, "no|yes", &o->sync_ref_model, no_yes,
                   "Replace the reference now and then", .setting = true),
        OPT_INT("ref-model-sync-steps", 0, "N", &o->ref_model_sync_steps, 1, 1 << 30,
                "Every N steps", .setting = true),
        OPT_FLOAT("ref-model-mixup-alpha", 0, "X", &o->ref_model_mixup_alpha, 0, 1,
                  "By X of the policy and 1 - X of itself", .setting = true),
    };
    int count = sizeof list / sizeof *list;
    for (int i = 0; i < count; i++) rows[i] = list[i];
    return count;
}

static int optimizer_rows(Option *rows, GrpoRunOptions *o) {
    const int64_t most = (int64_t)1 << 40;
    Schedule *s = &o->schedule;
    const Option list[] = {
        OPT_HEAD("The optimizer:"),
        OPT_FLOAT("learning-rate", 0, "X", &s->peak, 0, 1e30,
                  "The highest (default 0.0001, for small models; TRL's 1e-6 is for billions)"),
        OPT_FLOAT("lowest-rate", 0, "X", &s->floor, 0, 1e30,
                  "At the end (default: a tenth of the highest)"),
        OPT_INT("warmup", 0, "N", &s->warmup, 0, most,
                "Steps until the learning rate is up (default 10, of a short run a quarter)"),
        OPT_INT("constant", 0, "N", &s->constant, 0, most,
                "Steps for which it stays there; a cosine does the rest"),
        OPT_FLOAT("weight-decay", 0, "X", &o->adamw.weight_decay, 0, 100, "Of matrices",
                  .setting = true),
        OPT_FLOAT("clip", 0, "X", &o->adamw.clip, 0, 1e30, "Largest norm of the gradient; 0: any",
                  .setting = true),
    };
    int count = sizeof list / sizeof *list;
    for (int i = 0; i < count; i++) rows[i] = list[i];
    return count;
}

GrpoFlags grpo_flags(GrpoRunOptions *o) {
    GrpoFlags flags;
    int count = rollout_rows(flags.rows, o);
    count += loss_rows(flags.rows + count, o);
    count += optimizer_rows(flags.rows + count, o);
    flags.rows[count++] = (Option)OPT_END;
    CHECK(count <= (int)(sizeof flags.rows / sizeof *flags.rows), "%d flags", count);
    return flags;
}

void grpo_flags_not_given(GrpoRunOptions *o) {
    o->grpo.rollout.max_completion_length = 0;
    o->grpo.rollout.keep_support = true;
    o->grpo.loss.epsilon_high = -1;
}

void grpo_flags_usual(GrpoRunOptions *o) {
    const Sampling *s = &o->grpo.sampling;
    PolicyLossConfig *l = &o->grpo.loss;
    if (l->epsilon_high < 0)
        l->epsilon_high =
            l->loss_type == LOSS_CISPO ? policy_loss_defaults(LOSS_CISPO).epsilon_high : l->epsilon;
    bool cuts = s->top_p < 1 || s->top_k > 0 || s->min_p > 0;
    if (!cuts) o->grpo.rollout.keep_support = false; /* nothing is cut off */
}
