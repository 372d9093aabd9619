/*
 * What is there already: each command that writes a folder meets each kind of folder, files that
 * only look like ours, kills at any moment, and folders that lie. Nothing of anybody's is lost.
 */
#include "10_full_model/tests/test_deepseek.h"

#include "common/files/process.h"

/* Names and checksums of all files, at any depth. */
static char *snapshot(const char *directory) {
    char command[700];
    size_t bytes;
    Scratch scratch = scratch_open();
    const char *out = path_in(scratch.directory, "sums");
    snprintf(command, sizeof command,
             "cd '%s' && find . -type f -exec cksum {} + | sort -k3 > '%s'; find . -type d >> '%s'",
             directory, out, out);
    cr_assert(system(command) == 0);
    return file_text(out, &bytes);
}

static void copy_folder(const char *from, const char *to) {
    char command[700];
    snprintf(command, sizeof command, "rm -rf '%s' && cp -r '%s' '%s'", to, from, to);
    cr_assert(system(command) == 0);
}

static void put(const char *directory, const char *name, const char *text) {
    FILE *file = fopen(path_in(directory, name), "w");
    cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0, "%s/%s", directory, name);
}

/* What eval says of a model: the same text only for the same weights and tokens. */
static char *measured(const Scratch *w, const char *model) {
    Output o = DEEPSEEK("eval", "--model", model, "--data", path_in(w->directory, "text.txt"),
                        "--context", "16", "--windows", "8");
    cr_assert(o.status == 0, "%s", o.err);
    return strdup(o.out);
}

#define DATA(w, out)                                                                               \
    "data", path_in((w)->directory, "text.txt"), "--out", path_in((w)->directory, out), "--split", \
        "lines", "--no-limits", "--near", "0", "--keep-exact", "--vocab", "283", "--validation",   \
        "0.3", "--cut", "1", "--threads", "1"

/* WORKPLACE with a run, a model, shards, and a folder of somebody's. */
typedef struct Place {
    Scratch w;
    const char *run, *model, *shards, *files, *target;
} Place;

static Place place_open(void) {
    Place p = {.w = workplace()};
    const char *directory = p.w.directory;
    p.run = trained_model(&p.w), p.model = path_in(directory, "plain");
    p.shards = path_in(directory, "shards"), p.files = path_in(directory, "files");
    p.target = path_in(directory, "target");
    EXPECT(0, "is written", "convert", "--model", p.run, "--out", p.model);
    EXPECT(0, "Shards", DATA(&p.w, "shards"));
    cr_assert(mkdir(p.files, 0777) == 0);
    put(p.files, "config.json", "{\"mine\": 1}");
    put(p.files, "tokenizer.json", "{\"mine\": 2}");
    const char *const all[] = {p.run, p.model, p.shards, p.files};
    for (int i = 0; i < 4; i++) { /* nobody's business */
        put(all[i], "thesis.tex", "mine");
        put(all[i], "notes.json.backup.tmp", "mine");
    }
    return p;
}

