/*
 * Questions and answers: lines of a file and what is wrong with them, parts that share no prompt,
 * an order that misses none, and windows in which answers alone are targets.
 */
#include "10_full_model/data/questions.h"
#include "10_full_model/tests/test_world.h"

#include <math.h>

static Tokenizer *bytes(void) {
    Tokenizer *t = tokenizer_train("0", 1, 257, NULL, NULL, &err);
    cr_assert(t, "%s", err.text);
    return t;
}

static int open_text(Questions *q, const char *text, QuestionOptions o) {
    Scratch scratch = scratch_open();
    o.from = scratch_write(&scratch, "pairs.jsonl", text, strlen(text)), o.file = true;
    if (!o.field) o.field = "completion";
    if (!o.held_out) o.held_out = 0.05;
    if (!o.most_prompt) o.most_prompt = 1000;
    if (!o.most) o.most = 1000;
    return questions_open(q, bytes(), 256, &o, &err);
}

Test(questions, of_a_file) {
    Questions q;
    int status = open_text(&q,
                           "{\"prompt\": \"a?\", \"completion\": \"yes\"}\n\n"
                           "{\"completion\": \"\", \"id\": 7, \"prompt\": \"\"}\r\n"
                           "{\"prompt\": \"\\u00e9\", \"completion\": \"\xff\"}",
                           (QuestionOptions){.held_out = 0.3});
    check_ok(status, &err);
    cr_assert(q.count == 3 && q.train == 2 && q.replaced == 1 && q.end == 256);
    cr_assert(q.longest_prompt == 2 && q.longest_answer == 4 && q.longest == 6);
    for (int part = 0; part < 2; part++)
        for (uint64_t i = 0; i < (part ? 1u : 2u); i++) {
            Question one = question_at(&q, part, 1, i);
            if (!*one.prompt)
                cr_assert(one.prompt_tokens == 1 && one.ids[0] == 256 && one.tokens == 1 &&
                          one.ids[1] == 256);
            else if (*one.prompt == 'a')
                cr_assert(one.prompt_tokens == 2 && one.tokens == 4 && one.ids[5] == 256 &&
                          !strcmp(one.answer, "yes"));
            else
                cr_assert(one.prompt_tokens == 2 && !strcmp(one.answer, "\xEF\xBF\xBD"));
            question_free(&one);
        }
    questions_close(&q);
}

