/*
 * The policy loss: TRL's formulas by PyTorch (tools/goldens/09_grpo.py), finite differences, and
 * what must hold whatever the numbers are.
 */
#include "09_grpo/advantage.h"
#include "09_grpo/loss/policy_loss.h"

#include "common/program/testing.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define GOLDEN "09_grpo/goldens/policy.safetensors"

typedef struct Case {
    const char *name;
    LossType type;
    bool no_old, sampler, plain_kl;
    PolicyLossConfig cfg; /* what is not as it is by default */
} Case;

static const Case cases[] = {
    {.name = "grpo", .type = LOSS_GRPO},
    {.name = "dr_grpo", .type = LOSS_DR_GRPO},
    {.name = "bnpo", .type = LOSS_BNPO},
    {.name = "dapo", .type = LOSS_DAPO, .cfg = {.epsilon_high = 0.28f}},
    {.name = "cispo", .type = LOSS_CISPO, .cfg = {.epsilon_high = 1.2f}},
    {.name = "sapo", .type = LOSS_SAPO},
    {.name = "on_policy", .type = LOSS_DAPO, .no_old = true},
    {.name = "delta", .type = LOSS_DAPO, .cfg = {.delta = 1.5f}},
    {.name = "gspo",
     .type = LOSS_GRPO,
     .cfg = {.sequence_level = true, .epsilon = 0.05f, .epsilon_high = 0.06f}},
    {.name = "gspo_kl",
     .type = LOSS_GRPO,
     .cfg = {.sequence_level = true, .epsilon = 0.05f, .epsilon_high = 0.06f, .beta = 0.1f}},
    {.name = "kl_plain", .type = LOSS_GRPO, .plain_kl = true, .cfg = {.beta = 0.1f}},
    {.name = "kl_unbiased", .type = LOSS_GRPO, .cfg = {.beta = 0.1f}},
    {.name = "kl_on_policy", .type = LOSS_GRPO, .no_old = true, .cfg = {.beta = 0.1f}},
    {.name = "off_policy_mask",
     .type = LOSS_GRPO,
     .cfg = {.off_policy_mask_threshold = 0.05f, .beta = 0.1f}},
    {.name = "off_policy_mask_sampler",
     .type = LOSS_GRPO,
     .sampler = true,
     .cfg = {.off_policy_mask_threshold = 0.05f}},
};
enum { CASES = sizeof cases / sizeof *cases };

static PolicyLossConfig config_of(const Case *c) {
    PolicyLossConfig cfg = policy_loss_defaults(c->type);
    cfg.sequence_level = c->cfg.sequence_level;
    if (c->cfg.epsilon) cfg.epsilon = c->cfg.epsilon;
    if (c->cfg.epsilon_high) cfg.epsilon_high = c->cfg.epsilon_high;
    cfg.delta = c->cfg.delta, cfg.beta = c->cfg.beta;
    cfg.use_bias_correction_kl = !c->plain_kl;
    cfg.off_policy_mask_threshold = c->cfg.off_policy_mask_threshold;
    cfg.max_completion_length = 8;
    return cfg;
}

static PolicyBatch batch_of(Context *ctx, SafeTensors *file, const Case *c) {
    return (PolicyBatch){.targets = golden_tensor(ctx, file, "targets"),
                         .advantages = golden_tensor(ctx, file, "advantages"),
                         .old = c->no_old ? NULL : golden_tensor(ctx, file, "old"),
                         .reference = c->cfg.beta ? golden_tensor(ctx, file, "reference") : NULL,
                         .sampler = c->sampler ? golden_tensor(ctx, file, "sampler") : NULL,
                         .micro_batches = 2,
                         .completions = 12,
                         .actions = 57};
}

/* All is F32, whatever the activations are: a context of F32 on each device. */
static Context f32_context(Device device) { return test_context(device, F32); }

/* A gradient is one term; a loss adds up some thirty, each up to 0.05, most of which cancel, so it
 * is compared as a part of one of them. */