Test(folders, nothing_is_replaced_unasked) {
    Place p = place_open();
    enum { MODEL, RUN, SHARDS, FILES, CONVERT = 0, TRAIN, RESUME, DATA_, QUANTIZE };
    const char *const there[] = {p.model, p.run, p.shards, p.files};
    static const struct {
        int there, command;
        const char *says, *overwritten; /* without and with --overwrite; NULL: it works */
    } cases[] = {
        {MODEL, CONVERT, "has a model, which would be lost", NULL},
        {MODEL, QUANTIZE, "has a model, which would be lost", NULL},
        {MODEL, TRAIN, "has a model, which would be lost", NULL},
        {MODEL, RESUME, "no last/training.safetensors to resume from", "give one"},
        {MODEL, DATA_, "has a model, and shards need", "has a model, and shards need"},
        {RUN, CONVERT, "has a training run, and a model", "has a training run, and a model"},
        {RUN, QUANTIZE, "has a training run, and a model", "has a training run, and a model"},
        {RUN, TRAIN, "--resume goes on with it, --overwrite", NULL},
        {RUN, DATA_, "has a training run, and shards", "has a training run, and shards"},
        {SHARDS, CONVERT, "has shards, and a model needs", "has shards, and a model needs"},
        {SHARDS, QUANTIZE, "has shards, and a model needs", "has shards, and a model needs"},
        {SHARDS, TRAIN, "has shards, and a training run", "has shards, and a training run"},
        {SHARDS, RESUME, "has shards, and a training run", "give one"},
        {SHARDS, DATA_, "holds finished shards already", NULL},
        {FILES, CONVERT, "json, which would be lost", NULL},
        {FILES, QUANTIZE, "json, which would be lost", NULL},
        {FILES, TRAIN, "json, which would be lost", NULL},
        {FILES, RESUME, "json, which would be lost", "give one"},
        {FILES, DATA_, "has a file tokenizer.json, which would be lost", NULL},
    };
    const char *const commands[][40] = {
        {"convert", "--model", p.run, "--out", p.target},
        {TRAINING(&p.w, "target"), "--steps", "2"},
        {TRAINING(&p.w, "target"), "--steps", "2", "--resume"},
        {DATA(&p.w, "target")},
        {"quantize", "--model", p.run, "--out", p.target, "--to", "int8", "--group", "0"}};
    for (size_t i = 0; i < 2 * (sizeof cases / sizeof cases[0]); i++) {
        int command = cases[i / 2].command, count = 0;
        bool overwrite = i & 1;
        const char *says = overwrite ? cases[i / 2].overwritten : cases[i / 2].says;
        const char *argv[42];
        for (; commands[command][count]; count++) argv[count] = commands[command][count];
        if (overwrite) argv[count++] = "--overwrite";
        argv[count] = NULL;
        copy_folder(there[cases[i / 2].there], p.target);
        char *before = snapshot(p.target);
        Output o = deepseek_with((Start){0}, argv);
        if (says) {
            cr_assert(o.status == 1 || o.status == 2, "case %zu: %d %s", i, o.status, o.out);
            cr_assert(strstr(o.err, says), "case %zu: '%s' should say %s", i, o.err, says);
            cr_assert_str_eq(snapshot(p.target), before, "case %zu has changed something", i);
            continue;
        }
        cr_assert(o.status == 0, "case %zu: %s", i, o.err);
        if (command == DATA_)
            EXPECT(0, "as the index says", "data", "--verify", p.target);
        else
            measured(&p.w, p.target);
        cr_assert(exists(p.target, "thesis.tex") && exists(p.target, "notes.json.backup.tmp"),
                  "case %zu took somebody's file", i);
    }
}

Test(folders, without_a_name_and_inside_a_run) {
    Place p = place_open();
    const char *last = path_in(p.run, "last"), *in = path_in(p.w.directory, "text.txt");
    const struct {
        const char *says, *argv[40];
    } cases[] = {
        {"--out: it is empty; name a folder", {"convert", "--model", p.run, "--out", ""}},
        {"--out: it is empty; name a folder", {TRAINING(&p.w, "x"), "--out", ""}},
        {"--out: it is empty; name a folder", {TRAINING(&p.w, "x"), "--out", "", "--resume"}},
        {"--out: it is empty; name a folder", {DATA(&p.w, "x"), "--out", ""}},
        {"--output: it is empty; name a file",
         {"logits", "--model", p.run, "--input", in, "--output", ""}},
        {"is there already", {"logits", "--model", p.run, "--input", in, "--output", in}},
        {"the inside of a training run", {"convert", "--model", p.model, "--out", last}},
        {"the inside of a training run",
         {"convert", "--model", p.model, "--out", last, "--overwrite"}},
        {"the inside of a training run", {TRAINING(&p.w, "model/last"), "--overwrite"}},
        {"the inside of a training run", {DATA(&p.w, "model/last")}},
    };
    char *before = snapshot(p.w.directory);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Output o = deepseek_with((Start){0}, cases[i].argv);
        int status = strstr(cases[i].says, "empty") ? 2 : 1;
        cr_assert(o.status == status && strstr(o.err, cases[i].says), "case %zu: %s", i, o.err);
    }
    cr_assert_str_eq(snapshot(p.w.directory), before);
}

