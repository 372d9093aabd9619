/*
 * deepseek generate, as a process: what it prints for one prompt, for many, and in a conversation.
 */
/* first: it says which functions of the system it needs */
#include "10_full_model/tests/test_deepseek.h"

#include "common/core/utf8.h"

#define GENERATE(model, ...) DEEPSEEK("generate", "--model", model, __VA_ARGS__)

Test(generate, likeliest_text_is_always_the_same) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    Output o =
        GENERATE(model, "--prompt", "the cat", "--temperature", "0", "--max-new-tokens", "20");
    expect(&o, 0, "the cat sat on the");
    cr_assert(strstr(o.err, "20 tokens, ") && strstr(o.err, " tokens/s"), "%s", o.err);
    static const char *const same[][2] = {
        {"--top-k=1", "--seed=5"}, {"--top-p=0", "--temperature=2"}, {"--min-p=1", "--seed=7"}};
    for (int i = 0; i < 3; i++) {
        Output other = GENERATE(model, "--prompt", "the cat", "--max-new-tokens", "20", same[i][0],
                                same[i][1]);
        cr_assert_str_eq(other.out, o.out);
    }
    Output a = GENERATE(model, "--temperature", "3", "--seed", "1", "--top-p", "1"),
           b = GENERATE(model, "--temperature", "3", "--seed", "1", "--top-p", "1"),
           c = GENERATE(model, "--temperature", "3", "--seed", "2", "--top-p", "1");
    cr_assert(!strcmp(a.out, b.out) && strcmp(a.out, c.out), "the seed decides");
    Output p = GENERATE(model, "--prompt", "the cat", "--temperature", "0", "--max-new-tokens",
                        "20", "--repetition-penalty", "50");
    cr_assert(strcmp(p.out, o.out), "a penalty of 50 changes nothing");
}

/* The answer ends before a stop string, wherever it lies in the tokens. */
Test(generate, stops_at_a_text_across_tokens) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
#define GREEDY "--prompt", "the", "--temperature", "0", "--max-new-tokens", "25"
    Output o = GENERATE(model, GREEDY);
    size_t length = strlen(o.out) - 1; /* without the newline */
    cr_assert(length > 40);
    for (size_t at = 3; at + 7 < length; at += 5) {
        char stop[8] = "", wanted[1000];
        memcpy(stop, o.out + at, 7);
        const char *first = strstr(o.out + 3, stop);
        snprintf(wanted, sizeof wanted, "%.*s\n", (int)(first - o.out), o.out);
        Output stopped = GENERATE(model, GREEDY, "--stop", "never said", "--stop", stop);
        cr_assert_str_eq(stopped.out, wanted, "stop '%s':\n%s", stop, stopped.out);
    }
}

Test(generate, many_prompts_are_answered_like_one) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *prompts[] = {"the dog", "a", "the frog sat in the fog"};
    scratch_write(&w, "prompts.txt", "the dog\n\na\r\nthe frog sat in the fog", 35);
    char wanted[3000] = "";
    for (int i = 0; i < 3; i++) {
        Output o =
            GENERATE(model, "--prompt", prompts[i], "--temperature", "0", "--max-new-tokens", "9");
        expect(&o, 0, prompts[i]);
        snprintf(wanted + strlen(wanted), sizeof wanted - strlen(wanted), "[%d] %s\n", i + 1,
                 o.out);
    }
    static const char *const batches[] = {"--batch=1", "--batch=2", "--batch=8"};
    for (int i = 0; i < 3; i++) {
        Output o = EXPECT(0, "[3]", "generate", "--model", model, "--prompts",
                          path_in(w.directory, "prompts.txt"), "--temperature", "0",
                          "--max-new-tokens", "9", batches[i]);
        cr_assert_str_eq(o.out, wanted);
        cr_assert(strstr(o.err, "27 tokens"), "%s", o.err);
    }
}

/* A prompt draws its own numbers, whichever batch it comes in. */
Test(generate, drawn_answers_do_not_depend_on_the_batch) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *text = "the dog\na\nthe frog sat\nthe dog\na cat\n";
    scratch_write(&w, "prompts.txt", text, strlen(text));
    static const char *const batches[] = {"--batch=1", "--batch=3", "--batch=8", "--batch=16"};
    Output first;
    for (int i = 0; i < 4; i++) {
        Output o =
            GENERATE(model, "--prompts", path_in(w.directory, "prompts.txt"), "--temperature", "1",
                     "--top-p", "1", "--max-new-tokens", "9", batches[i]);
        expect(&o, 0, "[5] a cat");
        if (i == 0) first = o;
        cr_assert_str_eq(o.out, first.out);
    }
    const char *one = strstr(first.out, "[1]") + 4, *four = strstr(first.out, "[4]") + 4;
    cr_assert(strncmp(one, four, 20), "the same prompt twice draws two answers");
}

