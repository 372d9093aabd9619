/*
 * Runs that learn from rewards: stopped in the middle and resumed they end in the same bits; the
 * reference moves when it should; the log says what happened, and nothing is said to be learned
 * where nothing was.
 */
#include "10_full_model/reinforce/grpo_log.h"
#include "10_full_model/reinforce/grpo_run.h"
#include "10_full_model/tests/test_world.h"
#include "10_full_model/train/train.h"

#include "09_grpo/reference.h"

#include <math.h>

enum { P = 2, G = 4 };

/* ---- rewards of a model that knows nothing ---- */

static int calls, alarm_at; /* a call of the reward that sends SIGINT; 0: none */

/* The share of tokens that are bytes below "a": there are some in all answers. */
static float low_bytes(const Answer *a) {
    if (++calls == alarm_at) raise(SIGINT);
    int count = 0, all = 1;
    for (const unsigned char *c = (const unsigned char *)a->text; *c; c++, all++) count += *c < 'a';
    return (float)count / (float)all;
}

static float nothing(const Answer *a) {
    (void)a;
    return 0.25f;
}

static float abstains(const Answer *a) {
    (void)a;
    return NAN;
}

static const Reward reward_low = {"low", low_bytes, ""}, reward_nothing = {"nothing", nothing, ""},
                    reward_silent = {"silent", abstains, ""};

/* ---- a run ---- */

typedef struct Setup {
    World w;
    Model reference;
    Questions q;
    GrpoRunOptions o;
} Setup;

/* Its address must not change. */
static void set_up(Setup *s, Device device, DType dtype, const Reward *reward, const char *out) {
    *s = (Setup){0};
    Tokenizer *tokenizer = tokenizer_train("0", 1, 257, NULL, NULL, &err);
    world_model(&s->w, device, dtype, tiny_even_config(257), true);
    const QuestionOptions questions = {
        .from = "addition", .digits = 1, .most_prompt = 64, .most = 64};
    check_ok(questions_open(&s->q, tokenizer, -1, &questions, &err), &err);
    GrpoRunOptions *o = &s->o;
    *o = grpo_run_defaults();
    o->schedule = (Schedule){.steps = 9, .warmup = 2, .constant = 3, .peak = 1e-3f};
    o->grpo.rollout = (RolloutConfig){.prompts = P,
                                      .group = G,
                                      .max_prompt = s->q.longest_prompt,
                                      .max_completion_length = 5,
                                      .end = s->q.end};
    o->grpo.rewards[0] = (WeightedReward){reward, 1}, o->grpo.reward_count = 1;
    o->grpo.sampling.seed = 1;
    o->eval_interval = 3, o->eval_prompts = 4, o->num_generations_eval = 2;
    o->quiet = true, o->tokenizer = tokenizer, o->out = out;
    o->csv = out ? path_in(out, "metrics.csv") : NULL;
}

/* Everything that is state is in use: several updates from a rollout in an order of their own, a
 * reference that is replaced, rollouts that are thrown away. */
static GrpoRunResult run_all(Device device, DType dtype, const char *out, bool resume, int alarm) {
    static Setup s;
    GrpoRunResult result;
    set_up(&s, device, dtype, &reward_low, out);
    s.o.grpo.num_iterations = 2, s.o.grpo.mini_batches = 2;
    s.o.grpo.loss.beta = 0.1f;
    s.o.grpo.dynamic_sampling = 2;
    s.o.sync_ref_model = true, s.o.ref_model_sync_steps = 2;
    s.o.start = resume ? RUN_RESUME : RUN_NEW;
    check_ok(model_init(&s.reference, &s.w.ctx, &s.w.model.cfg, false, &err), &err);
    calls = 0, alarm_at = alarm;
    check_ok(grpo_run(&s.w.model, &s.reference, &s.q, &s.o, &result, &err), &err);
    return result;
}

/* The cells of a row under a name, "" where there is none; NULL: no such row. */
static const char *cell(const char *out, int step, const char *name) {
    static char text[64];
    char line[4096], names[4096] = "";
    FILE *file = fopen(path_in(out, "metrics.csv"), "r");
    const char *found = NULL;
    while (file && !found && fgets(line, sizeof line, file)) {
        if (!strncmp(line, "step,", 5)) strcpy(names, line);
        if (line[0] < '0' || line[0] > '9' || atoi(line) != step) continue;
        const char *n = names, *c = line;
        while (n && strncmp(n, name, strlen(name))) {
            n = strchr(n, ','), c = strchr(c, ',');
            if (n) n++, c++;
        }
        cr_assert(n, "no column %s", name);
        snprintf(text, sizeof text, "%.*s", (int)strcspn(c, ",\n"), c);
        found = text;
    }
    if (file) fclose(file);
    return found;
}