/* Indexes as other programs write them, and as nobody would. */
Test(folders, an_index_takes_nothing_with_it) {
    Place p = place_open();
    static const char *const indexes[] = {
        "{\"weight_map\": {\"model.norm.weight\": \"model.safetensors\"}}", /* as MLX does */
        "{\"weight_map\": {\"a\": \"thesis.tex\", \"b\": \"config.json\"}}",
        "{\"weight_map\": {\"a\": \"tokenizer.json\", \"b\": \"last\"}}",
        "no JSON",
    };
    const char *const shapes[] = {"9", "0.02"}; /* one file, and several */
    for (size_t i = 0; i < 2 * (sizeof indexes / sizeof indexes[0]); i++) {
        copy_folder(p.model, p.target);
        put(p.target, "model.safetensors.index.json", indexes[i / 2]);
        put(p.target, "model-00007-of-00009.safetensors", "an old one");
        EXPECT(0, "is written", "convert", "--model", p.run, "--out", p.target, "--overwrite",
               "--shard-mb", shapes[i & 1]);
        cr_assert_str_eq(measured(&p.w, p.target), measured(&p.w, p.run));
        cr_assert(exists(p.target, "thesis.tex"));
        cr_assert(exists(p.target, "model.safetensors.index.json") == (i & 1));
        cr_assert(exists(p.target, "model.safetensors") == !(i & 1));
        cr_assert_not(exists(p.target, "model-00007-of-00009.safetensors"));
    }
    put(p.target, "model.safetensors.index.json", indexes[0]);
    EXPECT(0, "Done", TRAINING(&p.w, "target"), "--steps", "2", "--overwrite");
    measured(&p.w, p.target);
}

/* ---- kills ---- */

static void kill_after(double seconds, const char *const *argv) {
    Process process = process_start((Start){0}, argv);
    struct timespec pause = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    cr_assert(nanosleep(&pause, NULL) == 0);
    kill(process.id, SIGKILL);
    process_end(&process);
}

static double seconds_of(const char *const *argv) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    Output o = deepseek_with((Start){0}, argv);
    clock_gettime(CLOCK_MONOTONIC, &b);
    cr_assert(o.status == 0, "%s", o.err);
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

/* A model of another size takes the place of one: at any moment it is the one or the other. */
Test(folders, convert_is_killed_at_any_moment) {
    enum { KILLS = 12 };
    Place p = place_open();
    const char *other = path_in(p.w.directory, "other");
    edit_file(path_in(p.w.directory, "tiny/config.json"), "\"hidden_size\": 32",
              "\"hidden_size\": 48");
    EXPECT(0, "Done", TRAINING(&p.w, "other"), "--steps", "2", "--vocab", "270");
    char *old = measured(&p.w, p.model), *new = measured(&p.w, other);
    const char *const *argv = ARGUMENTS("convert", "--model", other, "--out", p.target,
                                        "--overwrite", "--shard-mb", "0.02");
    copy_folder(p.model, p.target);
    double time = seconds_of(argv);
    int olds = 0;
    for (int i = 0; i < KILLS; i++) {
        copy_folder(p.model, p.target);
        kill_after(time * (i + 0.5) / KILLS, argv);
        char *is = measured(&p.w, p.target);
        olds += !strcmp(is, old);
        cr_assert(!strcmp(is, old) || !strcmp(is, new), "after kill %d: %s", i, is);
    }
    cr_assert(olds > 0, "no kill came early enough");
    EXPECT(0, "is written", "convert", "--model", other, "--out", p.target, "--overwrite");
    cr_assert_null(strstr(snapshot(p.target), ".tmp/"), "a folder was left: %s",
                   snapshot(p.target));
}

/* The old shards stay until the new ones are whole; and what a kill has left goes with the next
 * run. */
Test(folders, data_is_killed_at_any_moment) {
    enum { KILLS = 10 };
    Place p = place_open();
    copy_folder(p.shards, p.target);
    const char *const *argv = ARGUMENTS(DATA(&p.w, "target"), "--seed", "7", "--overwrite");
    double time = seconds_of(argv);
    for (int i = 0; i < KILLS; i++) {
        copy_folder(p.shards, p.target);
        kill_after(time * (i + 0.5) / KILLS, argv);
        EXPECT(0, "as the index says", "data", "--verify", p.target);
    }
    mkdir(path_in(p.target, "deepseek.incoming.77-0.tmp"), 0777);
    put(p.target, "deepseek.incoming.77-0.tmp/tokenizer.json", "half");
    put(p.target, "report.json.77-0.tmp", "half");
    put(p.target, "train-00009.shard", "of an older run");
    deepseek_says(0, "Shards", argv);
    char *is = snapshot(p.target);
    cr_assert(!strstr(is, "77-0") && !strstr(is, "00009") && strstr(is, "backup.tmp"), "%s", is);
}

/* Killed after the one rename by which a new set counts, before the last of its files has moved:
 * whoever opens the folder moves the others, and whoever would write there sees what waits. */