Test(generate, talks) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    Output o = deepseek_with((Start){.input = "/temp 0\n/tokens 4\n/help\nthe cat\n\n/temp warm\n"
                                              "/top-k 2.5\n/song\n/seed 3\n/quit\nnever read\n"},
                             ARGUMENTS("generate", "--model", model, "--interactive"));
    expect(&o, 0, "/temp     0.8 "); /* how it begins */
    expect(&o, 0, "/temp     0 ");   /* what /help says later */
    expect(&o, 0, "/tokens   4 ");
    expect(&o, 0, "the cat sat on the");
    expect(&o, 0, "[4 tokens, ");
    expect(&o, 0, "/temp: 'warm' is not a number between 0 and 100");
    expect(&o, 0, "/top-k: '2.5' is not a whole number");
    expect(&o, 0, "there is no /song");
    cr_assert_null(strstr(o.out, "never read"));

    /* The empty line went on where the text had stopped. */
    Output whole =
        GENERATE(model, "--prompt", "the cat", "--temperature", "0", "--max-new-tokens", "8");
    char said[200] = "", *at = o.out;
    for (int i = 0; i < 2; i++) {
        char *end = strstr(at, "\n[4 tokens"), *begin = end;
        cr_assert_not_null(end);
        while (begin > o.out && strncmp(begin, "> ", 2)) begin--;
        strncat(said, begin + 2, (size_t)(end - begin - 2));
        at = end + 1;
    }
    cr_assert(!strncmp(whole.out, said, strlen(said)), "'%s', but '%s'", whole.out, said);
}

Test(generate, writes_whole_characters_only) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    /* at this temperature it writes single bytes, too */
    Output o = EXPECT(0, "\xef\xbf\xbd", "generate", "--model", model, "--prompt", "\xc3\xa9",
                      "--temperature", "100", "--top-p", "1", "--max-new-tokens", "60");
    for (size_t i = 0; o.out[i];) {
        int length = utf8_character(o.out + i, strlen(o.out + i));
        cr_assert(length > 0, "byte %zu is no UTF-8", i);
        i += (size_t)length;
    }
}

Test(generate, says_what_is_wrong) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    char longer[600];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    scratch_write(&w, "empty.txt", "\n\n", 2);
    const struct {
        int status;
        const char *says, *flags[8];
    } cases[] = {
        {2, "--model DIR says which model", {"--prompt", "x"}},
        {1, "no model's folder", {"--model", "/nowhere"}},
        {1, "this model's context holds 64", {"--model", model, "--prompt", longer}},
        {1,
         "there is no prompt in it",
         {"--model", model, "--prompts", path_in(w.directory, "empty.txt")}},
        {1, "cannot open /nowhere/prompts", {"--model", model, "--prompts", "/nowhere/prompts"}},
        {2, "exclude each other", {"--model", model, "--prompt", "x", "--interactive"}},
        {2, "--top-p: 1.5 is not between 0 and 1", {"--model", model, "--top-p", "1.5"}},
        {2, "--stop: the text is empty", {"--model", model, "--stop", ""}},
        {2, "unrecognized option '--csv'", {"--model", model, "--csv", "/nowhere/x.csv"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *argv[12] = {"generate"};
        for (int j = 0; cases[i].flags[j]; j++) argv[j + 1] = cases[i].flags[j];
        Output o = deepseek_with((Start){0}, argv);
        expect(&o, cases[i].status, cases[i].says);
    }
    Output o = EXPECT(0, "the", "generate", "--model", model, "--max-new-tokens", "1000",
                      "--prompt", "the");
    cr_assert(strstr(o.err, "context of 64 tokens is full"), "%s", o.err);
}

Test(generate, damaged_models_are_named) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    const struct {
        const char *file, *from, *to, *says;
    } cases[] = {
        {"config.json", "deepseek_v3", "llama", "this program knows: deepseek_v3, deepseek_v2"},
        {"config.json", "\"hidden_size\"", "\"hidden_sighs\"", "hidden_size is missing"},
        {"config.json", "\"vocab_size\":\t283", "\"vocab_size\":\t290",
         "'model.embed_tokens.weight' has shape [283, 32], but the model of config.json needs "
         "[290, 32]"},
        {"config.json", "\"num_hidden_layers\":\t2", "\"num_hidden_layers\":\t1",
         "tensors that the model of config.json does not have: model.layers.1."},
        {"config.json", "\"num_hidden_layers\":\t2", "\"num_hidden_layers\":\t3",
         "are not in its files: model.layers.2."},
        {"model.safetensors", "experts.3.up_proj", "experts.9.up_proj", "experts.3.up_proj"},
        {"tokenizer.json", "\"BPE\"", "\"Unigram\"", "only BPE is supported"},
        {"tokenizer.json", "\"<|endoftext|>\"", "\"<|endoftext", "not JSON at line"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char command[700];
        const char *copy = path_in(w.directory, "copy");
        snprintf(command, sizeof command, "rm -rf %s && cp -r %s %s", copy, model, copy);
        cr_assert(system(command) == 0);
        edit_file(path_in(copy, cases[i].file), cases[i].from, cases[i].to);
        Output o = EXPECT(1, cases[i].says, "generate", "--model", copy, "--prompt", "the");
        expect(&o, 1, "copy"); /* which file it is */
    }
}
