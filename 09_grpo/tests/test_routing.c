/*
 * Models with experts: sampler and trainer agree about them, too; what was kept of the routing is
 * what the trainer uses, whatever its own router would say by then; and padding is nobody's.
 */
#include "09_grpo/tests/test_grpo.h"

#include "09_grpo/grpo_batch.h"

#include <math.h>

enum { P = 3, G = 4, MAX_PROMPT = 9, MAX_NEW = 7 };

static int32_t prompt_0[] = {3, 1, 4, 1, 5, 9, 2, 6, 5}, prompt_1[] = {12},
               prompt_2[] = {2, 7, 1, 8};
static int32_t *const prompts[P] = {prompt_0, prompt_1, prompt_2};
static const int lengths[P] = {9, 1, 4};
static const Sampling sampling = {.temperature = 1, .top_p = 1, .seed = 3};
static const RolloutConfig config = {
    P, G, MAX_PROMPT, MAX_NEW, TASK_END, .keep_routing = true, .fast = false};

typedef struct Drawn {
    Module m;
    Rollouts r;
    GrpoBatch batch; /* of which only sequences and experts are there */
    Sequence list[P * G];
    int32_t order[P * G];
    int16_t *experts[P * G];
    SequenceRows rows;
    int real; /* tokens that are no padding */
} Drawn;

/* Its address must not change. The second rollout counts: on a GPU the captured step is launched
 * again, in which the experts' place is fixed. */
static void draw(Drawn *d, Context *ctx, RolloutConfig cfg) {
    module_with(&d->m, ctx, true);
    check_ok(rollouts_init(&d->r, ctx, &d->m.decoder, NULL, &cfg, &err), &err);
    check_ok(rollouts_draw(&d->r, prompts, lengths, &sampling, 100, &err), &err);
    check_ok(rollouts_draw(&d->r, prompts, lengths, &sampling, 0, &err), &err);
    for (int i = 0; i < P * G; i++) {
        Completion c = rollouts_completion(&d->r, i);
        d->list[i] = c.sequence, d->order[i] = i;
        d->experts[i] = (int16_t *)c.experts;
        d->real += c.sequence.prompt_tokens + c.sequence.tokens - 1;
    }
    d->rows = (SequenceRows){d->list, d->order, P * G};
    d->batch.sequences = d->list, d->batch.experts = cfg.keep_routing ? d->experts : NULL;
}

/* The largest difference between the sampler's log-probabilities and the trainer's. */
static double gap(Drawn *d, Context *ctx, bool kept) {
    float numbers[P * G][MAX_NEW], *trainer[P * G];
    double largest = 0;
    Tensor *ids, *targets;
    for (int i = 0; i < P * G; i++) trainer[i] = numbers[i];
    sequences_batch(ctx, &d->rows, &ids, &targets);
    const Tensor *const *replay = grpo_batch_replay(ctx, &d->batch, &d->rows, &d->m.decoder, kept);
    TokenLogprobs y = decoder_logprobs(ctx, &d->m.decoder, NULL, ids, targets, 1, NULL, replay);
    sequences_gather(ctx, &d->rows, y.logprobs, trainer);
    for (int i = 0; i < P * G; i++)
        for (int k = 0; k < d->list[i].tokens; k++)
            largest =
                fmax(largest, fabs(numbers[i][k] - rollouts_completion(&d->r, i).logprobs[k]));
    return largest;
}

/* On the CPU the routers agree by themselves, and a replay changes nothing. In BF16 scores that are
 * nearly equal may be the other way round, once kept not any more. */
CONTEXT_TEST(routing, sampler_and_trainer_agree) {
    static Drawn d;
    d = (Drawn){0};
    draw(&d, &ctx, config);
    double kept = gap(&d, &ctx, true), free_choice = gap(&d, &ctx, false);
    double tolerance = device == CPU ? 0 : dtype == BF16 ? 6e-2 : 1e-5;
    cr_assert(kept <= tolerance, "%g", kept);
    cr_assert(dtype == BF16 || free_choice <= tolerance, "%g", free_choice);
    rollouts_free(&d.r);
}

/* A bias chooses and does not weigh. With another one the router sends tokens elsewhere, and their
 * probabilities change; sent where they were, they have those of before. */
CONTEXT_TEST(routing, what_was_kept_is_used) {
    static Drawn d;
    d = (Drawn){0};
    draw(&d, &ctx, config);
    float bias[EXPERTS];
    for (int e = 0; e < EXPERTS; e++) bias[e] = e % 2 ? 0.5f : 0;
    params_set(&d.m.params, d.m.decoder.layers[1].moe.router.bias, bias);
    double kept = gap(&d, &ctx, true), free_choice = gap(&d, &ctx, false);
    cr_assert(kept <= (device == CPU ? 0 : dtype == BF16 ? 6e-2 : 1e-5), "%g", kept);
    cr_assert(free_choice > 0.1, "%g", free_choice);
    rollouts_free(&d.r);
}

/* What is counted are the tokens that are there, each CHOSEN times, with or without a replay; and
 * the gradient is that of sequences without padding. */
CONTEXT_TEST(routing, padding_is_nobodys) {
    static Drawn d;
    d = (Drawn){0};
    draw(&d, &ctx, config);
    cr_assert(d.real < P * G * sequences_width(&d.rows), "there is padding");
    for (int kept = 0; kept < 2; kept++) {
        int32_t load[EXPERTS], sum = 0;
        ctx.recording = true;
        gap(&d, &ctx, kept);
        tensor_download_ints(&ctx, load, d.m.decoder.layers[1].moe.load);
        for (int e = 0; e < EXPERTS; e++) sum += load[e];
        cr_assert_eq(sum, (kept + 1) * d.real * CHOSEN, "%d, not %d x %d", sum, d.real, CHOSEN);
        context_reset(&ctx);
    }
    rollouts_free(&d.r);
}

typedef struct Learned {
    Drawn *d;
    Tensor *ids, *targets;
    const Tensor *c;
    bool kept;
} Learned;

static Tensor *loss_of(Context *ctx, void *user) {
    Learned *l = user;
    const Tensor *const *replay =
        grpo_batch_replay(ctx, &l->d->batch, &l->d->rows, &l->d->m.decoder, l->kept);
    TokenLogprobs y =
        decoder_logprobs(ctx, &l->d->m.decoder, NULL, l->ids, l->targets, 1, NULL, replay);
    return weighted_sum(ctx, y.logprobs, l->c);
}

/* With experts that are not the router's own: the gradient runs through the scores of those that
 * came in. */
CPU_TEST(routing, finite_differences) {
    static Drawn d;
    d = (Drawn){0};
    draw(&d, &ctx, config);
    float bias[EXPERTS] = {0, 0.5f, 0, 0.5f, 0, 0.5f, 0, 0.5f};
    const Moe *moe = &d.m.decoder.layers[1].moe;
    params_set(&d.m.params, moe->router.bias, bias);
    Learned l = {.d = &d, .kept = true};
    sequences_batch(&ctx, &d.rows, &l.ids, &l.targets);
    l.c = test_normal(&ctx, "c", 90, SHAPE(P * G, sequences_width(&d.rows)));
    check_gradients(&ctx, "replayed", loss_of, &l, (Tensor *[]){moe->router.weight, moe->gate_proj},
                    2, 40, 1e-2, 2e-2);
    rollouts_free(&d.r);
}