Test(folders, a_set_half_moved_is_the_new_one) {
    static const char *const sets[2][5] = {{"tokenizer.json", "train-00000.shard", "index.json",
                                            "report.json", "validation-00000.shard"},
                                           {"config.json", "model.safetensors", "tokenizer.json",
                                            "tokenizer_config.json", "generation_config.json"}};
    Place p = place_open();
    const char *other = path_in(p.w.directory, "other"),
               *in = path_in(p.target, "deepseek.incoming");
    EXPECT(0, "Shards", DATA(&p.w, "others"), "--seed", "7");
    EXPECT(0, "Done", TRAINING(&p.w, "trained"), "--steps", "2");
    EXPECT(0, "is written", "convert", "--model", path_in(p.w.directory, "trained"), "--out",
           other);
    const char *const olds[] = {p.shards, p.model};
    const char *const news[] = {path_in(p.w.directory, "others"), other};
    for (int i = 0; i < 2 * 5; i++) {
        int set = i / 5, moved = i % 5;
        char command[700];
        copy_folder(olds[set], p.target);
        copy_folder(news[set], in);
        for (int k = 0; k < moved; k++) {
            snprintf(command, sizeof command, "mv '%s/%s' '%s'", in, sets[set][k], p.target);
            cr_assert(system(command) == 0);
        }
        if (set == 0) EXPECT(0, "as the index says", "data", "--verify", p.target);
        if (set == 1) cr_assert_str_eq(measured(&p.w, p.target), measured(&p.w, other));
        cr_assert_not(exists(p.target, "deepseek.incoming"), "case %d", i);
        for (int k = 0; k < 5; k++) {
            snprintf(command, sizeof command, "cmp '%s/%s' '%s'", news[set], sets[set][k],
                     path_in(p.target, sets[set][k]));
            cr_assert(system(command) == 0, "case %d: %s", i, command);
        }
    }
    for (int set = 0; set < 2; set++) {
        copy_folder(p.files, p.target);
        unlink(path_in(p.target, "config.json")), unlink(path_in(p.target, "tokenizer.json"));
        copy_folder(news[set], in);
        if (set == 0) EXPECT(1, "has shards, which would be lost", DATA(&p.w, "target"));
        if (set == 1)
            EXPECT(1, "has a model, which would be lost", "convert", "--model", p.run, "--out",
                   p.target);
    }
}

/* ---- runs ---- */

/* A state that is gone is no reason to begin anew; a run that was killed before it had one is. */
Test(folders, resume_never_begins_over_a_model) {
    Place p = place_open();
#define SHORT_RUN(w) TRAINING(w, "target"), "--steps", "4", "--eval-every", "2"
    copy_folder(p.run, p.target);
    cr_assert(unlink(path_in(p.target, "last/training.safetensors")) == 0);
    char *before = snapshot(p.target);
    EXPECT(1, "no last/training.safetensors to resume from", SHORT_RUN(&p.w), "--resume");
    EXPECT(1, "has a model, which would be lost", SHORT_RUN(&p.w));
    cr_assert_str_eq(snapshot(p.target), before);

    put(p.target, "last/unsaved", ""); /* killed between its first two saves */
    EXPECT(1, "has a model, which would be lost", SHORT_RUN(&p.w));
    EXPECT(0, "this begins one", SHORT_RUN(&p.w), "--resume");
    cr_assert_not(exists(p.target, "last/unsaved"));

    /* One that has saved nothing at all is in nobody's way. */
    copy_folder(p.files, p.target);
    unlink(path_in(p.target, "config.json")), unlink(path_in(p.target, "tokenizer.json"));
    EXPECT(1, "training cannot go on", SHORT_RUN(&p.w), "--learning-rate", "1e20");
    check_all(exists(p.target, "last/unsaved"), exists(p.target, "metrics.csv"));
    EXPECT(0, "Done", SHORT_RUN(&p.w));

    /* Over a model the old one stays until there is a better. */
    char *old = measured(&p.w, p.target);
    EXPECT(1, "training cannot go on", SHORT_RUN(&p.w), "--learning-rate", "1e20", "--overwrite");
    cr_assert_str_eq(measured(&p.w, p.target), old);
    EXPECT(1, "no last/training.safetensors", SHORT_RUN(&p.w), "--resume");
}

