/*
 * deepseek generate, as a process: what it prints for one prompt, for many, and in a conversation.
 */
/* first: it says which functions of the system it needs */
#include "10_full_model/tests/test_deepseek.h"

#include "common/core/utf8.h"
#include "common/files/json.h"

#include <math.h>
#include <pty.h>

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

/* A cache in eight bits: another rounding of what each token leaves, the same greedy text of a
 * model that knows it by heart. */
Test(generate, keeps_tokens_in_eight_bits) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
#define BY_HEART "--prompt", "the cat", "--temperature", "0", "--max-new-tokens", "12"
    Output plain = GENERATE(model, BY_HEART), fp8 = GENERATE(model, BY_HEART, "--cache", "fp8");
    expect(&fp8, 0, "the cat sat on the");
    cr_assert_str_eq(plain.out, fp8.out);
    EXPECT(2, "--cache", "generate", "-m", model, "--cache", "fp4");
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
                     "--top-p", "1", "--max-new-tokens", "9", "--seed", "1", batches[i]);
        expect(&o, 0, "[5] a cat");
        if (i == 0) first = o;
        cr_assert_str_eq(o.out, first.out);
    }
    const char *one = strstr(first.out, "[1]") + 4, *four = strstr(first.out, "[4]") + 4;
    cr_assert(strncmp(one, four, 20), "the same prompt twice draws two answers");
}

/* From a pipe: only the texts come out, and what is wrong with a setting. */
Test(generate, talks) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    Output o = deepseek_with(
        (Start){.input = "/temp 0\n/tokens 4\nthe cat\n\n/help\n/temp warm\n/top-k 2.5\n/song\n"
                         "a dog\n/clear\nthe cat\n/quit\nnever read\n"},
        ARGUMENTS("generate", "--model", model, "--interactive", "--seed", "3"));
    expect(&o, 0, "/temp     0 "); /* what /help says */
    expect(&o, 0, "/tokens   4 ");
    expect(&o, 0, "/temp: 'warm' is not a number between 0 and 100");
    expect(&o, 0, "/top-k: '2.5' is not a whole number");
    expect(&o, 0, "there is no /song");
    check_all(!strstr(o.out, "never read"), !strstr(o.out, "> "), !strstr(o.out, " tokens/s"));

    /* The empty line goes on where the text has stopped, a line goes behind it, /clear forgets. */
    Output whole = GENERATE(model, "--prompt", "the cat", "--temperature", "0", "-n", "8");
    char first[200], both[200];
    int end = (int)strcspn(o.out, "\n"), next = end + 1 + (int)strcspn(o.out + end + 1, "\n");
    snprintf(first, sizeof first, "%.*s", end, o.out);
    snprintf(both, sizeof both, "%s%.*s", first, next - end - 1, o.out + end + 1);
    cr_assert(!strncmp(whole.out, both, strlen(both)), "'%s', but '%s'", whole.out, both);
    char prompt[300];
    snprintf(prompt, sizeof prompt, "%s\na dog", both);
    Output third = GENERATE(model, "-p", prompt, "--temperature", "0", "-n", "4");
    cr_assert(strstr(o.out, strrchr(third.out, 'a')), "'%s' is not in\n%s", third.out, o.out);
    const char *line = strstr(o.out, "a dog");
    cr_assert(strstr(line, first), "'%s' begins anew in\n%s", first, line);
}

/* On a terminal: the settings, a prompt, and how it went. */
Test(generate, talks_at_a_terminal) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    int terminal, program;
    cr_assert(openpty(&terminal, &program, NULL, NULL, NULL) == 0);
    const char input[] = "/temp 0\nthe cat\n/tokens 4\n\n/quit\n";
    cr_assert(write(terminal, input, strlen(input)) > 0);
    Output o = deepseek_with((Start){.terminal = program},
                             ARGUMENTS("generate", "-m", model, "--interactive"));
    expect(&o, 0, "/temp     0.8 "); /* how it begins */
    expect(&o, 0, "> [temp is 0]");
    expect(&o, 0, "the cat sat on the");
    expect(&o, 0, " tokens/s]");
    expect(&o, 0, "[as long as its training's texts; /clear begins anew");
    expect(&o, 0, "[longer than the 16 tokens of its training's texts");
    close(terminal), close(program);
}

/* Of itself an answer ends where the texts of the training did; who wants more is told. */
Test(generate, knows_how_long_its_texts_were) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    char *config = file_text(path_in(model, "config.json"), &(size_t){0});
    cr_assert(strstr(config, "\"trained_context_length\":\t16"), "%s", config);
    Output o = GENERATE(model, "-p", "the cat", "--temperature", "0");
    cr_assert(strstr(o.err, "ends at 16 tokens") && !strstr(o.err, "fall apart"), "%s", o.err);
    o = GENERATE(model, "-p", "the cat", "--temperature", "0", "-n", "30");
    cr_assert(strstr(o.err, "longer than the 16 tokens") && strstr(o.err, "30 tokens, "), "%s",
              o.err);
    o = GENERATE(model, "-p", "the cat", "--temperature", "0", "-n", "3");
    cr_assert_null(strchr(o.err, '('), "%s", o.err);
    /* Of a model that does not say, nothing is said. */
    edit_file(path_in(model, "config.json"), "trained_context_length", "other");
    o = GENERATE(model, "-p", "the cat", "--temperature", "0", "-n", "30");
    cr_assert_null(strchr(o.err, '('), "%s", o.err);
}