Test(questions, of_a_file_that_is_wrong) {
#define GOOD "{\"prompt\": \"a\", \"completion\": \"b\"}\n"
    static const struct {
        const char *text, *says;
        QuestionOptions options;
    } cases[] = {
        {GOOD "{\"prompt\": \"a\", \"completion\": }\n", "pairs.jsonl:2: ", {0}},
        {GOOD "\n{\"prompt\": \"a\"}\n", "pairs.jsonl:3: there is no field \"completion\"", {0}},
        {GOOD "[1]\n", "pairs.jsonl:2: the line is JSON, but not an object", {0}},
        {"{\"prompt\": 3, \"completion\": \"b\"}", ":1: the field \"prompt\" is not a string", {0}},
        {"{\"prompt\": null, \"completion\": \"b\"}", "\"prompt\" is not a string", {0}},
        {"{\"prompt\": \"a\", \"prompt\": \"b\", \"completion\": \"c\"}", "is there 2 times", {0}},
        {"{\"prompt\": \"a\", \"answer\": 3}",
         ":1: the field \"answer\" is not a string",
         {.field = "answer", .may_miss = true}},
        {"", "there is no text in it", {0}},
        {"\n \n", "there is no line in it", {0}},
        {GOOD, "of 1 lines all would be held out", {0}},
        {GOOD GOOD GOOD, "of 3 lines all would be held out", {0}},
        {GOOD GOOD, "all of its 2 lines are too long", {.most = 2}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Questions q;
        cr_assert_eq(open_text(&q, cases[i].text, cases[i].options), -1, "case %zu", i);
        cr_assert(strstr(err.text, cases[i].says), "case %zu: %s", i, err.text);
        cr_assert_null(q.list);
    }
    Questions q;
    check_ok(open_text(&q, "{\"prompt\": \"a\"}\n{\"prompt\": \"b\", \"answer\": null}\n",
                       (QuestionOptions){.field = "answer", .may_miss = true}),
             &err);
    Question one = question_at(&q, false, 1, 0);
    cr_assert(!one.answer && one.tokens == 0 && one.prompt_tokens == 1);
}

/* n lines of which every second one asks the same as another. */
static Questions doubled(int n, double held_out) {
    char *text = must_alloc((size_t)n, 64);
    for (int i = 0, used = 0; i < n; i++)
        used += sprintf(text + used, "{\"prompt\": \"%d\", \"completion\": \"%d\"}\n", i / 2, i);
    Questions q;
    check_ok(open_text(&q, text, (QuestionOptions){.held_out = held_out}), &err);
    free(text);
    return q;
}

/* A prompt is in one part alone, whichever lines it is on; as many are held out as asked for. */
Test(questions, parts_share_no_prompt) {
    Questions q = doubled(200, 0.1);
    int held = q.count - q.train;
    cr_assert(q.count == 200 && held >= 20 && held <= 22, "%d", held);
    for (int i = 0; i < q.train; i++)
        for (int j = q.train; j < q.count; j++)
            cr_assert(strcmp(q.list[i].prompt, q.list[j].prompt), "%s is in both",
                      q.list[i].prompt);
}

/* Each once before any twice, another order each time, the same one again when asked again. */
Test(questions, come_in_an_order_that_misses_none) {
    Questions q = doubled(50, 0.1);
    int seen[50] = {0}, same = 0;
    for (int i = 0; i < 2 * q.train; i++) {
        Question one = question_at(&q, false, 7, (uint64_t)i);
        Question again = question_at(&q, false, 7, (uint64_t)(i % q.train));
        int number = atoi(one.answer);
        cr_assert_eq(seen[number]++, i / q.train, "question %d at %d", number, i);
        same += i >= q.train && !strcmp(one.answer, again.answer);
        question_free(&one), question_free(&again);
    }
    cr_assert(same < q.train / 2, "%d of %d in the same place", same, q.train);
}

Test(questions, of_a_task) {
    Questions q;
    QuestionOptions o = {.from = "countdown", .digits = 3, .most_prompt = 64, .most = 64};
    check_ok(questions_open(&q, bytes(), 256, &o, &err), &err);
    for (uint64_t i = 0; i < 3000; i++) {
        Question one = question_at(&q, i % 2, 5, i);
        cr_assert(one.prompt_tokens <= q.longest_prompt && one.tokens <= q.longest_answer);
        cr_assert(strlen(one.prompt) == (size_t)one.prompt_tokens && one.ids[0] != 256);
        question_free(&one);
    }
    o.from = "additon";
    cr_assert_eq(questions_open(&q, bytes(), 256, &o, &err), -1);
    cr_assert(strstr(err.text, "there is no task \"additon\"; there are addition"), "%s", err.text);
    o.from = "addition", o.digits = 13;
    cr_assert_eq(questions_open(&q, bytes(), 256, &o, &err), -1);
    cr_assert(strstr(err.text, "addition of 13: it must be 1 to 12"), "%s", err.text);
    o.digits = 12, o.most = 30;
    cr_assert_eq(questions_open(&q, bytes(), 256, &o, &err), -1);
    cr_assert(strstr(err.text, "there is room for 64 and 30"), "%s", err.text);
    Tokenizer *endless = bytes();
    tokenizer_set_end(endless, -1);
    cr_assert_eq(questions_open(&q, endless, -1, &o, &err), -1);
    cr_assert(strstr(err.text, "no token that ends a text"), "%s", err.text);
}

/* By hand: the prompt is no target but for what stands behind it, and neither is padding. */
Test(questions, windows) {
    Questions q;
    check_ok(open_text(&q,
                       "{\"prompt\": \"ab\", \"completion\": \"cd\"}\n"
                       "{\"prompt\": \"ab\", \"completion\": \"cd\"}\n"
                       "{\"prompt\": \"b\", \"completion\": \"cd\"}\n",
                       (QuestionOptions){.held_out = 0.01}),
             &err);
    int32_t a, inputs[2][6], targets[2][6];
    TokenSource source = source_of_questions(&q);
    source_batch(&source, 1, 0, 2, 6, inputs[0], targets[0]);
    source_validation(&source, 0, 1, 6, inputs[1], targets[1]);
    size_t count;
    a = *tokenizer_encode(q.tokenizer, "a", 1, &count);
    const int32_t none = IGNORE_TARGET;
    const int32_t in[2][6] = {{a, a + 1, a + 2, a + 3, 256, 256},
                              {a + 1, a + 2, a + 3, 256, 256, 256}},
                  out[2][6] = {{none, a + 2, a + 3, 256, none, none},
                               {a + 2, a + 3, 256, none, none, none}};
    int learned = q.train == 2 ? 0 : 1; /* "ab", which is there twice, or "b" */
    for (int i = 0; i < 2; i++) {
        cr_assert_arr_eq(inputs[i], in[i ? 1 - learned : learned], sizeof in[0]);
        cr_assert_arr_eq(targets[i], out[i ? 1 - learned : learned], sizeof out[0]);
    }
}

/* ---- a step on them ---- */

static StepReport one_step(Context *ctx, Questions *q, int batch, int accumulation, int length,
                           float **gradient, int64_t *count) {
    Model model;
    ModelConfig cfg = tiny_config(257);
    check_ok(model_init(&model, ctx, &cfg, true, &err), &err);
    ctx->rng = (Rng){.seed = 3};
    model_randomize(&model);
    LanguageModelObjective objective = {.model = &model, .mtp = {.end = -1}};
    TokenSource source = source_of_questions(q);
    Trainer trainer = {.params = &model.params,
                       .objective = objective_language_model(&objective),
                       .source = &source,
                       .schedule = {.steps = 1, .peak = 1e-3f, .floor = 1e-3f},
                       .context_length = length};
    check_ok(step_cut(&trainer.cut, ctx, batch, accumulation, false, &err), &err);
    AdamW adamw = adamw_defaults();
    StepReport report;
    train_step(&trainer, &adamw, &report);
    const Tensor *w = model.decoder.layers[1].post_attention_layernorm;
    *count = tensor_count(w), *gradient = test_weight_gradient(&model.params, w);
    for (int64_t i = 0; i < *count; i++) (*gradient)[i] /= (float)accumulation;
    return report;
}

/* Answers of different lengths: however a step is cut into micro-batches, each of their tokens
 * counts the same; and a window may be as long as it likes. */
CPU_TEST(questions, however_a_step_is_cut) {
    Questions q;
    QuestionOptions o = {.from = "countdown", .digits = 3, .most_prompt = 64, .most = 64};
    check_ok(questions_open(&q, bytes(), 256, &o, &err), &err);
    static const struct {
        int batch, accumulation, more;
    } cuts[] = {{8, 1, 0}, {2, 4, 0}, {1, 8, 0}, {4, 2, 5}};
    float *first = NULL, *gradient;
    int64_t count;
    StepReport whole = {0};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        StepReport r = one_step(&ctx, &q, cuts[i].batch, cuts[i].accumulation,
                                q.longest - 1 + cuts[i].more, &gradient, &count);
        if (!i) whole = r, first = gradient;
        cr_assert_float_eq(r.loss, whole.loss, 1e-5 * whole.loss, "cut %zu: %g, not %g", i, r.loss,
                           whole.loss);
        cr_assert_float_eq(r.gradient_norm, whole.gradient_norm, 1e-5 * whole.gradient_norm);
        check_close("gradient", gradient, first, count, 1e-5);
    }
}

