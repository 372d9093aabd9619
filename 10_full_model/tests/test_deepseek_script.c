/*
 * tools/train_109m.sh from its first command to its last, with a small model and a small text: what
 * it leaves, that pieces change nothing, and what it says of wrong flags. Then what becomes of its
 * model (tools/judge_109m.sh), and the same seconds for other models (tools/compare_109m.sh).
 */
/* first: it says which functions of the system it needs */
#include "10_full_model/tests/test_deepseek.h"

#include "common/core/rng.h"
#include "common/files/files.h"

/* Documents first .. first + count - 1, of words that a tokenizer can learn something from. */
static void write_books(Scratch *w, const char *name, int first, int count) {
    static const char *const words[] = {"the", "of", "and", "lighthouse", "water", "with"};
    FILE *file = fopen(scratch_path(w, name), "w");
    for (int i = first; i < first + count; i++) {
        fprintf(file, "{\"title\": \"%d\", \"text\": \"", i);
        for (int j = 0; j < 120; j++) {
            Philox p = philox((uint64_t)i, 9, (uint64_t)j);
            if (p.word[0] % 2)
                fprintf(file, "%s ", words[p.word[1] % 6]);
            else
                fprintf(file, "%c%co%c%c ", 'a' + p.word[1] % 20, 'e', 'k' + p.word[2] % 10,
                        'a' + p.word[3] % 16);
        }
        fprintf(file, "\"}\n");
    }
    cr_assert(fclose(file) == 0);
}

/* Books to learn from, and some that are held out. */
static Scratch open_books(void) {
    Scratch w = scratch_open();
    write_books(&w, "books.jsonl", 0, 60);
    write_books(&w, "held.jsonl", 60, 6);
    return w;
}

static const char *tasks_path(void) {
    static char path[500];
    Error err;
    check_ok(project_path(path, sizeof path, "10_full_model/goldens/tasks/tasks.jsonl", &err),
             &err);
    return path;
}

/* With the program of this build; what it prints goes to its log anyway. */
static Output script(const char *name, const char *const *arguments) {
    char program[500], path[500];
    const char *argv[40] = {"bash", path};
    Output o = {0};
    FILE *out = tmpfile();
    program_path(program, sizeof program, "deepseek");
    check_ok(project_path(path, sizeof path, name, &err), &err);
    for (int i = 0; arguments[i]; i++) argv[i + 2] = arguments[i];
    pid_t id = fork();
    if (id == 0) {
        alarm(120);
        setenv("DEEPSEEK", program, 1);
        dup2(fileno(out), 1), dup2(fileno(out), 2);
        execvp("bash", (char *const *)argv);
        _exit(127);
    }
    int status;
    cr_assert(waitpid(id, &status, 0) == id);
    o.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    usleep(300000); /* what it says goes through tee, which nobody waits for */
    read_back(out, o.out, sizeof o.out);
    return o;
}
#define SCRIPT(...)  script("tools/train_109m.sh", ARGUMENTS(__VA_ARGS__))
#define JUDGE(...)   script("tools/judge_109m.sh", ARGUMENTS(__VA_ARGS__))
#define COMPARE(...) script("tools/compare_109m.sh", ARGUMENTS(__VA_ARGS__))
#define SMALL                                                                               \
    "--held-out", path_in(w.directory, "held.jsonl"), "--config", "nano", "--vocab", "300", \
        "--device", "cpu", "--dtype", "f32", "--batch", "2", path_in(w.directory, "books.jsonl")