DEVICE_TEST(grpo_run, ends_in_the_same_bits) {
    Scratch whole = scratch_open(), parts = scratch_open();
    const char *out = parts.directory;
    GrpoRunResult undisturbed = run_all(device, dtype, whole.directory, false, 0);
    cr_assert(undisturbed.steps == 9 && !undisturbed.interrupted && undisturbed.best_step > 0);
    GrpoRunResult r = run_all(device, dtype, out, true, 4 * 3 + 4 * P * G); /* begins */
    cr_assert(r.interrupted == SIGINT && r.steps > 1 && r.steps < 9, "%d, %lld", r.interrupted,
              (long long)r.steps);
    int64_t done = r.steps;
    r = run_all(device, dtype, out, true, 4 * 3 + 2 * P * G);
    cr_assert(r.interrupted == SIGINT && r.resumed_from == done && r.steps > done && r.steps < 9);
    r = run_all(device, dtype, out, true, 0);
    cr_assert(r.steps == 9 && r.best_step == undisturbed.best_step &&
              r.best_reward == undisturbed.best_reward);
    cr_assert(r.first.greedy == undisturbed.first.greedy, "what came first is remembered");
    cr_assert(r.last.pass_1 == undisturbed.last.pass_1 && r.last.reward == undisturbed.last.reward);
    static const char *const files[] = {"last/training.safetensors", "last/model.safetensors",
                                        "model.safetensors"};
    for (int i = 0; i < 3; i++) same_bytes(whole.directory, out, files[i]);
    for (int step = 0; step <= 9; step++) {
        char there[64];
        static const char *const names[] = {"loss", "kl", "reward", "num_tokens", "eval_pass@2"};
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            snprintf(there, sizeof there, "%s", cell(whole.directory, step, names[i]));
            cr_assert_str_eq(cell(out, step, names[i]), there, "step %d, %s", step, names[i]);
        }
    }
    r = run_all(device, dtype, out, true, 0); /* nothing is left to do, and nothing is lost */
    cr_assert(r.steps == 9 && r.resumed_from == 9);
    same_bytes(whole.directory, out, files[0]);
}

/* Other settings of the loss are another run; so are other questions. */
Test(grpo_run, resumes_only_what_it_was) {
    Scratch scratch = scratch_open();
    run_all(CPU, F32, scratch.directory, false, 0);
    static Setup s;
    GrpoRunResult result;
    for (int i = 0; i < 4; i++) {
        set_up(&s, CPU, F32, &reward_low, scratch.directory);
        s.o.start = RUN_RESUME;
        s.o.grpo.num_iterations = 2, s.o.grpo.mini_batches = 2, s.o.grpo.dynamic_sampling = 2;
        s.o.sync_ref_model = true, s.o.ref_model_sync_steps = 2;
        s.o.grpo.loss.beta = i == 0 ? 0.2f : 0.1f;
        if (i == 1) s.q.task.reversed = true;
        if (i == 2) s.o.grpo.rewards[0].weight = 2;
        if (i == 3) s.o.schedule.peak = 2e-3f;
        check_ok(model_init(&s.reference, &s.w.ctx, &s.w.model.cfg, false, &err), &err);
        cr_assert_eq(grpo_run(&s.w.model, &s.reference, &s.q, &s.o, &result, &err), -1);
        const char *says =
            ((const char *[]){"--beta 0.1, but now it is 0.2", "hash of the first questions",
                              "low 1, but now it is 2", "had the learning rate"})[i];
        cr_assert(strstr(err.text, says), "%s", err.text);
    }
}

static double distance(Setup *s) {
    double sum = 0;
    for (int i = 0; i < s->w.model.params.count; i++) {
        const Tensor *t = s->w.model.params.list[i];
        float *a = test_weight(&s->w.model.params, t),
              *b = test_weight(&s->reference.params, s->reference.params.list[i]);
        for (int64_t j = 0; j < tensor_count(t); j++) sum += (a[j] - b[j]) * (a[j] - b[j]);
    }
    return sqrt(sum);
}

/* A reference that is never replaced stays where the policy began; replaced by all of the policy
 * behind the last step, it is the policy; by a part, it is between. */
DEVICE_TEST(grpo_run, reference_is_replaced) {
    double distances[3];
    for (int i = 0; i < 3; i++) {
        static Setup s;
        GrpoRunResult result;
        set_up(&s, device, dtype, &reward_low, NULL);
        s.o.schedule = (Schedule){.steps = 2, .peak = 1e-3f, .floor = 1e-3f};
        s.o.grpo.loss.beta = 0.01f;
        s.o.sync_ref_model = i > 0;
        s.o.ref_model_sync_steps = 2, s.o.ref_model_mixup_alpha = i == 1 ? 1 : 0.5f;
        check_ok(model_init(&s.reference, &s.w.ctx, &s.w.model.cfg, false, &err), &err);
        check_ok(grpo_run(&s.w.model, &s.reference, &s.q, &s.o, &result, &err), &err);
        distances[i] = distance(&s);
    }
    double rounded = dtype == BF16 ? 0.3 : 0; /* the reference has no masters */
    cr_assert(distances[0] > 1e-3, "%g", distances[0]);
    cr_assert(distances[1] <= rounded, "%g", distances[1]);
    if (dtype == F32)
        cr_assert_float_eq(distances[2], distances[0] / 2, 1e-4 * distances[0], "%g of %g",
                           distances[2], distances[0]);
}

