/*
 * deepseek sft and deepseek grpo, as processes: what they leave, how they stop and go on, and what
 * they refuse.
 */
#include "10_full_model/tests/test_deepseek.h"

/* ---- a model for sums, within a second ---- */

/* WORKPLACE/sums.jsonl: prompts and completions; asked.jsonl: the same with answers. */
static Scratch sums(void) {
    Scratch w = workplace();
    char pairs[9000], asked[9000];
    int used = 0, also = 0;
    for (int i = 0; i < 100; i++) {
        int a = i / 10, b = i % 10;
        used += sprintf(pairs + used, "{\"prompt\": \"%d+%d=\", \"completion\": \"%d\"}\n", a, b,
                        a + b);
        also +=
            sprintf(asked + also, "{\"prompt\": \"%d+%d=\", \"answer\": \"%d\"}\n", a, b, a + b);
    }
    scratch_write(&w, "sums.jsonl", pairs, (size_t)used);
    scratch_write(&w, "asked.jsonl", asked, (size_t)also);
    return w;
}

#define SFT(w, from, out)                                                             \
    "sft", "--model", from, "--data", path_in((w)->directory, "sums.jsonl"), "--out", \
        path_in((w)->directory, out), "--batch", "8", "--eval-batches", "1", "--peak", "0"

#define GRPO(w, from, out)                                                                    \
    "grpo", "--model", from, "--task", path_in((w)->directory, "asked.jsonl"), "--out",       \
        path_in((w)->directory, out), "--prompts", "4", "--num-generations", "4",             \
        "--eval-prompts", "8", "--num-generations-eval", "2", "--max-completion-length", "4", \
        "--learning-rate", "3e-3"

static int rows(const char *directory) {
    char line[4000];
    int count = 0;
    FILE *file = fopen(path_in(directory, "metrics.csv"), "r");
    while (file && fgets(line, sizeof line, file)) count += line[0] >= '1' && line[0] <= '9';
    if (file) fclose(file);
    return count;
}

/* Starts a run that is far from its end, and ends it when it has done some steps. */
static Output interrupted(const char *out, int signal, const char *const *arguments) {
    Process p = process_start((Start){0}, arguments);
    for (int i = 0; rows(out) < 3; i++) {
        struct timespec pause = {0, 2000000};
        nanosleep(&pause, NULL);
        cr_assert(i < 25000, "no step in a minute");
        cr_assert(waitpid(p.id, NULL, WNOHANG) == 0, "it ended by itself");
    }
    kill(p.id, signal);
    return process_end(&p);
}

static const char *written(Scratch *w, const char *name, const char *text) {
    return strdup(scratch_write(w, name, text, strlen(text)));
}

/* ---- sft ---- */

Test(sft, teaches_what_is_shown) {
    Scratch w = sums();
    const char *model = trained_model(&w), *out = path_in(w.directory, "tuned");
    Output o = EXPECT(0, "Done after 400 steps", SFT(&w, model, "tuned"), "--steps", "400",
                      "--learning-rate", "3e-3", "--eval-every", "100");
    expect(&o, 0, "95 pairs to learn from, 5 held out, of up to 7 tokens; windows of 6");
    same_bytes(model, out, "tokenizer.json");
    int right = 0;
    for (int i = 0; i < 9; i++) {
        char prompt[8], answer[8];
        snprintf(prompt, sizeof prompt, "%d+%d=", i, 9 - i);
        snprintf(answer, sizeof answer, "%s9\n", prompt);
        o = DEEPSEEK("generate", "--model", path_in(out, "last"), "--prompt", prompt, "-n", "6",
                     "--temperature", "0");
        right += !strcmp(o.out, answer);
    }
    cr_assert(right >= 6, "%d of 9: '%s'", right, o.out);
}

