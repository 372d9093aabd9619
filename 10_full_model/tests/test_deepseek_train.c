/*
 * deepseek train, as a process: what it leaves, how it stops and goes on, and what it refuses.
 */
#include "10_full_model/tests/test_deepseek.h"

/* Rows of DIRECTORY/metrics.csv; 0 when there is no such file yet. */
static int rows(const char *directory) {
    char line[500];
    int count = 0;
    FILE *file = fopen(path_in(directory, "metrics.csv"), "r");
    while (file && fgets(line, sizeof line, file)) count += line[0] >= '0' && line[0] <= '9';
    if (file) fclose(file);
    return count;
}

/* Starts a run that is far from its end, and waits until it has done some steps. */
static Process start_training(const char *out, const char *const *arguments) {
    Process p = process_start((Start){0}, arguments);
    for (int i = 0; rows(out) < 3; i++) {
        struct timespec pause = {0, 2000000};
        nanosleep(&pause, NULL);
        cr_assert(i < 15000, "no step in half a minute");
        cr_assert(waitpid(p.id, NULL, WNOHANG) == 0, "it ended by itself");
    }
    return p;
}

Test(train, leaves_a_folder_that_says_all) {
    Scratch w = workplace();
    const char *out = path_in(w.directory, "run");
    scratch_write(&w, "more.txt", "a fog is in the log. ", 21);
    Output o =
        deepseek_with((Start){.charts = true, .directory = "/"},
                      ARGUMENTS(TRAINING(&w, "run"), "--data", path_in(w.directory, "more.txt"),
                                "--steps", "10", "--eval-every", "4", "--accumulate", "2",
                                "--dropout", "0.1", "--constant", "3", "--peak", "1e-6"));
    expect(&o, 0, "Done after 10 steps");
    expect(&o, 0, "Best validation loss");
    cr_assert(strstr(o.err, "training  done in"), "%s", o.err);
    static const char *const files[] = {"config.json",
                                        "model.safetensors",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "generation_config.json",
                                        "metrics.csv",
                                        "last/config.json",
                                        "last/model.safetensors",
                                        "last/tokenizer.json",
                                        "last/tokenizer_config.json",
                                        "last/generation_config.json",
                                        "last/training.safetensors"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        cr_assert(exists(out, files[i]), "%s is missing", files[i]);
    if (!strstr(o.out, "gnuplot is missing"))
        check_all(exists(out, "loss.svg"), exists(out, "load.png"));
    size_t bytes;
    char *csv = file_text(path_in(out, "metrics.csv"), &bytes);
    cr_assert(strstr(csv, "\nstep,loss,validation_loss,learning_rate,gradient_norm,"
                          "tokens_per_second,share_of_peak,max_vio,idle_experts\n1,"));
    cr_assert(rows(out) == 10);
    int validations = 0;
    for (char *line = strstr(csv, "\n1,"); line && line[1]; line = strchr(line + 1, '\n')) {
        int step;
        float loss, validation;
        validations += sscanf(line, "\n%d,%f,%f", &step, &loss, &validation) == 3;
        const char *share = line;
        for (int column = 0; column < 6; column++) share = strchr(share, ',') + 1;
        cr_assert(atof(share) > 0 && atof(share) <= 1, "of a peak that is too low: %.6s", share);
    }
    cr_assert(validations == 3, "%d validations: after 4, 8 and 10", validations);
}

Test(train, ctrl_c_saves_and_resume_ends_in_the_same_bits) {
    Scratch w = workplace();
    const char *parts = path_in(w.directory, "parts"), *whole = path_in(w.directory, "whole");
#define LONG(out) TRAINING(&w, out), "--steps", "300", "--eval-every", "60", "--dropout", "0.1"
    Process p = start_training(parts, ARGUMENTS(LONG("parts")));
    kill(p.id, SIGINT);
    Output o = process_end(&p);
    cr_assert_eq(o.status, 128 + SIGINT, "so that `train && generate` goes no further");
    cr_assert(strstr(o.out, "of 300 steps; all is saved.\nThe same command with --resume goes on"),
              "%s", o.out);
    cr_assert(strstr(o.err, "training  stopped after"), "%s", o.err);
    int done = rows(parts);
    check_all(done >= 3, done < 300);
    if (done < 60) cr_assert(strstr(o.out, "There was no validation yet"), "%s", o.out);

    o = DEEPSEEK("generate", "--model", parts, "--prompt", "the");
    if (done < 60) expect(&o, 1, "has no best model yet");
    EXPECT(0, "the", "generate", "--model", path_in(parts, "last"), "--prompt", "the");

    o = EXPECT(0, "Done after 300 steps", LONG("parts"), "--resume");
    char where[80];
    snprintf(where, sizeof where, "going on behind step %d of 300", done);
    cr_assert(strstr(o.err, where), "'%s' is not in %s", where, o.err);
    EXPECT(0, "has no run to resume: this begins one", LONG("whole"), "--resume");
    same_bytes(whole, parts, "model.safetensors");
    same_bytes(whole, parts, "last/model.safetensors");
    same_bytes(whole, parts, "last/training.safetensors");
    cr_assert(rows(parts) == 300);

    o = EXPECT(0, "All 300 steps of this run were done before", LONG("parts"), "--resume");
    cr_assert_null(strstr(o.err, "nan"), "%s", o.err);
    same_bytes(whole, parts, "last/training.safetensors");
}

Test(train, two_trainers_do_not_share_a_folder) {
    Scratch w = workplace();
    const char *out = path_in(w.directory, "run");
    Process p = start_training(out, ARGUMENTS(TRAINING(&w, "run"), "--steps", "20000"));
    static const char *const flags[] = {"--seed=1", "--resume", "--overwrite"};
    for (int i = 0; i < 3; i++) {
        Output o = EXPECT(1, "another process is training there", TRAINING(&w, "run"), "--steps",
                          "3", flags[i]);
        cr_assert_null(strstr(o.err, "tokenizer"), "refused only after some work:\n%s", o.err);
    }
    kill(p.id, SIGTERM);
    Output o = process_end(&p);
    cr_assert(o.status == 128 + SIGTERM && strstr(o.out, "all is saved"), "%d\n%s", o.status,
              o.out);
}

/* The clock stops a run as Ctrl-C does, but nothing went wrong: the status is 0. What is printed as
 * the best loss is a row of the metrics, and the last row of a stopped run has no validation. */
Test(train, stops_when_the_time_is_up) {
    Scratch w = workplace();
    const char *out = path_in(w.directory, "run");
#define TIMED TRAINING(&w, "run"), "--steps", "1000000", "--eval-every", "7"
    Output o = EXPECT(0, "The time is up after ", TIMED, "--minutes", "0.005");
    int step, best, seen = 0;
    double loss, at_best = -1, last = -1;
    const char *line = strstr(o.out, "Best validation loss ");
    cr_assert(sscanf(strstr(o.out, "up after"), "up after %d of 1000000", &step) == 1);
    cr_assert(line && sscanf(line, "Best validation loss %lf, at step %d", &loss, &best) == 2);
    cr_assert_eq(rows(out), step);
    char *csv = file_text(path_in(out, "metrics.csv"), &(size_t){0});
    for (char *row = strstr(csv, "\n1,"); row && row[1]; row = strchr(row + 1, '\n')) {
        int number;
        double value, validation = -1;
        seen = sscanf(row, "\n%d,%lf,%lf", &number, &value, &validation);
        if (number == best) at_best = validation;
        last = seen == 3 ? validation : -1;
    }
    cr_assert_float_eq(at_best, loss, 1e-4);
    cr_assert_eq(last < 0, step % 7 != 0, "step %d", step);
    EXPECT(0, "The time is up after ", TIMED, "--minutes", "0.002", "--resume");
    cr_assert(rows(out) > step);
}

static struct stat weights_of(const char *folder) {
    struct stat info;
    cr_assert(stat(path_in(folder, "model.safetensors"), &info) == 0, "%s", folder);
    return info;
}

/* The best model and the last, where they are the same; and no file is ever written in place. */
Test(train, writes_the_same_weights_once) {
    Scratch w = workplace();
    const char *out = path_in(w.directory, "run"), *kept = path_in(w.directory, "kept");
    EXPECT(0, "Done after 3 steps", TRAINING(&w, "run"), "--steps", "3");
    struct stat best = weights_of(out), last = weights_of(path_in(out, "last"));
    cr_assert(best.st_ino == last.st_ino && best.st_nlink == 2);
    cr_assert(mkdir(kept, 0777) == 0 &&
              link(path_in(out, "model.safetensors"), path_in(kept, "model.safetensors")) == 0);
    EXPECT(0, "Done after 5 steps", TRAINING(&w, "run"), "--steps", "5", "--overwrite");
    struct stat now = weights_of(out), old = weights_of(kept);
    cr_assert(now.st_ino != best.st_ino && now.st_ino == weights_of(path_in(out, "last")).st_ino);
    cr_assert(old.st_nlink == 1 && old.st_mtim.tv_nsec == best.st_mtim.tv_nsec);
}

Test(train, a_full_disk_leaves_the_old_checkpoint_whole) {
    Scratch w = workplace();
    const char *out = path_in(w.directory, "run"), *copy = path_in(w.directory, "half");
#define SHORT(out) TRAINING(&w, out), "--steps", "12", "--eval-every", "4"
    EXPECT(0, "Done", SHORT("run"));
    /* A model fits, the state, three times as large, does not. */
    Output o = deepseek_with((Start){.file_size = 150000}, ARGUMENTS(SHORT("full")));
    expect(&o, 1, "saving at step 4: cannot write");
    expect(&o, 1, "the file is as it was before");
    cr_assert_not(exists(path_in(w.directory, "full"), "last/training.safetensors"));
    /* A model of another size does not fit where one is. */
    const char *other = path_in(w.directory, "other");
    EXPECT(0, "is written", "convert", "--model", out, "--out", copy, "--weights", "bf16");
    EXPECT(0, "is written", "convert", "--model", copy, "--out", other);
    o = deepseek_with((Start){.file_size = 50000},
                      ARGUMENTS("convert", "--model", out, "--out", copy, "--overwrite"));
    expect(&o, 1, "cannot write");
    EXPECT(0, "is written", "convert", "--model", copy, "--out", other, "--overwrite");
}

/* A run whose learning rate has not begun to fall may get more steps; its weights are then those of
 * the longer run. */
Test(train, resume_with_more_steps) {
    Scratch w = workplace();
    const char *parts = path_in(w.directory, "parts"), *whole = path_in(w.directory, "whole");
#define LEVEL(out, steps) \
    TRAINING(&w, out), "--eval-every", "4", "--warmup", "2", "--constant", "6", "--steps", steps
    EXPECT(0, "Done after 8 steps", LEVEL("parts", "8"));
    EXPECT(0, "Done after 12 steps", LEVEL("parts", "12"), "--resume");
    EXPECT(0, "Done after 12 steps", LEVEL("whole", "12"));
    same_bytes(whole, parts, "model.safetensors");
    same_bytes(whole, parts, "last/training.safetensors");
    Output o = EXPECT(1, "Step 10 of the 12 that are done had the learning rate",
                      LEVEL("parts", "20"), "--resume");
    expect(&o, 1, "parts/last begins a new run from its weights");
}

static float first_loss(const char *directory) {
    size_t bytes;
    char *csv = file_text(path_in(directory, "metrics.csv"), &bytes), *row = strstr(csv, "\n1,");
    cr_assert_not_null(row);
    float loss = strtof(row + 3, NULL);
    return loss;
}

#define FROM(w, from, out)                                                                      \
    "train", "--from", from, "--data", path_in((w)->directory, "text.txt"), "--out",            \
        path_in((w)->directory, out), "--batch", "4", "--context", "16", "--eval-batches", "1", \
        "--peak", "0", "--steps", "6"

/* Weights, tokens and sizes are those of the folder, which stays as it was; the run is new. */
Test(train, from_a_model_that_is_there) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *copy = path_in(w.directory, "copy");
    char command[700];
    snprintf(command, sizeof command, "cp -r %s %s", model, copy);
    cr_assert(system(command) == 0);
    EXPECT(0, "Done after 6 steps", FROM(&w, model, "tuned"), "--learning-rate", "1e-9");
    const char *tuned = path_in(w.directory, "tuned");
    cr_assert(first_loss(model) > 4 && first_loss(tuned) < 1, "%g, then %g", first_loss(model),
              first_loss(tuned));
    cr_assert(rows(tuned) == 6);
    same_bytes(model, tuned, "tokenizer.json");
    same_bytes(model, tuned, "config.json");
    static const char *const files[] = {"model.safetensors", "config.json", "metrics.csv",
                                        "last/model.safetensors", "last/training.safetensors"};
    for (int i = 0; i < 5; i++) same_bytes(model, copy, files[i]);

    /* Another text is read with the same tokens; the run goes on like any other. */
    scratch_write(&w, "text.txt",
                  "A quite different text, of other words! A quite different text, "
                  "of other words! And more of them, for both parts need some. "
                  "And more of them, for both parts need some. 123",
                  170);
    EXPECT(0, "Done after 6 steps", FROM(&w, path_in(model, "last"), "other"), "--validation",
           "0.4");
    same_bytes(model, path_in(w.directory, "other"), "tokenizer.json");
    EXPECT(0, "All 6 steps of this run were done before", "train", "--resume", "--data",
           path_in(w.directory, "text.txt"), "--out", path_in(w.directory, "other"), "--batch", "4",
           "--context", "16", "--eval-batches", "1", "--peak", "0", "--steps", "6", "--validation",
           "0.4");
}

