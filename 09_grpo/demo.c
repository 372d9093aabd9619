/*
 * The demo: a small model is shown how answers look, and is stopped early; then it learns to give
 * the right ones from nothing but being told which of its own were right.
 */
#include "09_grpo/demo.h"

#include "common/program/plot.h"
#include "common/program/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOOK = 10, SHOWN = 4 }; /* steps between two looks at held-out questions; answers shown */

/* Some answers to one question that found different rewards, or to the first one. */
static void show_group(const Grpo *g) {
    GrpoSample s;
    int G = g->cfg.rollout.group, first = 0;
    for (int i = 0; grpo_sample(g, i, &s) == 0; i++)
        if (s.advantage != 0) {
            first = i / G * G;
            break;
        }
    printf("   %-12s %-10s %8s %10s\n", "prompt", "answer", "reward", "advantage");
    int better = 0, others = 0; /* up to half of what is shown are of each kind */
    for (int i = first; i < first + G && grpo_sample(g, i, &s) == 0; i++) {
        int *kind = s.advantage > 0 ? &better : &others;
        if (*kind == SHOWN / 2) continue;
        ++*kind;
        printf("   %-12s %-10s %8.2f %10.2f\n", s.prompt, s.text, s.reward, s.advantage);
    }
}

static void look(Demo *d, DemoCurve *c, Csv *csv, int step, const GrpoReport *r) {
    c->last = demo_accuracy(d);
    c->step[c->count] = step, c->accuracy[c->count++] = c->last;
    csv_row(csv, "%d,%.4f,%.4f,%.4f,%.4f,%.5f,%.4f,%.5f,%.4f,%.2e", step, c->last, r->reward,
            r->frac_reward_zero_std, r->entropy, r->loss, r->grad_norm, r->kl,
            r->clip_low + r->clip_high, r->logp_difference_max);
}

static int learn(Demo *d, Grpo *g, DemoCurve *curve, Csv *csv, Error *err) {
    const DemoOptions *o = &d->options;
    const Schedule schedule = {o->steps, 5, o->steps / 3, (float)o->lr, (float)o->lr / 20};
    Progress bar = progress_start("learning", o->steps);
    double tokens = 0, started = seconds_now();
    int idle = 0;
    GrpoReport r = {0};
    for (int step = 1; step <= o->steps; step++) {
        if (grpo_step(g, schedule_rate(&schedule, step - 1), &r, err)) return -1;
        tokens += (double)r.num_tokens, idle += r.updates == 0;
        if (step % LOOK == 0 || step == o->steps) look(d, curve, csv, step, &r);
        progress_update(&bar, step, "reward %.2f  held-out %.2f", r.reward, curve->last);
        if (step > 1 && step != o->steps / 2 && step != o->steps) continue;
        printf("   Some answers of step %d, to one question:\n", step);
        show_group(g);
    }
    progress_finish(&bar, "%.0f tokens/s drawn and learned from",
                    tokens / (seconds_now() - started));
    printf("   The last step: loss %.4f, reward %.2f, groups without a difference %.2f,\n"
           "   entropy %.3f nats, sampler and trainer apart by %.3g at most\n",
           r.loss, r.reward, r.frac_reward_zero_std, r.entropy, r.logp_difference_max);
    if (idle)
        printf("   In %d of the steps no answer was better than its siblings: no update.\n", idle);
    if (d->cfg.loss.beta != 0) printf("   KL to the reference %.4f nats a token\n", r.kl);
    return 0;
}