/* Bytes as tokens, random weights, problems without end. */
Test(sft, begins_with_nothing) {
    Scratch w = sums();
    const char *out = path_in(w.directory, "new");
    EXPECT(0, "addition without end, of up to 7 tokens; windows of 6", "sft", "--config", "nano",
           "--task", "addition", "--digits", "1", "--out", out, "--steps", "2", "--batch", "4",
           "--eval-batches", "1", "--peak", "0");
    EXPECT(0, "3+4=", "generate", "--model", out, "--prompt", "3+4=", "-n", "4", "--seed", "1");
}

Test(sft, ends_in_the_same_bits) {
    Scratch w = sums();
    const char *model = trained_model(&w);
#define LONG_SFT(out) \
    SFT(&w, model, out), "--steps", "300", "--eval-every", "60", "--accumulate", "2"
    Output o = interrupted(path_in(w.directory, "parts"), SIGTERM, ARGUMENTS(LONG_SFT("parts")));
    cr_assert(o.status == 128 + SIGTERM && strstr(o.out, "all is saved"), "%d\n%s", o.status,
              o.out);
    EXPECT(0, "Done after 300 steps", LONG_SFT("parts"), "--resume");
    EXPECT(0, "has no run to resume: this begins one", LONG_SFT("whole"), "--resume");
    same_bytes(path_in(w.directory, "parts"), path_in(w.directory, "whole"),
               "last/training.safetensors");
    EXPECT(0, "All 300 steps of this run were done before; --model", LONG_SFT("parts"), "--resume");
    written(&w, "sums.jsonl",
            "{\"prompt\": \"1\", \"completion\": \"23456\"}\n"
            "{\"prompt\": \"2\", \"completion\": \"34567\"}\n");
    EXPECT(1, "but now it is", LONG_SFT("parts"), "--resume");
}

/* ---- grpo ---- */

static const char *tuned_model(Scratch *w) {
    const char *model = trained_model(w);
    EXPECT(0, "Done", SFT(w, model, "tuned"), "--steps", "150", "--learning-rate", "3e-3");
    return path_in(w->directory, "tuned/last");
}

static double number_behind(const char *text, const char *words) {
    const char *at = strstr(text, words);
    cr_assert_not_null(at, "'%s' is not in\n%s", words, text);
    return atof(at + strlen(words));
}