static void agrees_with_goldens(Device device) {
    Context ctx = f32_context(device);
    SafeTensors *file = golden_open(GOLDEN);
    for (int i = 0; i < CASES; i++) {
        const Case *c = &cases[i];
        PolicyLossConfig cfg = config_of(c);
        check_ok(policy_loss_check(&cfg, &err), &err);
        PolicyBatch batch = batch_of(&ctx, file, c);
        Tensor *logp = golden_tensor(&ctx, file, "logp"), *stats;
        ctx.recording = true;
        Tensor *loss = policy_loss(&ctx, logp, &batch, &cfg, &stats);
        tape_backward(&ctx, loss);
        char name[3][64];
        snprintf(name[0], 64, "%s.loss", c->name), snprintf(name[1], 64, "%s.grad", c->name);
        snprintf(name[2], 64, "%s.stats", c->name);
        float value = *test_values(&ctx, loss), want = *golden_values(file, name[0]);
        cr_assert_float_eq(value, want, 1e-6 * fmax(0.05, fabs(want)), "%s: %.9g, not %.9g",
                           name[0], value, want);
        check_close(name[1], test_gradient(&ctx, logp), golden_values(file, name[1]),
                    tensor_count(logp), 1e-6);
        const float *all = test_values(&ctx, stats);
        check_close(name[2],
                    (float[]){all[POLICY_KL], all[POLICY_LOW], all[POLICY_HIGH], all[POLICY_RATIO],
                              all[POLICY_DROPPED]},
                    golden_values(file, name[2]), 5, 1e-6);
        cr_assert_eq(all[POLICY_ACTIONS], 27);
        cr_assert_eq(all[POLICY_CLIP_UNITS], cfg.sequence_level ? 5 : 27);
        context_reset(&ctx);
    }
}

Test(policy_loss, agrees_with_goldens_cpu) { agrees_with_goldens(CPU); }

Test(policy_loss, agrees_with_goldens_cuda) {
    test_needs_gpu();
    agrees_with_goldens(CUDA);
}

/* A case that clips nothing and drops nothing could not fail: the goldens do both. */
Test(policy_loss, the_goldens_are_not_trivial) {
    SafeTensors *file = golden_open(GOLDEN);
    const char *const names[] = {"grpo", "dapo", "gspo"};
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.stats", names[i]);
        const float *stats = golden_values(file, name);
        cr_assert(stats[1] > 0 && stats[2] > 0, "%s: %g clipped below, %g above", name, stats[1],
                  stats[2]);
    }
    cr_assert(golden_values(file, "off_policy_mask.stats")[4] >= 1);
    cr_assert(golden_values(file, "cispo.stats")[2] > 0);
}

/* ---- finite differences ---- */

typedef struct Differentiated {
    Tensor *logp;
    PolicyBatch batch;
    PolicyLossConfig cfg;
} Differentiated;

static Tensor *loss_of(Context *ctx, void *user) {
    Differentiated *d = user;
    Tensor *stats;
    return policy_loss(ctx, d->logp, &d->batch, &d->cfg, &stats);
}

/* Not with cispo and reinforce-like factors that are held fixed, nor without an old policy: there
 * the gradient is not the value's. The step is small, so that no ratio crosses a clip on the way;
 * what rounding then does to the difference, check_gradients() allows for. */
CPU_TEST(policy_loss, finite_differences) {
    SafeTensors *file = golden_open(GOLDEN);
    for (int i = 0; i < CASES; i++) {
        const Case *c = &cases[i];
        if (c->type == LOSS_CISPO || c->no_old) continue;
        Differentiated d = {golden_tensor(&ctx, file, "logp"), batch_of(&ctx, file, c),
                            config_of(c)};
        check_gradients(&ctx, c->name, loss_of, &d, &d.logp, 1, 66, 1e-3, 1e-2);
        context_reset(&ctx);
    }
}

/* ---- by hand, and properties ---- */

enum { B = 4, T = 6 };

/* Completions of 3, 1, 6 and 2 actions; some log-probabilities. */
static const int first_action[B] = {1, 2, 0, 4}, length_of[B] = {3, 1, 6, 2};

typedef struct Small {
    int32_t targets[B][T];
    float logp[B][T], old[B][T], advantages[B];
} Small;