Test(generate, draws_a_seed_and_says_it) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
#define HOT "-p", "the", "--temperature", "3", "--top-p", "1", "-n", "12"
    Output o = GENERATE(model, HOT);
    char seed[40];
    cr_assert(sscanf(o.err, "seed %39[0-9]", seed) == 1, "%s", o.err);
    Output again = GENERATE(model, HOT, "--seed", seed), other = GENERATE(model, HOT);
    cr_assert_str_eq(o.out, again.out);
    check_all(strcmp(o.out, other.out), !strstr(again.err, "seed "));
    o = GENERATE(model, "-p", "the", "--temperature", "0", "-n", "3");
    cr_assert_null(strstr(o.err, "seed"), "nothing is drawn: %s", o.err);
}

Test(generate, takes_a_prompt_from_a_pipe) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
#define PIPED "generate", "-m", model, "-p", "-", "--temperature", "0", "-n", "5"
    Output o = deepseek_with((Start){.input = "the cat\n"}, ARGUMENTS(PIPED)),
           same = GENERATE(model, "-p", "the cat", "--temperature", "0", "-n", "5");
    cr_assert_str_eq(o.out, same.out);
    o = deepseek_with((Start){.input = ""}, ARGUMENTS(PIPED));
    expect(&o, 0, ""); /* no prompt at all: a text's beginning */
    char *text = file_text(path_in(w.directory, "text.txt"), &(size_t){0});
    if (strchr(text, '\n')) { /* then that is a newline, which the model has seen */
        same = GENERATE(model, "-p", "\n", "--temperature", "0", "-n", "5");
        cr_assert_str_eq(o.out, same.out + 1);
    }
}

/* By hand from `logits`: the log of softmax at the token that came. */
Test(generate, logprobs_are_the_models_own) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    Output text = GENERATE(model, "-p", "the cat", "--seed", "4", "-n", "6"),
           o = GENERATE(model, "-p", "the cat", "--seed", "4", "-n", "6", "--logprobs");
    Error err;
    Tokenizer *tokenizer = tokenizer_load(path_in(model, "tokenizer.json"), &err);
    size_t count;
    int32_t *prompt = tokenizer_encode(tokenizer, "the cat", 7, &count), ids[40];
    memcpy(ids, prompt, count * sizeof *ids);
    int begin = (int)count, length = begin;
    float logprobs[40];
    for (char *line = strtok(o.out, "\n"); line; line = strtok(NULL, "\n")) {
        cJSON *json = json_parse("line", line, strlen(line), &err);
        cr_assert(json, "%s: %s", line, err.text);
        cr_assert(strstr(text.out, cJSON_GetObjectItem(json, "token")->valuestring), "%s", line);
        cr_assert_eq(cJSON_GetObjectItem(json, "prompt")->valueint, 1);
        logprobs[length] = (float)cJSON_GetObjectItem(json, "logprob")->valuedouble;
        ids[length++] = cJSON_GetObjectItem(json, "id")->valueint;
        cJSON_Delete(json);
    }
    cr_assert_eq(length, begin + 6);
    Tensor t = tensor_view(ids, "input_ids", I32, CPU, SHAPE(1, length));
    const char *in = path_in(w.directory, "in.safetensors"),
               *out = path_in(w.directory, "out.safetensors");
    check_ok(safetensors_write(in, &t, 1, NULL, 0, &err), &err);
    EXPECT(0, "tensors in", "logits", "-m", model, "--input", in, "--output", out);
    SafeTensors *file = safetensors_open(out, &err);
    const float *logits = safetensors_find(file, "logits")->data;
    int vocab = (int)safetensors_find(file, "logits")->shape[2];
    for (int i = begin; i < length; i++) {
        const float *row = logits + (i - 1) * vocab;
        double sum = 0;
        for (int v = 0; v < vocab; v++) sum += exp(row[v]);
        /* six digits are printed, and one token at a time may round otherwise than all at once */
        cr_assert_float_eq(logprobs[i], row[ids[i]] - log(sum), 1e-4);
    }
    safetensors_close(file);
    scratch_write(&w, "prompts.txt", "the dog\na cat\n", 14);
    o = EXPECT(0, "{\"prompt\":2,\"id\":", "generate", "-m", model, "--prompts",
               path_in(w.directory, "prompts.txt"), "--logprobs", "-n", "3");
    EXPECT(2, "--logprobs is for", "generate", "-m", model, "--interactive", "--logprobs");
}

Test(generate, writes_whole_characters_only) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    /* at this temperature it writes single bytes, too */
    Output o =
        EXPECT(0, "\xef\xbf\xbd", "generate", "--model", model, "--prompt", "\xc3\xa9",
               "--temperature", "100", "--top-p", "1", "--max-new-tokens", "60", "--seed", "1");
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
        {"config.json", "\"hidden_size\"", "\"hidden_sighs\"", "hidden_size 7168"},
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