Test(grpo, learns_from_rewards) {
    Scratch w = sums();
    const char *model = tuned_model(&w), *out = path_in(w.directory, "better");
    Output o =
        deepseek_with((Start){.charts = true},
                      ARGUMENTS(GRPO(&w, model, "better"), "--steps", "60", "--eval-every", "20",
                                "--prompts", "16", "--beta", "0.01", "--rewards", "format"));
    expect(&o, 0, "90 questions, 10 held out; rewards 1 format");
    expect(&o, 0, "a step: 16 questions x 4 answers of up to 4 tokens, loss dapo");
    expect(&o, 0, "Done after 60 steps");
    expect(&o, 0, "step 20 ");
    expect(&o, 0, "8 held-out questions: pass@1 ");
    for (char *line = strtok(strdup(o.out), "\n"); line; line = strtok(NULL, "\n"))
        cr_assert(strlen(line) <= 80 || strstr(line, w.directory), "wide: %s", line);
    static const char *const files[] = {
        "config.json", "model.safetensors",         "tokenizer.json",
        "metrics.csv", "last/training.safetensors", "last/model.safetensors"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        cr_assert(exists(out, files[i]), "%s is missing", files[i]);
    if (!strstr(o.out, "gnuplot is missing")) cr_assert(exists(out, "reward.svg"));
    cr_assert(rows(out) == 60);
    /* the mean reward of the first ten steps, and of the last ten */
    double first = 0, last = 0;
    char *csv = file_text(path_in(out, "metrics.csv"), &(size_t){0});
    for (char *row = strstr(csv, "\n1,"); row && row[1]; row = strchr(row + 1, '\n')) {
        int step = atoi(row + 1);
        const char *reward = row;
        for (int column = 0; column < 6; column++) reward = strchr(reward, ',') + 1;
        if (step <= 10) first += atof(reward) / 10;
        if (step > 50) last += atof(reward) / 10;
    }
    cr_assert(last > first + 0.1, "from %g to %g", first, last);
    double before = number_behind(o.out, "held-out accuracy "),
           after = number_behind(o.out, " -> ");
    cr_assert(before >= 0 && before <= 1 && after >= 0 && after <= 1);
    EXPECT(0, "3+4=", "generate", "--model", out, "--prompt", "3+4=", "-n", "4", "--seed", "1");
}

/* Killed at any moment, it goes on from its last save; stopped by the clock, from there. */
Test(grpo, ends_in_the_same_bits) {
    Scratch w = sums();
    const char *model = tuned_model(&w), *parts = path_in(w.directory, "parts");
#define LONG_GRPO(out)                                                                     \
    GRPO(&w, model, out), "--steps", "24", "--eval-every", "2", "--beta", "0.05",          \
        "--sync-ref-model", "yes", "--ref-model-sync-steps", "4", "--num-iterations", "2", \
        "--mini-batches", "2", "--top-k", "20", "--num-completions-to-print", "0"
    Output o = interrupted(parts, SIGKILL, ARGUMENTS(LONG_GRPO("parts")));
    cr_assert_eq(o.status, 128 + SIGKILL);
    EXPECT(0, "The time is up after ", LONG_GRPO("parts"), "--resume", "--minutes", "0.0001");
    EXPECT(0, "Done after 24 steps", LONG_GRPO("parts"), "--resume");
    EXPECT(0, "Done after 24 steps", LONG_GRPO("whole"));
    static const char *const files[] = {"last/training.safetensors", "last/model.safetensors",
                                        "model.safetensors"};
    for (int i = 0; i < 3; i++) same_bytes(path_in(w.directory, "whole"), parts, files[i]);
    cr_assert(rows(parts) == 24);
    EXPECT(0, "All 24 steps of this run were done before", LONG_GRPO("parts"), "--resume");
    EXPECT(1, "--beta 0.05, but now it is 0.1", LONG_GRPO("parts"), "--resume", "--beta", "0.1");
    EXPECT(1, "but now it is", "train", "--data", path_in(w.directory, "text.txt"), "--out", parts,
           "--resume", "--peak", "0", "--context", "16");
}

/* What is quantised is trained, and written, as plain numbers. */
Test(grpo, from_a_quantised_model) {
    Scratch w = sums();
    const char *model = tuned_model(&w), *small = path_in(w.directory, "small");
    EXPECT(0, "is written", "quantize", "--model", model, "--to", "int8", "--group", "0", "--out",
           small);
    Output o = EXPECT(0, "Done after 2 steps", GRPO(&w, small, "better"), "--steps", "2", "--beta",
                      "0.1", "--rewards", "digits");
    cr_assert(strstr(o.err, "small is quantised: training begins with the numbers"), "%s", o.err);
    char *config = file_text(path_in(w.directory, "better/config.json"), &(size_t){0});
    cr_assert_null(strstr(config, "quantization_config"));
    o = EXPECT(0, "Done after 2 steps", SFT(&w, small, "taught"), "--steps", "2");
    cr_assert(strstr(o.err, "small is quantised"), "%s", o.err);
}

/* Modules that guess get no gradient from rewards: they stay as they are, and weight decay would
 * not leave them so. */
Test(grpo, modules_stay_as_they_are) {
    Scratch w = sums();
    EXPECT(0, "Done", TRAINING(&w, "guesses"), "--steps", "4", "--mtp", "1");
    const char *model = path_in(w.directory, "guesses"), *out = path_in(w.directory, "better");
    EXPECT(0, "Done", SFT(&w, model, "shown"), "--steps", "30", "--learning-rate", "3e-3");
    EXPECT(1, "--weight-decay would shrink this model's modules", GRPO(&w, model, "better"),
           "--weight-decay", "0.1");
    const char *shown = path_in(w.directory, "shown/last");
    EXPECT(0, "Done", GRPO(&w, shown, "better"), "--steps", "2", "--rewards", "digits");
    SafeTensors *a = safetensors_open(path_in(shown, "model.safetensors"), &err),
                *b = safetensors_open(path_in(out, "last/model.safetensors"), &err);
    static const char *const names[] = {"model.layers.2.eh_proj.weight",
                                        "model.layers.2.self_attn.o_proj.weight"};
    for (int i = 0; i < 2; i++) {
        const Tensor *x = safetensors_find(a, names[i]), *y = safetensors_find(b, names[i]);
        cr_assert(x && y && !memcmp(x->data, y->data, tensor_bytes(x)), "%s", names[i]);
    }
}

/* ---- what is wrong ---- */

typedef struct Wrong {
    int status;
    const char *says, *flags[8];
} Wrong;

static void check_wrong(const char *const *command, const Wrong *cases, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const char *argv[60];
        int n = 0;
        for (; command[n]; n++) argv[n] = command[n];
        for (int j = 0; cases[i].flags[j]; j++) argv[n++] = cases[i].flags[j];
        argv[n] = NULL;
        Output o = deepseek_with((Start){0}, argv);
        expect(&o, cases[i].status, cases[i].says);
    }
}