static Small small(void) {
    Small s = {.advantages = {1, -2, 0.5f, -1}};
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) {
            int k = t - first_action[b];
            s.targets[b][t] = k >= 0 && k < length_of[b] ? 3 : IGNORE_TARGET;
            s.logp[b][t] = -0.1f * (float)(1 + (7 * b + 3 * t) % 11);
            s.old[b][t] = s.logp[b][t] + 0.1f * (float)((5 * b + t) % 7 - 3);
        }
    return s;
}

/* The loss and the gradient [rows, T] of the rows from `first` on; step_tokens for dapo. */
static float run(Context *ctx, const Small *s, PolicyLossConfig cfg, int first, int rows,
                 int pieces, bool with_old, float *grad) {
    PolicyBatch batch = {
        .targets = tensor_copy_in(ctx, "targets", I32, s->targets[first], SHAPE(rows, T)),
        .advantages = tensor_copy_in(ctx, "advantages", F32, s->advantages + first, SHAPE(rows)),
        .old = with_old ? tensor_copy_in(ctx, "old", F32, s->old[first], SHAPE(rows, T)) : NULL,
        .micro_batches = pieces,
        .completions = B,
        .actions = 12};
    Tensor *logp = tensor_copy_in(ctx, "logp", F32, s->logp[first], SHAPE(rows, T)), *stats;
    logp->requires_grad = true;
    ctx->recording = true;
    Tensor *loss = policy_loss(ctx, logp, &batch, &cfg, &stats);
    tape_backward(ctx, loss);
    memcpy(grad, test_gradient(ctx, logp), (size_t)(rows * T) * sizeof *grad);
    return *test_values(ctx, loss);
}

static PolicyLossConfig config(LossType type) {
    PolicyLossConfig cfg = policy_loss_defaults(type);
    cfg.max_completion_length = 8;
    return cfg;
}

/* On-policy each action's gradient is -A times its weight, whatever the type: r = 1 clips nothing.
 * */
static void on_policy_gradients(Device device) {
    Context ctx = f32_context(device);
    Small s = small();
    for (LossType type = 0; policy_loss_names[type]; type++) {
        float grad[B][T];
        run(&ctx, &s, config(type), 0, B, 1, false, grad[0]);
        for (int b = 0; b < B; b++)
            for (int t = 0; t < T; t++) {
                double weight = type == LOSS_GRPO || type == LOSS_SAPO ? 1.0 / (B * length_of[b])
                                : type == LOSS_DR_GRPO                 ? 1.0 / (B * 8)
                                                                       : 1.0 / 12;
                double want = s.targets[b][t] < 0 ? 0 : -s.advantages[b] * weight;
                cr_assert_float_eq(grad[b][t], want, 1e-7, "%s [%d, %d]: %g, not %g",
                                   policy_loss_names[type], b, t, grad[b][t], want);
            }
        context_reset(&ctx);
    }
}

Test(policy_loss, on_policy_gradients_cpu) { on_policy_gradients(CPU); }

Test(policy_loss, on_policy_gradients_cuda) {
    test_needs_gpu();
    on_policy_gradients(CUDA);
}

/* dapo, cispo, dr_grpo and grpo: micro-batches of one and three completions are one of four. bnpo:
 * they are not, for the tokens of a micro-batch count by how many it has. */
CPU_TEST(policy_loss, micro_batches) {
    Small s = small();
    for (LossType type = 0; policy_loss_names[type]; type++) {
        float whole[B][T], parts[B][T];
        float one = run(&ctx, &s, config(type), 0, B, 1, true, whole[0]);
        float two = run(&ctx, &s, config(type), 0, 1, 2, true, parts[0]) +
                    run(&ctx, &s, config(type), 1, 3, 2, true, parts[1]);
        bool alike = fabsf(one - two) < 1e-6f && fabsf(whole[2][0] - parts[2][0]) < 1e-6f;
        bool depends = type == LOSS_BNPO || type == LOSS_PPO || type == LOSS_REINFORCE;
        cr_assert(alike != depends, "%s: %g, and %g in parts", policy_loss_names[type], one, two);
        if (!depends) check_close(policy_loss_names[type], parts[0], whole[0], B * T, 1e-6);
        context_reset(&ctx);
    }
}