/* No answer is better than another: no step of the optimizer, cells without numbers, a count. */
Test(grpo_run, says_when_nothing_was_learned) {
    static Setup s;
    GrpoRunResult result;
    Scratch scratch = scratch_open();
    set_up(&s, CPU, F32, &reward_nothing, scratch.directory);
    float *before = test_weight(&s.w.model.params, s.w.model.decoder.lm_head);
    check_ok(grpo_run(&s.w.model, NULL, &s.q, &s.o, &result, &err), &err);
    cr_assert(result.idle == 9 && result.steps == 9);
    check_close("lm_head", test_weight(&s.w.model.params, s.w.model.decoder.lm_head), before,
                tensor_count(s.w.model.decoder.lm_head), 0);
    cr_assert_str_eq(cell(scratch.directory, 4, "loss"), "");
    cr_assert_str_eq(cell(scratch.directory, 4, "reward"), "0.25");
    cr_assert_str_eq(cell(scratch.directory, 4, "frac_reward_zero_std"), "1");
    cr_assert_str_eq(cell(scratch.directory, 9, "eval_reward"), "0.25");
    cr_assert_str_eq(cell(scratch.directory, 8, "eval_reward"), "");
}

Test(grpo_run, refuses_what_nobody_can_judge) {
    static Setup s;
    GrpoRunResult result;
    set_up(&s, CPU, F32, &reward_silent, NULL);
    cr_assert_eq(grpo_run(&s.w.model, NULL, &s.q, &s.o, &result, &err), -1);
    cr_assert(strstr(err.text, "step 1: no reward could judge any of the 8 answers: silent"), "%s",
              err.text);
}

/* A rate that breaks the model: what was saved is safe. */
Test(grpo_run, stops_when_numbers_are_none) {
    static Setup s;
    GrpoRunResult result;
    Scratch scratch = scratch_open();
    set_up(&s, CPU, F32, &reward_low, scratch.directory);
    s.o.schedule = (Schedule){.steps = 9, .constant = 9, .peak = 1e30f, .floor = 1e30f};
    s.o.eval_interval = 100;
    cr_assert_eq(grpo_run(&s.w.model, NULL, &s.q, &s.o, &result, &err), -1);
    cr_assert(strstr(err.text, "step 2: ") && strstr(err.text, "not finite"), "%s", err.text);
    cr_assert(access(path_in(scratch.directory, "last/training.safetensors"), F_OK) != 0);
}

/* ---- tables ---- */

static int strange_prompt(void *self, uint64_t index, GrpoPrompt *prompt, Error *error) {
    static const char *const texts[] = {
        "short", "a prompt that is far too long for its column: what is seven and seven?",
        "two\nlines\tand\33[31m red, \xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9 \xFF"};
    (void)self, (void)error;
    *prompt = (GrpoPrompt){must_alloc(1, sizeof(int32_t)), 1, must_strdup(texts[index % 3]), NULL};
    return 0;
}

static char *strange_text(void *self, const int32_t *ids, int count) {
    (void)self, (void)ids;
    return must_strdup(count % 2 ? "\33]0;mine\7 and so on, and so on, and so on, and so on"
                                 : "\n\n");
}

/* However long and strange, a sample is one line of 80 columns at most. */
Test(grpo_run, samples_fit_a_terminal) {
    static Setup s;
    static Grpo g;
    AdamW adamw = adamw_defaults();
    GrpoReport report;
    set_up(&s, CPU, F32, &reward_low, NULL);
    s.o.grpo.rollout.prompts = 1;
    check_ok(grpo_init(&g, &s.w.ctx, &s.w.model.decoder, NULL, model_position(&s.w.model),
                       &s.w.model.params, &adamw, &s.o.grpo,
                       (GrpoSource){NULL, strange_prompt, strange_text}, &err),
             &err);
    for (int step = 1; step <= 6; step++) {
        char *text;
        size_t size;
        check_ok(grpo_step(&g, 1e-3f, &report, &err), &err);
        FILE *out = open_memstream(&text, &size);
        grpo_print_samples(out, &g, step, 4);
        fclose(out);
        int lines = 0;
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
            int columns = 0;
            for (const char *c = line; *c; c++) {
                columns += ((unsigned char)*c & 0xC0) != 0x80;
                cr_assert((unsigned char)*c >= 32, "a control character in %s", line);
            }
            cr_assert(columns <= 80, "%d columns: %s", columns, line);
        }
        cr_assert(lines >= 2 && lines <= 5, "%d lines", lines);
        free(text);
    }
    grpo_free(&g);
}
