/*
 * Texts that are made with guesses: those of plain decoding, with stop strings and pauses, alone
 * and side by side; and what cannot be guessed with is said.
 */
#include "10_full_model/generate/generate.h"
#include "10_full_model/tests/test_world.h"

#include <math.h>

static Error err; /* what the last call that failed had to say */

enum { CONTEXT = 96 };

static void world_of(World *w, Device device, int modules, bool sparse) {
    ModelConfig cfg = tiny_even_config(257);
    if (sparse) cfg = tiny_sparse_config(cfg);
    cfg.num_hidden_layers = 2;
    cfg.max_position_embeddings = CONTEXT;
    cfg.num_nextn_predict_layers = modules;
    world_model(w, device, F32, cfg, false);
    char text[600];
    memset(text, 'x', sizeof text);
    w->tokenizer = tokenizer_train(text, sizeof text, 257, NULL, NULL, &err);
    cr_assert(w->tokenizer, "%s", err.text);
}

static void world_with_modules(World *w, Device device, int modules) {
    world_of(w, device, modules, false);
}

static const char *const prompts[] = {"a longer prompt than the others", "b", "", "four"};

/* The texts of `count` prompts, made in runs of these lengths (0: the last). */
static void texts(World *w, int count, const GuessOptions *guess, GenerateOptions o,
                  const int *runs, char **answers) {
    Generator g;
    GenerateResult result;
    check_ok(generator_init(&g, &w->model, w->tokenizer, count, CONTEXT, &err), &err);
    check_ok(generator_guess(&g, &w->model, guess, &err), &err);
    for (int b = 0; b < count; b++) check_ok(generator_prompt(&g, b, prompts[b], &err), &err);
    for (; *runs; runs++) {
        o.max_new_tokens = *runs;
        generator_run(&g, &o, &result);
    }
    for (int b = 0; b < count; b++) {
        const DecoderSequence *s = &g.decoding.sequences[b];
        answers[b] = must_alloc(1, 16 * CONTEXT);
        for (int i = 0, at = 0; i < s->count; i++)
            at += snprintf(answers[b] + at, 16, "%d ", s->ids[i]);
    }
    cr_assert(!g.speculator == !guess->drafts);
    if (g.speculator) cr_assert(g.speculator->counts.seen[0] > 0);
    generator_free(&g);
}

static void same_texts(World *w, int count, GenerateOptions o, const int *runs) {
    char *plain[4], *guessed[4];
    texts(w, count, &(GuessOptions){0}, o, runs, plain);
    for (int drafts = 1; drafts <= 3; drafts += 2)
        for (int vocabulary = 0; vocabulary <= 128; vocabulary += 128) {
            texts(w, count, &(GuessOptions){drafts, vocabulary}, o, runs, guessed);
            for (int b = 0; b < count; b++)
                cr_assert(!strcmp(plain[b], guessed[b]), "text %d, %d drafts: '%s', not '%s'", b,
                          drafts, guessed[b], plain[b]);
        }
}

static void likeliest_texts(Device device) {
    World w;
    GenerateOptions o = {.sampling = {.top_p = 1}};
    world_with_modules(&w, device, 2);
    same_texts(&w, 1, o, (const int[]){40, 0});
    same_texts(&w, 4, o, (const int[]){40, 0});
    same_texts(&w, 1, o, (const int[]){1, 7, 2, 200, 0}); /* up to the context's end */
    o.sampling.repetition_penalty = 1.3f;                 /* the host chooses */
    same_texts(&w, 4, o, (const int[]){40, 0});
}

Test(guess, likeliest_texts_are_the_same_cpu) { likeliest_texts(CPU); }

Test(guess, likeliest_texts_are_the_same_cuda) {
    test_needs_gpu();
    likeliest_texts(CUDA);
}

/* With indexers, whose keys of wrong guesses go as the latents do: as numbers, in eight bits. */
Test(guess, sparse_texts_are_the_same_cpu) {
    World w;
    GenerateOptions o = {.sampling = {.top_p = 1}};
    for (int e4m3 = 0; e4m3 < 2; e4m3++) {
        world_of(&w, CPU, 2, true);
        w.model.decoder.cfg.block.e4m3_cache = e4m3;
        same_texts(&w, 4, o, (const int[]){40, 0});
        same_texts(&w, 1, o, (const int[]){1, 7, 2, 200, 0});
    }
}