/* PPO has one epsilon; epsilon_high moves dapo alone. REINFORCE looks at no ratio. */
CPU_TEST(policy_loss, ppo_and_reinforce) {
    Small s = small();
    PolicyLossConfig wide = config(LOSS_PPO);
    float narrow_grad[B][T], wide_grad[B][T], on[B][T], off[B][T];
    wide.epsilon_high = 5;
    float a = run(&ctx, &s, config(LOSS_PPO), 0, B, 1, true, narrow_grad[0]);
    float b = run(&ctx, &s, wide, 0, B, 1, true, wide_grad[0]);
    cr_assert_eq(a, b);
    wide.loss_type = LOSS_BNPO;
    cr_assert_neq(run(&ctx, &s, wide, 0, B, 1, true, wide_grad[0]), a);
    double mean = 0;
    for (int i = 0; i < B; i++)
        for (int t = 0; t < T; t++)
            if (s.targets[i][t] >= 0) mean -= s.advantages[i] * s.logp[i][t] / 12.0;
    float value = run(&ctx, &s, config(LOSS_REINFORCE), 0, B, 1, true, off[0]);
    cr_assert_float_eq(value, mean, 1e-6);
    run(&ctx, &s, config(LOSS_REINFORCE), 0, B, 1, false, on[0]);
    check_close("reinforce", off[0], on[0], B * T, 0);
}

/* With A < 0 a token that is already much less likely has no gradient, one that became likelier
 * has; with A > 0 the other way round. */
CPU_TEST(policy_loss, clips_on_the_right_side) {
    Small s = small();
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) s.old[b][t] = s.logp[b][t] + (t % 2 ? 1.0f : -1.0f);
    float grad[B][T];
    run(&ctx, &s, config(LOSS_DAPO), 0, B, 1, true, grad[0]);
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) {
            if (s.targets[b][t] < 0) continue;
            bool less_likely = t % 2, wanted_less = s.advantages[b] < 0;
            cr_assert((grad[b][t] == 0) == (less_likely == wanted_less), "[%d, %d]: %g", b, t,
                      grad[b][t]);
        }
}

/* A ratio out of all proportion, and completions without an action, leave finite numbers. */
static void extremes(Device device) {
    Context ctx = f32_context(device);
    Small s = small();
    for (int t = 0; t < T; t++) s.targets[1][t] = IGNORE_TARGET;
    s.old[0][1] = -500, s.old[2][0] = 500, s.advantages[2] = 0;
    for (int level = 0; level < 2; level++)
        for (LossType type = 0; policy_loss_names[type]; type++) {
            float grad[B][T];
            PolicyLossConfig cfg = config(type);
            cfg.sequence_level = level;
            float loss = run(&ctx, &s, cfg, 0, B, 1, true, grad[0]);
            cr_assert(isfinite(loss), "%s: %g", policy_loss_names[type], loss);
            for (int b = 0; b < B; b++)
                for (int t = 0; t < T; t++)
                    cr_assert(isfinite(grad[b][t]) && (s.targets[b][t] >= 0 || grad[b][t] == 0),
                              "%s [%d, %d]: %g", policy_loss_names[type], b, t, grad[b][t]);
            context_reset(&ctx);
        }
}

Test(policy_loss, extremes_cpu) { extremes(CPU); }

Test(policy_loss, extremes_cuda) {
    test_needs_gpu();
    extremes(CUDA);
}

Test(policy_loss, wrong_settings_are_named) {
    const struct {
        const char *part;
        PolicyLossConfig cfg;
    } rows[] = {
        {"epsilon is -1; it must be 0 or more", {.epsilon = -1}},
        {"epsilon_high is nan", {.epsilon_high = NAN}},
        {"delta is 1.1; it must be 0 (none) or more than 1 + epsilon_high",
         {.delta = 1.1f, .epsilon_high = 0.2f}},
        {"beta is -0.5", {.beta = -0.5f}},
        {"sapo_temperature_pos is 0", {.loss_type = LOSS_SAPO}},
        {"max_completion_length is 0",
         {.loss_type = LOSS_DR_GRPO, .sapo_temperature_pos = 1, .sapo_temperature_neg = 1}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cr_assert_eq(policy_loss_check(&rows[i].cfg, &err), -1, "%s", rows[i].part);
        cr_assert(strstr(err.text, rows[i].part), "%s", err.text);
    }
}