Test(folders, a_resumed_run_clears_its_own_leavings_only) {
    Place p = place_open();
    static const char *const ours[] = {"model.safetensors.77-0.tmp", "metrics.csv.77-1.tmp",
                                       "last/training.safetensors.77-0.tmp",
                                       "last/config.json.77-0.tmp"};
    for (int i = 0; i < 4; i++) put(p.run, ours[i], "half");
    put(p.run, "results.csv.old.tmp", "mine");
    put(p.run, "last/results.csv.77-0.tmp", "mine");
    EXPECT(0, "were done before", TRAINING(&p.w, "model"), "--steps", "60", "--learning-rate",
           "0.01", "--resume");
    for (int i = 0; i < 4; i++) cr_assert_not(exists(p.run, ours[i]), "%s", ours[i]);
    check_all(exists(p.run, "results.csv.old.tmp"), exists(p.run, "last/results.csv.77-0.tmp"),
              exists(p.run, "notes.json.backup.tmp"));
}

static bool has_rows(const char *out, const char *start) {
    char line[500];
    FILE *file = fopen(path_in(out, "metrics.csv"), "r");
    bool found = false;
    while (file && fgets(line, sizeof line, file)) found |= !strncmp(line, start, strlen(start));
    if (file) fclose(file);
    return found;
}

/* Until the run has done so many steps. */
static void wait_for_step(Process *process, const char *out, const char *step) {
    struct timespec pause = {0, 2000000};
    for (int i = 0; !has_rows(out, step); i++) {
        nanosleep(&pause, NULL);
        cr_assert(i < 15000, "no step in half a minute");
        cr_assert(waitpid(process->id, NULL, WNOHANG) == 0, "it ended by itself");
    }
}

/* What a closed terminal, a gone reader and the system send. */
Test(folders, every_ordinary_end_saves) {
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    Scratch w = workplace();
    const char *out = path_in(w.directory, "run");
#define ENDLESS(w) TRAINING(w, "run"), "--steps", "100000", "--eval-every", "50000"
    for (int i = 0; i < 4; i++) {
        Process process = process_start((Start){0}, ARGUMENTS(ENDLESS(&w), "--overwrite"));
        wait_for_step(&process, out, "3,");
        /* While it trains nobody writes here, nor into what belongs to it. */
        if (i == 0) {
            EXPECT(1, "another process is training there", ENDLESS(&w), "--overwrite");
            EXPECT(1, "another process is training there", TRAINING(&w, "run/last"));
            EXPECT(1, "another process is writing", "convert", "--model",
                   path_in(w.directory, "run"), "--out", path_in(w.directory, "run/last"));
        }
        kill(process.id, signals[i]);
        Output o = process_end(&process);
        cr_assert(strstr(o.out, "all is saved"), "signal %d: %s%s", signals[i], o.out, o.err);
        cr_assert(exists(out, "last/training.safetensors"));
        unlink(path_in(out, "metrics.csv")); /* its rows would be taken for those of the next */
    }
    signal(SIGHUP, SIG_IGN); /* as under nohup */
    Process process = process_start((Start){0}, ARGUMENTS(ENDLESS(&w), "--overwrite"));
    wait_for_step(&process, out, "3,");
    kill(process.id, SIGHUP);
    wait_for_step(&process, out, "9,");
    kill(process.id, SIGTERM);
    process_end(&process);
}

/* ---- folders that lie ---- */

Test(folders, shards_of_another_vocabulary_are_refused) {
    Place p = place_open();
    edit_file(path_in(p.shards, "index.json"), "\"vocab_size\":\t283", "\"vocab_size\":\t60000");
    EXPECT(1, "speaks of 60000 tokens", "data", "--verify", p.shards);
    EXPECT(1, "speaks of 60000 tokens", "eval", "--model", p.run, "--data", p.shards);
    EXPECT(1, "speaks of 60000 tokens", "train", "--config", path_in(p.w.directory, "tiny"),
           "--data", p.shards, "--out", p.target, "--context", "16", "--steps", "2");
}

/* 60,000 files by the index: a search that compares each with each took a quarter of a minute. */
Test(folders, an_index_of_many_files_is_read_at_once, .timeout = 10) {
    Place p = place_open();
    unlink(path_in(p.model, "model.safetensors"));
    FILE *file = fopen(path_in(p.model, "model.safetensors.index.json"), "w");
    fprintf(file, "{\"weight_map\": {\"t\": \"z\"");
    for (int i = 0; i < 60000; i++) fprintf(file, ",\n\"t%d\": \"f%d.safetensors\"", i, i);
    fprintf(file, "}}");
    fclose(file);
    EXPECT(1, "f0.safetensors, but there is no such file", "eval", "--model", p.model, "--data",
           path_in(p.w.directory, "text.txt"));
}

