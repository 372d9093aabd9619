/*
 * Generating: text that arrives whole, and that neither a neighbour nor a pause changes an answer.
 */
#include "10_full_model/commands/interactive.h"
#include "10_full_model/generate/generate.h"
#include "10_full_model/tests/test_world.h"

#include "common/core/utf8.h"

#include <math.h>
#include <stdio.h>

/* ---- text ---- */

typedef struct Heard {
    char text[400];
    int pieces;
} Heard;

static void hear(void *user, const char *text, size_t bytes) {
    Heard *heard = user;
    strncat(heard->text, text, bytes);
    heard->pieces++;
}

Test(stream, waits_for_whole_characters_and_stops) {
    const struct {
        const char *tokens[6], *stops[2], *text;
        bool stopped;
    } cases[] = {
        {{"a", "\xc3", "\xa9", "b"},
         {0},
         "a\xc3\xa9"
         "b",
         false},
        {{"\xe2\x82", "x"}, {0}, "\xef\xbf\xbdx", false}, /* never whole: U+FFFD */
        {{"\xe2\x82"}, {0}, "\xef\xbf\xbd", false},
        {{"\xff", "\xa9", "x"}, {0}, "\xef\xbf\xbd\xef\xbf\xbdx", false},
        {{"\xed", "\xa0", "\x80"},
         {0},
         "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd",
         false}, /* half a pair */
        {{"say ST", "OP", "more"}, {"STOP"}, "say ", true},
        {{"STO", "NE"}, {"STOP"}, "STONE", false},
        {{"ababab", "c"}, {"ababc"}, "ab", true}, /* a beginning within a beginning */
        {{"x\n", "\ny"}, {"\n\n"}, "x", true},
        {{"one two"}, {"two", "one"}, "", true},
        {{"", "q"}, {"z"}, "q", false},
        {{"x", "a", "b", "c"}, {"abcd", "bc"}, "xa", true}, /* within what another might become */
        {{"xabc"}, {"bc", "abcd"}, "xa", true},
        {{"xabcd"}, {"abcd", "bc"}, "xa", true},  /* the first that is complete, however cut */
        {{"xab", "c"}, {"bc", "abc"}, "x", true}, /* together: the longer */
        {{"xab", "d"}, {"abcd", "bc"}, "xabd", false},
        {{"aab", "aac"}, {"aabaad", "baac"}, "aa", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Heard heard = {0};
        int stops = 0;
        while (stops < 2 && cases[i].stops[stops]) stops++;
        TextStream stream = text_stream(hear, &heard, cases[i].stops, stops);
        bool stopped = false;
        for (int t = 0; t < 6 && cases[i].tokens[t] && !stopped; t++)
            stopped = text_stream_add(&stream, cases[i].tokens[t], strlen(cases[i].tokens[t]));
        text_stream_end(&stream);
        cr_expect_str_eq(heard.text, cases[i].text, "case %zu: '%s'", i, heard.text);
        cr_expect(stopped == cases[i].stopped, "case %zu", i);
    }
}

/* However a text is cut into tokens, it ends at the same place; and that is before the stop string
 * that a plain search finds complete first. */
Test(stream, cutting_changes_nothing) {
    static const char *const stops[] = {"abab", "ba", "aab", "bbbb", "abba"};
    for (uint64_t round = 0; round < 3000; round++) {
        char text[40] = "", wanted[40];
        int stop_count = 1 + (int)(philox(31, round, 0).word[1] % 5);
        size_t length = 1 + philox(31, round, 0).word[0] % 30, end = 0, begin = 0;
        for (uint64_t i = 0; i < length; i++) text[i] = "aab"[philox(32, round, i).word[0] % 3];
        for (end = 1; end <= length && !begin; end++)
            for (int i = 0; i < stop_count; i++) {
                size_t n = strlen(stops[i]);
                if (n <= end && !memcmp(text + end - n, stops[i], n) && n > begin) begin = n;
            }
        snprintf(wanted, sizeof wanted, "%.*s", (int)(begin ? end - 1 - begin : length), text);
        for (uint64_t cut = 0; cut < 3; cut++) {
            Heard heard = {0};
            TextStream stream = text_stream(hear, &heard, stops, stop_count);
            bool stopped = false;
            for (size_t at = 0, n; at < length && !stopped; at += n) {
                n = 1 + philox(33 + cut, round, at).word[0] % 4;
                if (n > length - at) n = length - at;
                stopped = text_stream_add(&stream, text + at, n);
            }
            text_stream_end(&stream);
            cr_assert_str_eq(heard.text, wanted, "'%s' with %d stop strings: '%s', not '%s'", text,
                             stop_count, heard.text, wanted);
            cr_assert(stopped == (begin > 0));
        }
    }
}

/* ---- a model ---- */

/* A byte-level model of random weights: 257 tokens, nearly all equally likely. */
static void world_of_bytes(World *w, Device device, int context) {
    ModelConfig cfg = tiny_config(257);
    cfg.num_hidden_layers = 2;
    cfg.max_position_embeddings = context;
    cfg.tie_word_embeddings = true;
    world_model(w, device, F32, cfg, false);
    char text[600];
    for (int i = 0; i < 600; i += 2) memcpy(text + i, "\xc3\xa9", 2); /* é */
    w->tokenizer = tokenizer_train(text, sizeof text, 257, NULL, NULL, &err);
    cr_assert(w->tokenizer, "%s", err.text);
}

/* A piece is one UTF-8 character. */
static void whole_character(void *user, const char *text, size_t bytes) {
    cr_assert(utf8_character(text, bytes) == (int)bytes, "%zu bytes begin with %02x", bytes,
              (unsigned char)text[0]);
    if (bytes == 2) *(size_t *)user = 2; /* U+FFFD has three */
}

Test(generate, hands_out_whole_characters) {
    World w;
    world_of_bytes(&w, CPU, 4096);
    size_t longest = 0;
    GenerateOptions options = {.sampling = {.temperature = 50, .top_p = 1, .seed = 3},
                               .max_new_tokens = 4000,
                               .emit = whole_character,
                               .user = &longest};
    GenerateResult result;
    check_ok(generate(&w.model, w.tokenizer, "x", &options, &result, &err), &err);
    cr_assert(longest == 2, "in %d random bytes there is a two-byte character", result.new_tokens);
}

Test(generate, prompts_that_fit) {
    World w;
    world_of_bytes(&w, CPU, 32);
    GenerateOptions options = {.sampling = {.temperature = 1, .top_p = 1, .seed = 3},
                               .max_new_tokens = 1000};
    GenerateResult result;
    check_ok(generate(&w.model, w.tokenizer, "", &options, &result, &err), &err);
    cr_assert(result.new_tokens <= 31, "%d new tokens in a context of 32", result.new_tokens);
    char longer[400];
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = 0;
    cr_assert(generate(&w.model, w.tokenizer, longer, &options, &result, &err) == -1);
    cr_assert(strstr(err.text, "399") && strstr(err.text, "32"), "%s", err.text);
}

/* One answer, ids of it, alone. */
static int alone(World *w, const char *prompt, uint64_t stream, const GenerateOptions *options,
                 int32_t *ids) {
    Generator g;
    GenerateResult result;
    check_ok(generator_init(&g, &w->model, w->tokenizer, 1, 64, &err) ||
                 generator_prompt(&g, 0, prompt, &err),
             &err);
    g.decoding.sequences[0].stream = stream;
    generator_run(&g, options, &result);
    int count = g.decoding.sequences[0].count;
    memcpy(ids, g.decoding.sequences[0].ids, (size_t)count * sizeof *ids);
    return count;
}

/* Prompts of different lengths side by side are continued as if each were alone, drawn or not. In
 * F32: in BF16 the likeliest of nearly equal logits may change with a rounding. */
static void neighbours_change_nothing(Device device, float temperature) {
    World w;
    world_of_bytes(&w, device, 64);
    const char *prompts[] = {"a longer prompt than the others", "b", "", "four"};
    GenerateOptions options = {.sampling = {.temperature = temperature, .top_p = 1, .seed = 5},
                               .max_new_tokens = 12};
    Generator g;
    GenerateResult result;
    check_ok(generator_init(&g, &w.model, w.tokenizer, 4, 64, &err), &err);
    for (int b = 0; b < 4; b++) {
        check_ok(generator_prompt(&g, b, prompts[b], &err), &err);
        g.decoding.sequences[b].stream = (uint64_t)(7 - b);
    }
    generator_run(&g, &options, &result);
    for (int b = 0; b < 4; b++) {
        int32_t ids[64];
        int count = alone(&w, prompts[b], (uint64_t)(7 - b), &options, ids);
        cr_assert(count == g.decoding.sequences[b].count, "sequence %d", b);
        cr_assert(!memcmp(ids, g.decoding.sequences[b].ids, (size_t)count * sizeof *ids),
                  "sequence %d", b);
    }
}

Test(generate, neighbours_change_nothing_cpu) {
    neighbours_change_nothing(CPU, 0);
    neighbours_change_nothing(CPU, 1);
}
Test(generate, neighbours_change_nothing_cuda) {
    test_needs_gpu();
    neighbours_change_nothing(CUDA, 0);
    neighbours_change_nothing(CUDA, 1);
}

/*
 * A weight that is no number, or so large that a product is none, ends the text before a token is
 * chosen from it, drawn or not, and is named; 32 steps of the captured graph later too. 3e38 is
 * below the largest F32 and the largest BF16.
 */
DEVICE_TEST(generate, stops_where_numbers_end) {
    static const struct {
        const char *weight, *says;
        float value;
    } cases[] = {
        {"model.layers.1.self_attn.o_proj.weight", "number 3 of 'model.layers.1.self_attn.o", NAN},
        {"model.layers.0.input_layernorm.weight", "number 3 of 'model.layers.0.input_l", INFINITY},
        {"model.norm.weight", "number 3 of 'model.norm.weight' is inf", -INFINITY},
        {"model.layers.0.mlp.down_proj.weight", "behind model.layers.0 there are numbers", 3e38f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int hot = 0; hot < 2; hot++) {
            World w;
            world_model(&w, device, dtype, tiny_config(260), false);
            size_t size;
            char *text = world_text(&size);
            w.tokenizer = tokenizer_train(text, size, 260, NULL, NULL, &err);
            Params *params = &w.model.params;
            Tensor *t = NULL;
            for (int j = 0; j < params->count; j++)
                if (!strcmp(params->list[j]->name, cases[i].weight)) t = params->list[j];
            cr_assert(t, "%s", cases[i].weight);
            float *values = test_floats(tensor_count(t));
            params_get(params, t, values);
            values[3] = cases[i].value;
            for (int64_t j = 0; fabsf(cases[i].value) < INFINITY && j < tensor_count(t); j++)
                values[j] = cases[i].value;
            params_set(params, t, values);
            GenerateOptions options = {.sampling = {.temperature = (float)hot, .top_p = 1},
                                       .max_new_tokens = 40};
            GenerateResult result;
            int status = generate(&w.model, w.tokenizer, "the cat", &options, &result, &err);
            cr_assert(status == -1 && strstr(err.text, cases[i].says), "%s: %s", cases[i].weight,
                      status ? err.text : "accepted");
            check_all(result.broken == 1, result.new_tokens == 0);
        }
}

/* A cache has room for the longest text and its answer, in whole pages, within the context. */
Test(generate, capacity) {
    World w;
    world_of_bytes(&w, CPU, 150);
    const char *texts[] = {"five5", "", "a text of 19 tokens"};
    cr_assert(generator_capacity(&w.model, w.tokenizer, texts, 3, 45) == PAGE_TOKENS);
    cr_assert(generator_capacity(&w.model, w.tokenizer, texts, 3, 46) == 2 * PAGE_TOKENS);
    cr_assert(generator_capacity(&w.model, w.tokenizer, texts + 1, 1, 63) == PAGE_TOKENS);
    cr_assert(generator_capacity(&w.model, w.tokenizer, texts, 1, 1 << 20) == 150);
}

/* Five tokens and five more are ten, random numbers included. */
Test(generate, a_pause_changes_nothing) {
    World w;
    world_of_bytes(&w, CPU, 64);
    GenerateOptions options = {.sampling = {.temperature = 1, .top_p = 1, .seed = 9},
                               .max_new_tokens = 10};
    int32_t whole[64];
    int count = alone(&w, "pause", 0, &options, whole);
    Generator g;
    GenerateResult result;
    check_ok(generator_init(&g, &w.model, w.tokenizer, 1, 64, &err), &err);
    check_ok(generator_prompt(&g, 0, "pause", &err), &err);
    options.max_new_tokens = 5;
    generator_run(&g, &options, &result);
    generator_run(&g, &options, &result);
    cr_assert(g.decoding.sequences[0].count == count);
    cr_assert(!memcmp(whole, g.decoding.sequences[0].ids, (size_t)count * sizeof *whole));
}

/* A stop string ends the answer; the second run of the same text goes on behind it. */
Test(generate, stops) {
    World w;
    world_of_bytes(&w, CPU, 64);
    GenerateOptions options = {.sampling = {.temperature = 9, .top_p = 1}, .max_new_tokens = 40};
    Heard all = {0}, part = {0};
    GenerateResult result;
    options.emit = hear;
    options.user = &all;
    cr_assert(generate(&w.model, w.tokenizer, "stop", &options, &result, &err) == 0);
    char stop[2] = "";
    for (size_t i = strlen(all.text) / 2; !stop[0]; i++) /* a byte that is a character */
        if (all.text[i] > 0) stop[0] = all.text[i];
    options.stops = (const char *[]){stop};
    options.stop_count = 1;
    options.user = &part;
    cr_assert(generate(&w.model, w.tokenizer, "stop", &options, &result, &err) == 0);
    size_t before = strcspn(all.text, stop);
    cr_assert(strlen(part.text) == before && !strncmp(part.text, all.text, before),
              "'%s' should end '%s' before '%s'", part.text, all.text, stop);
}

/* A conversation from a script: settings change, bad ones are answered, nothing ends it but
 * /quit. */
Test(interactive, follows_its_commands) {
    World w;
    world_of_bytes(&w, CPU, 64);
    char script[] =
        "/temp 0\n/tokens 3\n/temp hot\n/top-k 1.5\n/nonsense\n/min-p 2\nhello\n\n/seed "
        "7\n/help\n/quit\nnever read\n";
    char *text = NULL;
    size_t size = 0;
    FILE *in = fmemopen(script, strlen(script), "r"), *out = open_memstream(&text, &size);
    GenerateOptions options = {.sampling = sampling_defaults(), .max_new_tokens = 50};
    check_ok(interactive_run(&w.model, w.tokenizer, options, &(GuessOptions){0}, in, out, &err),
             &err);
    fclose(in), fclose(out);
    const char *const said[] = {"/temp: 'hot' is not a number between 0 and 100",
                                "/top-k: '1.5' is not a whole number between 0 and",
                                "there is no /nonsense",
                                "/min-p: 2 is not between 0 and 1",
                                "hello",
                                "/tokens   3",
                                "/seed     7"};
    for (size_t i = 0; i < sizeof said / sizeof said[0]; i++)
        cr_expect(strstr(text, said[i]), "'%s' is not in: %s", said[i], text);
    cr_expect(!strstr(text, "never read"));
}