/* Chapter 07's recipe: a context twice as long by YaRN, and some steps to get used to it. */
Test(train, from_a_model_that_is_stretched) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    Output o =
        EXPECT(1, "longer than the 64 positions", FROM(&w, model, "long"), "--context", "65");
    expect(&o, 1, "--rope-factor stretches them");
    EXPECT(0, "Done after 6 steps", FROM(&w, model, "long"), "--context", "128", "--rope-factor",
           "2", "--validation", "0.2");
    size_t bytes;
    char *config = file_text(path_in(w.directory, "long/config.json"), &bytes);
    cr_assert(strstr(config, "\"max_position_embeddings\": 128") ||
                  strstr(config, "\"max_position_embeddings\":\t128"),
              "%s", config);
    cr_assert(strstr(config, "\"yarn\"") && strstr(config, "original_max_position_embeddings"));
    EXPECT(1, "longer than the 48 positions", FROM(&w, path_in(w.directory, "long"), "short"),
           "--rope-factor", "3", "--rope-original", "16", "--context", "49");
}

Test(train, from_says_what_it_cannot_do) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *last = path_in(model, "last");
    const struct {
        int status;
        const char *from, *out, *says, *flags[3];
    } cases[] = {
        {2, model, "new", "leave --config out", {"--config", "nano"}},
        {2, model, "new", "leave --vocab out", {"--vocab", "300"}},
        {2, model, "new", "give one", {"--resume"}},
        {2, model, "model", "would write over", {"--overwrite"}},
        {2, last, "model", "would write over", {"--overwrite"}},
        {1, path_in(w.directory, "tiny"), "new", "tiny/tokenizer.json", {NULL}},
        {1, w.directory, "new", "is no model's folder", {NULL}},
        {2, model, "new", "--rope-original needs --rope-factor", {"--rope-original", "16"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *argv[40] = {FROM(&w, cases[i].from, cases[i].out)};
        int count = 0;
        while (argv[count]) count++;
        for (int j = 0; j < 3 && cases[i].flags[j]; j++) argv[count++] = cases[i].flags[j];
        Output o = deepseek_with((Start){0}, argv);
        expect(&o, cases[i].status, cases[i].says);
    }
    EXPECT(2, "stretch the model of --from, which is not there", TRAINING(&w, "new"),
           "--rope-factor", "2");
}

Test(train, refuses_before_it_works) {
    Scratch w = workplace();
    EXPECT(0, "Done after 4 steps", TRAINING(&w, "run"), "--steps", "4");
    const char *run = path_in(w.directory, "run"), *new = path_in(w.directory, "new");
    const char *text = path_in(w.directory, "text.txt");
    const struct {
        int status;
        const char *says, *flags[8];
    } cases[] = {
        {1, "--resume goes on with it, --overwrite", {"--out", run}},
        {2, "give one", {"--out", run, "--resume", "--overwrite"}},
        {1,
         "--lowest-rate 0.0003, but now it is --steps 5",
         {"--out", run, "--resume", "--steps", "5"}},
        {1,
         "Step 1 of the 4 that are done had the learning rate 0.003, and would have had 0.01",
         {"--out", run, "--resume", "--learning-rate", "0.01"}},
        {1, "--fp8 no, but now it is yes", {"--out", run, "--resume", "--fp8"}},
        {1, "training would need", {"--out", new, "--config", "v3.2"}},
        {1, "there are: nano, small", {"--out", new, "--config", "huge"}},
        {1, "cannot open", {"--out", new, "--data", "/nowhere/text"}},
        {1, "longer than the 64 positions", {"--out", new, "--context", "65"}},
        {2, "more than all 4 steps", {"--out", new, "--warmup", "5"}},
        {2, "--learning-rate 0 would leave", {"--out", new, "--learning-rate", "0"}},
        {2,
         "--lowest-rate 0.1 is above --learning-rate 0.01",
         {"--out", new, "--learning-rate", "0.01", "--lowest-rate", "0.1"}},
        {1, "the folder /nowhere: No such", {"--out", new, "--csv", "/nowhere/x.csv"}},
        {1, "BF16 needs a GPU", {"--out", new, "--dtype", "bf16"}},
        {1, "Not a directory", {"--out", text}},
        {2, "--dropout: 1 is not between 0 and 0.99", {"--out", new, "--dropout", "1"}},
        {2, "'stray' is not expected here", {"--out", new, "stray"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *argv[40] = {TRAINING(&w, "run"), "--steps", "4"};
        int count = 0;
        while (argv[count]) count++;
        for (int j = 0; cases[i].flags[j]; j++) argv[count++] = cases[i].flags[j];
        Output o = deepseek_with((Start){0}, argv);
        expect(&o, cases[i].status, cases[i].says);
        cr_assert_null(strstr(o.err, "tokenizer"), "refused only after some work:\n%s", o.err);
    }
    EXPECT(1, "training cannot go on. Try a smaller --learning-rate", TRAINING(&w, "new"),
           "--steps", "4", "--learning-rate", "1e20");
    cr_assert(rows(run) == 4, "a refused run has changed what was there");
}

/* A folder with somebody's model is no run of ours. */
Test(train, does_not_replace_a_foreign_model) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *other = path_in(w.directory, "other");
    EXPECT(0, "with its tokenizer", "convert", "--model", model, "--out", other);
    EXPECT(1, "has a model, which would be lost", TRAINING(&w, "other"), "--steps", "2");
    EXPECT(1, "has a model, which would be lost", TRAINING(&w, "other"), "--steps", "2",
           "--resume");
    EXPECT(0, "Done after 2 steps", TRAINING(&w, "other"), "--steps", "2", "--overwrite");
}

/* ---- multi-token prediction ---- */

/* What `logits` says of one tensor. */
static const Tensor *logits_of(const Scratch *w, const char *model, const char *name) {
    static const int32_t ids[] = {5, 9, 200, 3, 3, 77, 1, 140};
    Error err;
    const char *in = path_in(w->directory, "in.safetensors"),
               *out = path_in(w->directory, "out.safetensors");
    Tensor t = tensor_view((void *)ids, "input_ids", I32, CPU, SHAPE(2, 4));
    check_ok(safetensors_write(in, &t, 1, NULL, 0, &err), &err);
    DEEPSEEK("logits", "--model", model, "--input", in, "--output", out,
             *name == 'm' ? "--mtp" : "--grads");
    SafeTensors *file = safetensors_open(out, &err);
    cr_assert(file, "%s", err.text);
    return safetensors_find(file, name);
}

Test(train, modules_are_trained_measured_and_left_out) {
    Scratch w = workplace();
    const char *run = path_in(w.directory, "run"), *plain = path_in(w.directory, "plain");
    EXPECT(0, "more in 2 modules for multi-token prediction", TRAINING(&w, "run"), "--steps", "12",
           "--eval-every", "6", "--mtp", "2", "--mtp-lambda", "0.5");
    size_t bytes;
    cr_assert(strstr(file_text(path_in(run, "metrics.csv"), &bytes),
                     "idle_experts,mtp_loss_1,mtp_loss_2\n1,"));
    EXPECT(0, "of module 2: the token 2 places behind the next", "eval", "--model", run, "--data",
           path_in(w.directory, "text.txt"), "--context", "16", "--windows", "4");
    const Tensor *first = logits_of(&w, run, "mtp_logits.1");
    cr_assert(first && first->ndim == 3 && first->shape[1] == 4);
    for (int row = 0; row < 8; row++) {
        const float *logits = (const float *)first->data + row * first->shape[2];
        cr_assert((logits[0] == 0 && logits[7] == 0) == (row % 4 == 3), "row %d", row);
    }
    first = logits_of(&w, run, "logits");
    EXPECT(0, "the model is written", "convert", "--model", run, "--out", plain, "--no-mtp");
    const Tensor *same = logits_of(&w, plain, "logits");
    cr_assert(!memcmp(first->data, same->data, tensor_bytes(same)));
    EXPECT(1, "has no modules for multi-token prediction", "logits", "--model", plain, "--mtp",
           "--input", path_in(w.directory, "in.safetensors"), "--output", "/dev/null");
    EXPECT(0, "more in 1 module ", "train", "--from", plain, "--out", path_in(w.directory, "more"),
           "--data", path_in(w.directory, "text.txt"), "--context", "16", "--steps", "2", "--mtp",
           "1", "--peak", "0");
    EXPECT(1, "begun with num_nextn_predict_layers 2, but now it is 1", TRAINING(&w, "run"),
           "--steps", "12", "--eval-every", "6", "--resume", "--mtp", "1", "--mtp-lambda", "0.5");
    EXPECT(1, "a window of 2 tokens holds no target for module 2", TRAINING(&w, "x"), "--context",
           "2", "--mtp", "2");
}

/* A run in two parts has the weights of one piece, every byte; it has learned what moments in F32
 * learn; and its state is smaller by 4 bytes a weight. */
Test(train, with_moments_in_bf16) {
    Scratch w = workplace();
    const char *whole = path_in(w.directory, "whole"), *parts = path_in(w.directory, "parts");
    const char *wide = path_in(w.directory, "wide"), *state = "last/training.safetensors";
    double loss[2];
    for (int narrow = 0; narrow < 2; narrow++) {
        Output o = EXPECT(0, "Done after 40 steps", TRAINING(&w, narrow ? "whole" : "wide"),
                          "--steps", "40", "--learning-rate", "0.01", "--warmup", "4", "--constant",
                          "36", narrow ? "--bf16-moments" : NULL);
        loss[narrow] = atof(strstr(o.out, "Best validation loss") + strlen("Best validation loss"));
    }
    cr_expect(fabs(loss[1] - loss[0]) < 0.01 * loss[0], "%g, in F32 %g", loss[1], loss[0]);
    EXPECT(0, "Done after 15 steps", TRAINING(&w, "parts"), "--steps", "15", "--learning-rate",
           "0.01", "--warmup", "4", "--constant", "11", "--bf16-moments");
    EXPECT(1, "begun with --bf16-moments yes, but now it is no", TRAINING(&w, "parts"), "--steps",
           "40", "--learning-rate", "0.01", "--warmup", "4", "--constant", "36", "--resume");
    EXPECT(0, "Done after 40 steps", TRAINING(&w, "parts"), "--steps", "40", "--learning-rate",
           "0.01", "--warmup", "4", "--constant", "36", "--bf16-moments", "--resume");
    same_bytes(whole, parts, "last/model.safetensors");
    size_t bytes[2];
    file_text(path_in(wide, state), &bytes[0]);
    file_text(path_in(whole, state), &bytes[1]);
    SafeTensors *file = safetensors_open(path_in(whole, state), &(Error){0});
    const Tensor *m = file ? safetensors_find(file, "adamw.m.model.embed_tokens.weight") : NULL;
    cr_assert(m && m->dtype == BF16);
    double saved = (double)(bytes[0] - bytes[1]) / (double)bytes[0]; /* 4 of 12 bytes, and heads */
    cr_expect(saved > 0.25 && saved < 0.34, "%zu and %zu bytes", bytes[0], bytes[1]);
}