/* ---- what does not fit ---- */

Test(folders, a_training_that_does_not_fit_says_so) {
    Scratch w = workplace();
    edit_file(path_in(w.directory, "tiny/config.json"), "\"max_position_embeddings\": 64",
              "\"max_position_embeddings\": 1048576");
    Output o = EXPECT(1, "for the activations of 65536 windows of 1048576 tokens",
                      TRAINING(&w, "run"), "--batch", "65536", "--context", "1048576");
    expect(&o, 1, "--accumulate can take the place");
    cr_assert_null(strstr(o.err, "tokenizer  "), "only after some work: %s", o.err);
    EXPECT(1, "for weights, gradients and moments (the model", "train", "--config", "v3", "--data",
           path_in(w.directory, "text.txt"), "--out", path_in(w.directory, "run"));
}

/* OpenBLAS would look for its buffers for ever. */
Test(folders, too_few_addresses_are_said) {
#ifdef __SANITIZE_ADDRESS__
    cr_skip_test("a sanitizer needs more addresses itself");
#endif
#ifdef WITH_CUDA
    cr_skip_test("NVIDIA's libraries need more, and the loader says so");
#endif
    char program[500], command[600], output[500];
    program_path(program, sizeof program, "deepseek");
    snprintf(command, sizeof command, "ulimit -v 250000; exec '%s' --help", program);
    const char *const argv[] = {"timeout", "20", "sh", "-c", command, NULL};
    cr_assert(process_run(argv, output, sizeof output, NULL) == 1);
    cr_assert(strstr(output, "ulimit -v"), "%s", output);
}

/* A config.json at its limits: what it would need is more than 2^63 bytes. */
Test(folders, info_counts_without_overflow) {
    Scratch w = workplace();
    static const struct {
        const char *from, *to;
    } edits[] = {{"\"hidden_size\": 32", "\"hidden_size\": 131072"},
                 {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1024"},
                 {"\"n_routed_experts\": 6", "\"n_routed_experts\": 512"},
                 {"\"max_position_embeddings\": 64", "\"max_position_embeddings\": 1048576"},
                 {"\"moe_intermediate_size\": 10", "\"moe_intermediate_size\": 1048576"}};
    const char *path = path_in(w.directory, "tiny/config.json");
    for (int i = 0; i < 5; i++) edit_file(path, edits[i].from, edits[i].to);
    Output o = EXPECT(0, "to train", "info", "--config", path_in(w.directory, "tiny"), "--batch",
                      "1048576", "--context", "1048576");
    cr_assert(strstr(o.out, "EiB") && !strstr(o.out, " -"), "%s", o.out);
}

/* Weights without a config.json are not a run that was stopped too early. */
Test(folders, a_model_without_its_settings) {
    Place p = place_open();
    cr_assert(unlink(path_in(p.run, "config.json")) == 0 && exists(p.run, "last/config.json"));
    Output o = deepseek_with((Start){.input = "the\n"}, ARGUMENTS("generate", "--model", p.run));
    expect(&o, 1, "has weights, but no config.json");
    EXPECT(1, "has weights, but no config.json", "generate", "--model", p.run, "--prompt", "the");
}

/* What `deepseek data` is for is not learned from, or measured, as if it were prose. */
Test(folders, json_lines_are_no_plain_text) {
    Place p = place_open();
    static const char *const names[] = {"x.jsonl", "x.JSONL", "x.ndjson", "x.json"};
    for (int i = 0; i < 4; i++) {
        put(p.w.directory, names[i], "{\"text\": \"the cat sat on the mat\"}\n");
        const char *data = path_in(p.w.directory, names[i]);
        EXPECT(1, "has JSON lines", TRAINING(&p.w, "new"), "--data", data);
        Output o = EXPECT(1, "`deepseek data`", "eval", "--model", p.model, "--data", data);
        cr_assert(strstr(o.err, names[i]), "%s", o.err);
    }
    put(p.w.directory, "x.jsonl.gz", "\x1F\x8B\x08");
    EXPECT(1, "is a gzip file; unpack it first", "eval", "--model", p.model, "--data",
           path_in(p.w.directory, "x.jsonl.gz"));
}