/* Padding goes to no expert: each layer's router has counted the tokens that are there, and no
 * more. */
DEVICE_TEST(questions, padding_is_counted_nowhere) {
    Questions q;
    Context ctx = test_context(device, dtype);
    QuestionOptions o = {.from = "countdown", .digits = 3, .most_prompt = 64, .most = 64};
    check_ok(questions_open(&q, bytes(), 256, &o, &err), &err);
    Model model;
    ModelConfig cfg = tiny_even_config(257);
    check_ok(model_init(&model, &ctx, &cfg, true, &err), &err);
    model_randomize(&model);
    LanguageModelObjective objective = {.model = &model, .mtp = {.end = -1}};
    TokenSource source = source_of_questions(&q);
    Trainer trainer = {.params = &model.params,
                       .objective = objective_language_model(&objective),
                       .source = &source,
                       .schedule = {.steps = 1, .peak = 1e-3f, .floor = 1e-3f},
                       .context_length = q.longest - 1};
    check_ok(step_cut(&trainer.cut, &ctx, 6, 2, false, &err), &err);
    trainer.objective.after_step = NULL; /* which begins a new count */
    AdamW adamw = adamw_defaults();
    StepReport report;
    train_step(&trainer, &adamw, &report);
    int expected = 0, counted = 0;
    for (uint64_t i = 0; i < 12; i++) {
        Question one = question_at(&q, false, ctx.rng.seed, i);
        expected += cfg.num_experts_per_tok * (one.prompt_tokens + one.tokens - 1);
        question_free(&one);
    }
    int32_t load[6];
    tensor_download_ints(&ctx, load, model.decoder.layers[1].moe.load);
    for (int e = 0; e < 6; e++) counted += load[e];
    cr_assert(counted == expected && isfinite(report.loss),
              "the experts have counted %d choices; without padding there are %d", counted,
              expected);
}
