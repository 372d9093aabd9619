/*
 * The demo's first half: a model, a task, and supervised training that is stopped early.
 */
#include "09_grpo/demo.h"

#include "common/program/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- questions ---- */

static int make_prompt(void *self, uint64_t index, GrpoPrompt *prompt, Error *err) {
    const DemoSource *s = self;
    Problem problem;
    int32_t ids[PROBLEM_TEXT];
    task_problem(&s->task, s->held_out, index, &problem);
    int count = task_encode(problem.prompt, ids, PROBLEM_TEXT);
    if (count < 1) return error_set(err, "the problem \"%s\" cannot be written", problem.prompt);
    *prompt = (GrpoPrompt){must_alloc((size_t)count, sizeof *ids), count,
                           must_strdup(problem.prompt), must_strdup(problem.answer)};
    memcpy(prompt->ids, ids, (size_t)count * sizeof *ids);
    return 0;
}

static char *make_text(void *self, const int32_t *ids, int count) {
    (void)self;
    char *text = must_alloc((size_t)count + 1, 1);
    for (int i = 0; i < count; i++) text[i] = task_character(ids[i]);
    return text;
}

GrpoSource demo_source(DemoSource *source) { return (GrpoSource){source, make_prompt, make_text}; }

/* ---- the model ---- */

static int make_model(Demo *d, Params *params, Decoder *decoder, Error *err) {
    const DemoOptions *o = &d->options;
    const RolloutConfig *r = &d->cfg.rollout;
    DecoderConfig cfg = {.vocab_size = task_vocab_size(),
                         .num_hidden_layers = o->layers,
                         .places = r->max_prompt + r->max_completion_length};
    cfg.block = (BlockConfig){.hidden_size = o->hidden,
                              .intermediate_size = 3 * o->hidden,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {.hidden_size = o->hidden,
                                      .num_attention_heads = 4,
                                      .kv_lora_rank = o->hidden,
                                      .qk_nope_head_dim = o->hidden / 4,
                                      .v_head_dim = o->hidden / 4}};
    float std = 1 / sqrtf((float)o->hidden); /* keeps a row's length */
    params_init(params, &d->ctx);
    if (decoder_check(&cfg, err)) return -1;
    decoder_register(decoder, params, &cfg);
    if (params_allocate(params, true, err)) return -1;
    decoder_randomize(params, decoder, (DecoderStart){0.5f, std, std, std});
    return 0;
}

int demo_freeze(Demo *d, Error *err) {
    if (make_model(d, &d->frozen, &d->reference, err)) return -1;
    for (int i = 0; i < d->params.count; i++) {
        const Tensor *w = d->params.list[i];
        float *numbers = must_alloc((size_t)tensor_count(w), sizeof *numbers);
        params_get(&d->params, w, numbers);
        params_set(&d->frozen, d->frozen.list[i], numbers);
        free(numbers);
    }
    return 0;
}

/* The longest prompt and answer of many. */
static void measure(Demo *d) {
    RolloutConfig *r = &d->cfg.rollout;
    for (int i = 0; i < 2000; i++) {
        Problem p;
        task_problem(&(i % 2 ? &d->held_out : &d->train)->task, i % 2, (uint64_t)i, &p);
        int prompt = (int)strlen(p.prompt), answer = (int)strlen(p.answer) + 1;
        if (prompt > r->max_prompt) r->max_prompt = prompt;
        if (answer > r->max_completion_length) r->max_completion_length = answer;
    }
}

int demo_open(Demo *d, Error *err) {
    const DemoOptions *o = &d->options;
    GrpoConfig *c = &d->cfg;
    const Task *task = task_find(o->task, err);
    if (!task) return -1;
    d->train.task = (TaskConfig){task, o->digits, o->reversed, o->common.seed};
    d->held_out =
        (DemoSource){{task, o->digits, o->reversed, 0}, true}; /* the same for all seeds */
    c->reward_count = rewards_parse(c->rewards, o->rewards ? o->rewards : task_reward(task), err);
    if (c->reward_count < 0 || task_check(&d->train.task, err)) return -1;
    measure(d);
    c->rollout.end = TASK_END;
    c->sampling.seed = o->common.seed;
    d->adamw = adamw_defaults();
    d->adamw.weight_decay = 0;
    if (grpo_check(c, err) || make_model(d, &d->params, &d->decoder, err)) return -1;
    RolloutConfig judge = c->rollout;
    judge.prompts = DEMO_HELD_OUT, judge.group = 1;
    return rollouts_init(&d->judge, &d->ctx, &d->decoder, NULL, &judge, err);
}

double demo_accuracy(Demo *d) {
    const Sampling greedy = {.temperature = 0};
    const GrpoSource source = demo_source(&d->held_out);
    GrpoScore score;
    Error err;
    const WeightedReward right = {reward_find(task_reward(d->held_out.task.task), &err), 1};
    if (grpo_score(&d->judge, &source, &right, 1, 0, DEMO_HELD_OUT, &greedy, &score, &err))
        fatal("%s", err.text);
    return score.pass_1;
}

/* ---- supervised training ---- */

/* One step on DEMO_TEACHING examples: the answer's tokens are targets, the prompt's are not. */
static float teach_step(Demo *d, float lr) {
    Context *ctx = &d->ctx;
    Sequence list[DEMO_TEACHING];
    int32_t ids[DEMO_TEACHING][2 * PROBLEM_TEXT], order[DEMO_TEACHING];
    for (int i = 0; i < DEMO_TEACHING; i++) {
        Problem p;
        task_problem(&d->train.task, false, (uint64_t)d->taught++, &p);
        int prompt = task_encode(p.prompt, ids[i], PROBLEM_TEXT);
        int answer = task_encode(p.answer, ids[i] + prompt, PROBLEM_TEXT);
        ids[i][prompt + answer] = TASK_END;
        list[i] = (Sequence){ids[i], prompt, answer + 1, false};
        order[i] = i;
    }
    Tensor *in, *targets;
    sequences_batch(ctx, &(SequenceRows){list, order, DEMO_TEACHING}, &in, &targets);
    params_zero_grad(&d->params);
    ctx->recording = true;
    Tensor *loss = decoder_loss(ctx, &d->decoder, in, targets, NULL);
    tape_backward(ctx, loss);
    adamw_step(&d->adamw, &d->params, lr, 1);
    float value;
    tensor_download(ctx, &value, loss);
    context_reset(ctx);
    return value;
}

double demo_teach(Demo *d, int most, Error *err) {
    enum { WARMUP = 20, LOOK = 10 };
    Progress bar = progress_start("teaching", most);
    double accuracy = 0;
    int step = 0;
    while (step < most && accuracy < d->options.stop_at) {
        step++;
        float lr = (float)d->options.teaching_lr * fminf(1, (float)step / WARMUP);
        float loss = teach_step(d, lr);
        if (!isfinite(loss))
            return error_set(err,
                             "the loss is not finite after %d steps; take a smaller "
                             "--teaching-lr",
                             step);
        if (step % LOOK == 0) accuracy = demo_accuracy(d);
        progress_update(&bar, step, "loss %.3f  accuracy %.2f", loss, accuracy);
    }
    progress_finish(&bar, "%d steps, accuracy %.2f", step, accuracy);
    return accuracy;
}