#define PAIR "{\"prompt\": \"1\", \"completion\": \"2\", \"answer\": \"2\"}\n"

Test(sft, says_what_is_wrong) {
    Scratch w = sums();
    const char *model = trained_model(&w), *last = path_in(model, "last");
    const char *broken = written(&w, "broken.jsonl", PAIR PAIR "{\"prompt\": \"1\"\n");
    const char *fields =
        written(&w, "fields.jsonl", PAIR "{\"question\": \"1\", \"completion\": 2}\n");
    const char *one = written(&w, "one.jsonl", PAIR);
    const Wrong cases[] = {
        {1, "broken.jsonl:3: ", {"--data", broken}},
        {1, "fields.jsonl:2: there is no field \"prompt\"", {"--data", fields}},
        {1, "of 1 lines all would be held out", {"--data", one}},
        {1, "cannot open", {"--data", "/nowhere/x.jsonl"}},
        {1, "all of its 100 lines are too long", {"--context", "2"}},
        {1, "longer than this model's 64 positions", {"--context", "65"}},
        {2, "--data names a file of prompts and completions, --task makes", {"--task", "sort"}},
        {2, "--config begins with random weights; give one", {"--config", "nano"}},
        {2, "would write over", {"--out", model, "--overwrite"}},
        {2, "would write over", {"--model", last, "--out", model, "--overwrite"}},
        {2, "give one", {"--resume", "--overwrite"}},
        {1, "is no model's folder", {"--model", w.directory}},
        {2, "more than all 4 steps", {"--warmup", "5"}},
        {1, "the folder /nowhere: No such", {"--csv", "/nowhere/x.csv"}},
    };
    check_wrong(ARGUMENTS(SFT(&w, model, "new"), "--steps", "4"), cases,
                sizeof cases / sizeof *cases);
    cr_assert_not(exists(path_in(w.directory, "new"), "last/training.safetensors"));
    EXPECT(2, "--model says which model is to learn", "sft", "--data", one, "--out", "x");
    EXPECT(1, "there is no task \"sums\"; there are", "sft", "--config", "nano", "--task", "sums",
           "--out", path_in(w.directory, "new"));
    EXPECT(1, "there are: nano, small", "sft", "--config", "huge", "--task", "sort", "--out",
           path_in(w.directory, "new"));
    Output o = EXPECT(0, "Done", SFT(&w, model, "new"), "--steps", "1", "--context", "5");
    cr_assert(strstr(o.err, "sums.jsonl:20: left out: 7 tokens, and there is room for 6"), "%s",
              o.err);
    cr_assert(strstr(o.err, "45 of 100 lines are left out"), "%s", o.err);
    EXPECT(1, "--resume goes on with it", SFT(&w, model, "new"), "--steps", "1");
}