/* A stop string of two bytes, wherever in the answer it lies. */
Test(guess, stops) {
    World w;
    world_with_modules(&w, CPU, 1);
    for (int at = 2; at < 12; at++) {
        Generator g;
        GenerateResult result;
        GenerateOptions o = {.sampling = {.top_p = 1, .repetition_penalty = 2},
                             .max_new_tokens = 20};
        check_ok(generator_init(&g, &w.model, w.tokenizer, 1, CONTEXT, &err), &err);
        check_ok(generator_prompt(&g, 0, "stop", &err), &err);
        generator_run(&g, &o, &result);
        const int32_t *ids = g.decoding.sequences[0].ids + 4 + at;
        char stop[3] = "";
        for (int i = 0; i < 2; i++) {
            size_t bytes;
            const char *text = tokenizer_token(w.tokenizer, ids[i], &bytes);
            stop[i] = bytes == 1 ? *text : 0;
        }
        generator_free(&g);
        if (strlen(stop) < 2) continue;
        const char *stops[] = {stop};
        o.stops = stops, o.stop_count = 1;
        same_texts(&w, 1, o, (const int[]){20, 20, 0});
    }
}

/* Drawn text does not depend on what stands beside it. */
Test(guess, drawn_texts_do_not_depend_on_the_neighbours) {
    World w;
    char *together[4], *alone[1];
    GenerateOptions o = {.sampling = {.temperature = 1, .top_p = 0.9f, .seed = 5}};
    GuessOptions guess = {2, 100};
    world_with_modules(&w, CPU, 1);
    texts(&w, 4, &guess, o, (const int[]){15, 5, 0}, together);
    texts(&w, 1, &guess, o, (const int[]){20, 0}, alone);
    cr_assert(!strncmp(together[0], alone[0], 60), "'%s', not '%s'", together[0], alone[0]);
}

/* As generate/stops_where_numbers_end. A module with such numbers guesses badly, no more. */
Test(guess, stops_where_numbers_end) {
    for (int run = 0; run < 4; run++) {
        bool hot = run % 2, module = run / 2;
        World w;
        world_with_modules(&w, CPU, 1);
        Tensor *t = module ? w.model.mtp.modules[0].norm : w.model.decoder.norm;
        float *values = test_floats(tensor_count(t));
        params_get(&w.model.params, t, values);
        values[3] = NAN;
        params_set(&w.model.params, t, values);
        Generator g;
        GenerateResult result;
        GenerateOptions o = {.sampling = {.temperature = hot, .top_p = 0.9f, .top_k = 50},
                             .max_new_tokens = 20};
        check_ok(generator_init(&g, &w.model, w.tokenizer, 1, CONTEXT, &err), &err);
        check_ok(generator_guess(&g, &w.model, &(GuessOptions){2, 0}, &err), &err);
        check_ok(generator_prompt(&g, 0, "a text", &err), &err);
        generator_run(&g, &o, &result);
        cr_assert(result.broken == !module && (result.new_tokens > 0) == module, "run %d: %d, %d",
                  run, result.broken, result.new_tokens);
        if (module) continue;
        cr_assert(generator_check(&g, &w.model, &result, &err) == -1 &&
                      strstr(err.text, "number 3 of 'model.norm.weight' is nan"),
                  "%s", err.text);
    }
}

Test(guess, says_what_is_wrong) {
    World w, without;
    Generator g;
    world_with_modules(&w, CPU, 1);
    world_with_modules(&without, CPU, 0);
    const struct {
        World *w;
        int batch, capacity;
        GuessOptions guess;
        const char *says;
    } cases[] = {{&without, 1, 64, {2, 0}, "has no modules that could guess"},
                 {&w, 1, 64, {2, 258}, "a draft vocabulary of 258 tokens"},
                 {&w, 1, 2, {3, 0}, "room for 2 tokens"},
                 {&w, 8, 64, {3, 0}, "can be 1 to 1"},
                 {&w, 9, 64, {1, 0}, "at most 8 texts"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        World *one = cases[i].w;
        check_ok(generator_init(&g, &one->model, one->tokenizer, cases[i].batch, cases[i].capacity,
                                &err),
                 &err);
        cr_assert(generator_guess(&g, &one->model, &cases[i].guess, &err) == -1, "case %zu", i);
        cr_assert(strstr(err.text, cases[i].says), "%s", err.text);
        generator_free(&g);
    }
}