Test(script, from_books_to_a_judged_model, .timeout = 240) {
    Scratch w = open_books();
    const char *whole = path_in(w.directory, "whole"), *pieces = path_in(w.directory, "pieces");
    const char *tasks = tasks_path();
    Output o = SCRIPT("--out", whole, "--steps", "4", "--tasks", tasks, SMALL);
    cr_assert(o.status == 0 && strstr(o.out, "== done: "), "%d: %s", o.status, o.out);
    static const char *const files[] = {
        "shards/report.json", "plan",      "samples.txt", "log",
        "positions.csv",      "tasks.csv", "eval.txt",    "model/metrics.csv",
        "model/config.json",  "pieces.csv"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        cr_expect(exists(whole, files[i]), "%s", files[i]);
    cr_expect(strstr(o.out, "= validation                  6"), "%s", o.out);
    cr_expect(strstr(file_text(path_in(whole, "samples.txt"), &(size_t){0}), "step 4 of 4"));

    /* A step in a piece; and no time at all for the first call. */
    o = SCRIPT("--out", pieces, "--steps", "4", "--piece", "0.0001", "--minutes", "0.0001", SMALL);
    cr_assert(o.status == 0 && strstr(o.out, "the time is up after step 0"), "%s", o.out);
    o = SCRIPT("--out", pieces, "--piece", "0.0001", SMALL);
    cr_assert(o.status == 0 && strstr(o.out, "== done: "), "%s", o.out);
    cr_expect(strstr(o.out, "after 3 of 4 steps"), "%s", o.out);
    same_bytes(whole, pieces, "model/model.safetensors");
    same_bytes(whole, pieces, "model/last/training.safetensors");
    same_bytes(whole, pieces, "shards/train-00000.shard");
}

/* What stands behind a CSV's head: its line of columns and its rows; 0 without the file. */
static int csv_lines(const char *path) {
    int lines = 0;
    if (access(path, F_OK)) return 0;
    for (const char *p = file_text(path, &(size_t){0}); *p; p++)
        if (p[0] == '\n' && p[1] && p[1] != '#') lines++;
    return lines;
}

/* A model that can have indexers: every part has its rows, and a second call does nothing again. */
Test(script, judges_what_becomes_of_it, .timeout = 240) {
    Scratch w = open_books();
    const char *out = path_in(w.directory, "out"), *judged = path_in(w.directory, "judged");
    const char *tasks = tasks_path();
    Output o = SCRIPT("--out", out, "--steps", "4", SMALL, "--config", "nano-q", "--",
                      "--learning-rate", "0.004", "--warmup", "1");
    cr_assert(o.status == 0, "%s", o.out);
    /* what stands behind -- counts */
    const char *metrics = file_text(path_in(out, "model/metrics.csv"), &(size_t){0});
    cr_expect(strstr(metrics, ",0.004,"), "%s", metrics);

    o = JUDGE("--out", judged, "--model", path_in(out, "model"), "--data", path_in(out, "shards"),
              "--tasks", tasks, "--windows", "2", "--steps", "2", "--batch", "2", "--prompts", "16",
              "--device", "cpu", "--dtype", "f32");
    cr_assert(o.status == 0 && strstr(o.out, "== done: "), "%d: %s", o.status, o.out);
    static const struct {
        const char *file;
        int lines;
    } parts[] = {{"quantised.csv", 1 + 6}, {"speculative.csv", 1 + 4}, {"yarn.csv", 1 + 3 * 6},
                 {"sparse.csv", 1 + 4},    {"warm.csv", 1 + 2},        {"trained.csv", 1 + 2}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const char *path = path_in(judged, parts[i].file);
        cr_expect(csv_lines(path) == parts[i].lines, "%s: %d", parts[i].file, csv_lines(path));
        if (exists(judged, parts[i].file)) {
            const char *text = file_text(path, &(size_t){0});
            cr_expect(i > 3 || !strncmp(text, "# command: tools/judge_109m.sh", 30), "%s", text);
            cr_expect_not(strstr(text, "nan"), "%s", text);
        }
    }
    o = JUDGE("--out", judged, "--model", path_in(out, "model"), "--data", path_in(out, "shards"));
    cr_expect(o.status == 0 && !strstr(o.out, "training"), "%d: %s", o.status, o.out);
}

/* Two models of one budget: as many rows as validations; and one that nobody knows stays out. */
Test(script, compares_in_equal_time, .timeout = 240) {
    Scratch w = open_books();
    const char *out = path_in(w.directory, "out"), *compared = path_in(w.directory, "compared");
    Output o = SCRIPT("--out", out, "--steps", "1", SMALL);
    cr_assert(o.status == 0, "%s", o.out);
    o = COMPARE("--out", compared, "--data", path_in(out, "shards"), "--config", "nano",
                "--minutes", "0.01", "--batch", "2", "--device", "cpu", "--dtype", "f32", "--run",
                "full=nano:1:2560", "--run", "no-mtp=nano:0", "--run", "mha=unheard-of:1");
    cr_assert(o.status == 0 && strstr(o.out, "mha is left out"), "%d: %s", o.status, o.out);
    /* 0.6 s of 2,560 tokens, 128 a step */
    cr_expect(strstr(o.out, "full: 12 steps"), "%s", o.out);
    cr_expect(csv_lines(path_in(compared, "compare.csv")) == 1 + 2 * 6);
    cr_expect(csv_lines(path_in(compared, "models.csv")) == 1 + 2);
    const char *models = file_text(path_in(compared, "models.csv"), &(size_t){0});
    cr_expect(strstr(models, "\nfull,") && strstr(models, "\nno-mtp,"), "%s", models);
    cr_expect_not(strstr(models, ",,"), "%s", models);
}

/* The speed is measured, and the steps follow from it and from the text. */
Test(script, plans_by_the_speed, .timeout = 240) {
    Scratch w = open_books();
    const char *out = path_in(w.directory, "out");
    Output o =
        SCRIPT("--out", out, "--budget", "0.02", "--minutes", "0.0001", "--passes", "3", SMALL);
    cr_assert(o.status == 0 && strstr(o.out, "how fast is it?"), "%s", o.out);
    char *plan = file_text(path_in(out, "plan"), &(size_t){0});
    long steps, tokens, step, rate;
    cr_assert(sscanf(plan, "steps=%ld # tokens of text: %ld, of a step: %ld, a second: %ld;",
                     &steps, &tokens, &step, &rate) == 4,
              "%s", plan);
    long fit = (long)(0.95 * 60 * 0.02 * rate / step), most = 3 * tokens / step;
    cr_expect(step == 128 && labs(steps - (fit < most ? fit : most)) <= 1, "%s", plan);
    cr_expect_not(exists(out, "speed"));
}

Test(script, wrong_flags) {
    static const struct {
        const char *a, *b, *c, *says;
    } cases[] = {{"x.jsonl", NULL, NULL, "--out DIR says where"},
                 {"--out", "/nowhere", "--what", "there is no flag --what"},
                 {"--out", "/nowhere", "--steps", "--steps needs a value"},
                 {"--steps", "many", "--out", "needs a value"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Output o = SCRIPT(cases[i].a, cases[i].b, cases[i].c);
        cr_expect(o.status == 2 && strstr(o.out, cases[i].says), "%d: %s", o.status, o.out);
    }
    Scratch w = scratch_open();
    Output o = SCRIPT("--out", w.directory, "--steps", "many");
    cr_expect(o.status == 2 && strstr(o.out, "--steps 'many' is no number"), "%s", o.out);
    o = SCRIPT("--out", w.directory, "--config", "nano");
    cr_expect(o.status == 2 && strstr(o.out, "which files?"), "%s", o.out);
    o = JUDGE("--out", w.directory, "--model", w.directory, "--data", w.directory);
    cr_expect(o.status == 2 && strstr(o.out, "it is no model"), "%s", o.out);
    o = COMPARE("--out", w.directory, "--data", w.directory, "--minutes", "1");
    cr_expect(o.status == 2 && strstr(o.out, "these are no shards"), "%s", o.out);
    o = COMPARE("--out", w.directory, "--minutes", "1", "--run", "full");
    cr_expect(o.status == 2 && strstr(o.out, "are needed"), "%s", o.out);
}