Test(grpo, says_what_is_wrong) {
    Scratch w = sums();
    const char *model = trained_model(&w);
    const char *broken = written(&w, "broken.jsonl", PAIR PAIR "\n{\"prompt\": 3}\n");
    const char *bare = written(&w, "bare.jsonl", "{\"prompt\": \"1\"}\n{\"prompt\": \"2\"}\n");
    const char *empty = written(&w, "empty.jsonl", "");
    const Wrong cases[] = {
        {2, "num_generations is 1", {"--num-generations", "1"}},
        {2, "num_generations is 1", {"--num-generations", "1", "--scale-rewards", "none"}},
        {2, "--prompts: 0 is not", {"--prompts", "0"}},
        {2, "--num-generations: 0 is not", {"--num-generations", "0"}},
        {2, "temperature is 0", {"--temperature", "0"}},
        {2, "do not divide into 3 mini-batches", {"--mini-batches", "3"}},
        {2, "delta is 1.1; it must be 0 (none) or more than", {"--delta", "1.1"}},
        {2, "'gpro' is none of: grpo", {"--loss-type", "gpro"}},
        {2, "with --beta 0 there is none", {"--sync-ref-model", "yes"}},
        {2, "--beta: -1 is not", {"--beta", "-1"}},
        {2, "--epsilon: 'nan' is not a number", {"--epsilon", "nan"}},
        {1, "there is no reward \"acuracy\"; there are", {"--rewards", "acuracy"}},
        {1, "the weight of reward \"length\" is \"x\"", {"--rewards", "accuracy,length=x"}},
        {1, "no file of this name, and there is no task \"sums\"", {"--task", "sums"}},
        {1, "broken.jsonl:4: the field \"prompt\" is not a string", {"--task", broken}},
        {1, "there is no text in it", {"--task", empty}},
        {1, "no reward could judge any", {"--task", bare}},
        {1, "no reward could judge any", {"--rewards", "countdown"}},
        {1, "leaves no room for a prompt", {"--max-completion-length", "64"}},
        {1, "all of its 100 lines are too long", {"--max-completion-length", "62"}},
        {1, "addition of 13: it must be 1 to 12", {"--task", "addition", "--digits", "13"}},
        {2, "would write over", {"--out", model, "--overwrite"}},
        {2, "--learning-rate 0 would leave", {"--learning-rate", "0"}},
        {1, "is no model's folder", {"--model", w.directory}},
    };
    check_wrong(ARGUMENTS(GRPO(&w, model, "new"), "--steps", "4"), cases,
                sizeof cases / sizeof *cases);
    cr_assert_not(exists(path_in(w.directory, "new"), "last/training.safetensors"));
    /* A model that has never seen an end is always wrong: nothing can be learned from that. */
    Output o = EXPECT(0, "2 of 2 steps taught nothing", GRPO(&w, model, "flat"), "--steps", "2");
    cr_assert(strstr(o.err, "step 1: within each group all rewards are equal"), "%s", o.err);
}

/* Without a token that ends a text, every answer would be cut off. */
Test(grpo, needs_an_end) {
    Scratch w = sums();
    const char *model = trained_model(&w), *endless = path_in(w.directory, "endless");
    EXPECT(0, "is written", "convert", "--model", model, "--out", endless);
    remove(path_in(endless, "tokenizer_config.json"));
    remove(path_in(endless, "generation_config.json"));
    char *tokenizer = file_text(path_in(endless, "tokenizer.json"), &(size_t){0});
    if (strstr(tokenizer, "<|endoftext|>"))
        for (int i = 0; i < 2 && strstr(tokenizer, "<|endoftext|>"); i++) {
            edit_file(path_in(endless, "tokenizer.json"), "<|endoftext|>", "<|some_other|>");
            tokenizer = file_text(path_in(endless, "tokenizer.json"), &(size_t){0});
        }
    size_t bytes;
    char *config = file_text(path_in(endless, "config.json"), &bytes);
    if (strstr(config, "eos_token_id"))
        edit_file(path_in(endless, "config.json"), "eos_token_id", "x");
    EXPECT(1, "no token that ends a text", GRPO(&w, endless, "new"), "--steps", "4");
    EXPECT(1, "no token that ends a text", SFT(&w, endless, "new"), "--steps", "4");
}