static int run(Demo *d, Error *err) {
    const DemoOptions *o = &d->options;
    const GrpoConfig *c = &d->cfg;
    Problem p;
    if (demo_open(d, err)) return -1;
    task_problem(&d->train.task, false, 0, &p);
    printf("1. The task: %s, \"%s%s\"\n", o->task, p.prompt, p.answer);
    printf("   %d layers of width %d, %lld numbers; %d questions are held out to judge by.\n\n",
           o->layers, o->hidden, (long long)params_count(&d->params), DEMO_HELD_OUT);

    printf("2. Teaching the form: right answers are shown, until %.0f %% are right\n",
           100 * o->stop_at);
    double before = demo_teach(d, 5000, err);
    if (before < 0) return -1;
    printf("   %lld examples; now the teacher leaves.\n\n", (long long)d->taught);

    printf("3. Learning from rewards: %d steps of %d questions x %d answers, loss %s\n", o->steps,
           c->rollout.prompts, c->rollout.group, policy_loss_names[c->loss.loss_type]);
    Grpo g;
    DemoCurve curve = {must_alloc((size_t)o->steps + 2, sizeof(double)),
                       must_alloc((size_t)o->steps + 2, sizeof(double)), 1, before};
    curve.accuracy[0] = before;
    Csv csv = figure_open(&d->ctx, o->common.csv,
                          "step,held_out,reward,frac_reward_zero_std,entropy,loss,grad_norm,kl,"
                          "clipped,logp_difference");
    csv_row(&csv, "0,%.4f,,,,,,,,", before);
    if (c->loss.beta != 0 && demo_freeze(d, err)) return -1;
    if (grpo_init(&g, &d->ctx, &d->decoder, c->loss.beta != 0 ? &d->reference : NULL, NULL,
                  &d->params, &d->adamw, c, demo_source(&d->train), err))
        return -1;
    g.state.prompts_drawn = (uint64_t)d->taught; /* questions that the teacher has not answered */
    if (learn(d, &g, &curve, &csv, err)) return -1;
    printf("\n");
    text_line_chart("   held-out accuracy", curve.step, curve.accuracy, curve.count, 8, 0);
    demo_beside(&curve);
    figure_close(&csv, "09_grpo/figures/reward");
    printf("\nTry: --lr 1e-2 (does it still learn?), --generations 2 (a baseline of two),\n"
           "     --task sort --digits 5, --rewards format (you get what you pay for),\n"
           "     --loss reinforce --iterations 4 (off-policy, and nothing holds it)\n");
    printf("held-out accuracy %.3f -> %.3f\n", before, curve.last);
    grpo_free(&g);
    return 0;
}

int main(int argc, char **argv) {
    static Demo d;
    DemoOptions *o = &d.options;
    GrpoConfig *c = &d.cfg;
    Error err;
    *c = grpo_defaults();
    c->rollout.prompts = 64, c->rollout.group = 8;
    *o = (DemoOptions){.common.csv = DEMO_OUT "reward.csv",
                       .task = "addition",
                       .digits = 2,
                       .layers = 2,
                       .hidden = 64,
                       .stop_at = 0.3,
                       .teaching_lr = 3e-3,
                       .lr = 1e-3,
                       .steps = 600};
    const Option flags[] = {
        OPT_STRING("task", 't', "NAME", &o->task,
                   "addition, subtraction, multiplication, sort or countdown"),
        OPT_INT("digits", 'd', "N", &o->digits, 1, 12, "Digits (countdown: numbers)"),
        OPT_FLAG("reversed", 'R', &o->reversed, "Answers begin with their last digit"),
        OPT_STRING("rewards", 'r', "LIST", &o->rewards,
                   "NAME=WEIGHT,...: accuracy, digits, countdown, format, length (default: what "
                   "the task is about)"),
        OPT_INT("layers", 'l', "N", &o->layers, 1, 16, "Layers of the model"),
        OPT_INT("hidden", 'H', "N", &o->hidden, 16, 512, "Its width, a multiple of 4"),
        OPT_FLOAT("stop-at", 'S', "X", &o->stop_at, 0, 1, "Accuracy at which teaching ends"),
        OPT_FLOAT("teaching-lr", 'T', "X", &o->teaching_lr, 0, 1, "Learning rate until then"),
        OPT_FLOAT("lr", 'x', "X", &o->lr, 0, 1, "Learning rate of GRPO, at its peak"),
        OPT_INT("steps", 's', "N", &o->steps, 1, 100000, "Steps of GRPO"),
        OPT_INT("prompts", 'P', "N", &c->rollout.prompts, 1, 4096, "Questions of a step"),
        OPT_INT("generations", 'G', "N", &c->rollout.group, 2, 4096, "Answers to each"),
        OPT_INT("iterations", 'i', "N", &c->num_iterations, 1, 64, "Updates from each rollout"),
        OPT_INT("dynamic", 'D', "N", &c->dynamic_sampling, 0, 64,
                "Rollouts a step may take to find groups with a difference"),
        OPT_CHOICE("loss", 'L', "NAME", &c->loss.loss_type, policy_loss_names, "Its loss"),
        OPT_FLOAT("beta", 'b', "X", &c->loss.beta, 0, 100, "Weight of the KL to what was taught"),
        OPT_CHOICE("scale", 'c', "NAME", &c->scale_rewards, scale_rewards_names,
                   "Whose deviation divides the rewards"),
        OPT_CSV(&o->common),
        OPT_COMMON(&o->common),
        OPT_END};
    options_parse(argc, argv,
                  "Teaches a small model the form of an answer; rewards teach it the rest.", flags);
    if (o->hidden % 4) options_error(argv, "--hidden %d: 4 heads share it", o->hidden);
    if (c->loss.loss_type == LOSS_CISPO) c->loss.epsilon_high = 5;
    options_open(&o->common, &d.ctx);
    printf("Can a model become good at what nobody shows it?\n\n");
    if (run(&d, &err)) fatal("%s", err.text);
    return 0;
}
