/*
 * The program's other commands, as processes: info, data, eval, logits, convert, and the list of
 * them all.
 */
/* first: it says which functions of the system it needs */
#include "10_full_model/tests/test_deepseek.h"

#include "common/files/files.h"
#include "common/tests/test_demo.h"

#include <math.h>

static const char *const commands[] = {"data",   "train", "generate", "eval",
                                       "logits", "info",  "convert"};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

Test(deepseek, says_what_it_can_do) {
    Output none = deepseek_with((Start){0}, ARGUMENTS(NULL)), help = DEEPSEEK("--help"),
           unknown = DEEPSEEK("trian");
    expect(&help, 0, "Usage: deepseek COMMAND");
    expect(&none, 2, "Usage: deepseek COMMAND");
    expect(&unknown, 2, "there is no command 'trian'");
    EXPECT(0, "deepseek.c, commit ", "--version");
    for (int i = 0; i < COMMANDS; i++) {
        expect(&help, 0, commands[i]);
        Output o = DEEPSEEK(commands[i], "--help");
        cr_assert(strncmp(o.out, "Usage: deepseek ", 16) == 0);
        cr_assert_null(too_wide(o.out), "%s --help is wider than a terminal", commands[i]);
        EXPECT(2, "unrecognized option '--no-such-flag'", commands[i], "--no-such-flag");
        if (strcmp(commands[i], "info") == 0) continue; /* the only one that needs no flag */
        o = DEEPSEEK(commands[i]);
        expect(&o, 2,
               strcmp(commands[i], "data") && strcmp(commands[i], "train") ? "--model DIR"
                                                                           : "--out DIR");
    }
}

Test(deepseek, says_when_its_words_do_not_arrive) {
    static const char *const cases[][4] = {
        {"--help"}, {"train", "--help"}, {"info"}, {"info", "--config", "nano"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Output o = deepseek_with((Start){.output = "/dev/full"}, cases[i]);
        expect(&o, 1, "cannot write what is to be printed: No space left");
    }
}

/* Does the flag take a word as it is? Else it takes numbers, or some names. */
static bool takes_any_text(const char *metavar) {
    static const char *const any[] = {"FILE", "DIR", "NAME", "TEXT", "PATH", "TOKEN"};
    for (size_t i = 0; i < sizeof any / sizeof *any; i++)
        if (!strncmp(metavar, any[i], strlen(any[i]))) return true;
    return false;
}

/* Flags of all commands, as --help lists them: a value of the wrong kind, or beyond any range, is
 * an error that names the flag. */
Test(deepseek, every_flag_refuses_what_it_does_not_take) {
    static const char *const wrong[] = {"zz", "9999999999999999999999999999999999999999"};
    int flags = 0;
    for (int i = 0; i < COMMANDS; i++) {
        Output help = DEEPSEEK(commands[i], "--help");
        for (char *at = help.out; (at = strstr(at, "  --")); at += 4) {
            char name[40], metavar[40], flag[120], message[50];
            if (sscanf(at, "  --%39[a-z0-9-]=%39s", name, metavar) != 2) continue;
            if (takes_any_text(metavar) && strcmp(name, "limit")) continue;
            for (int w = 0; w < 2; w++) {
                snprintf(flag, sizeof flag, "--%s=%s", name, wrong[w]);
                snprintf(message, sizeof message, "--%s: ", name);
                EXPECT(2, message, commands[i], flag);
            }
            flags++;
        }
    }
    cr_assert(flags > 50, "only %d flags seen", flags);
}

Test(info, has_the_published_sizes) {
    Output o = DEEPSEEK("info");
    static const char *const presets[] = {"nano",    "small", "default", "large",    "109m",
                                          "v2-lite", "v3",    "v3.2",    "109m-mha", "109m-dense"};
    for (int i = 0; i < 10; i++) expect(&o, 0, presets[i]);
    cr_assert_null(too_wide(o.out));
    o = EXPECT(0, "671,026,404,352       36,625,603,584", "info", "--config", "v3");
    expect(&o, 0, "KV cache of a token: 70,272 bytes in BF16");
    EXPECT(0, "15.71B                2.45B", "info", "--config", "v2-lite");
    o = DEEPSEEK("info", "--config", "nano"); /* counted by hand in the lesson */
    expect(&o, 0, "1,964,352            1,079,616");
    o = EXPECT(0, "multi-head attention, 8 heads of 48,", "info", "--config", "109m-mha");
    expect(&o, 0, "\n  attention                   6,291,456            6,291,456\n");
    expect(&o, 0, "KV cache of a token: 12,288 bytes in BF16"); /* 2 x 8 layers x 8 x 48 x 2 */
    EXPECT(0, "indexer                   851,524,864", "info", "--config", "v3.2");
    EXPECT(0, "greedy, group_limited_greedy", "info", "--keys");
    EXPECT(0, "num_hidden_layers                 61\n", "info", "--keys", "--config", "v3");
    EXPECT(1, "there are: nano, small", "info", "--config", "nope");
    Scratch w = scratch_open();
    const char *csv = path_in(w.directory, "v3.csv");
    EXPECT(0, "active", "info", "--config", "v3", "--csv", csv);
    const char *rows = file_text(csv, &(size_t){0});
    check_all(strstr(rows, "\nquantity,value\n"), strstr(rows, "\nparameters all,671026404352\n"),
              strstr(rows, "\nactive all,36625603584\n"),
              strstr(rows, "\ncache bytes of a token bf16,70272\n"));
    EXPECT(2, "--csv needs --config", "info", "--csv", csv);
    const char *missing = path_in(w.directory, "new/v3.csv");
    EXPECT(1, "/new: No such", "info", "--config", "v3", "--csv", missing);
    cr_assert(access(path_in(w.directory, "new"), F_OK), "a folder was made");
    EXPECT(1, "--context 163841 is longer than the 163840 positions of v3", "info", "--config",
           "v3", "--context", "163841");
    char folder[400];
    check_ok(project_path(folder, sizeof folder, "10_full_model/goldens/v3", &err), &err);
    o = EXPECT(0, "6,098                4,646", "info", "--config", folder, "--batch", "3",
               "--context", "20");
    expect(&o, 0, "3 sequences of 20 tokens");
}

/* ---- logits ---- */

static double distance(const Tensor *a, const Tensor *b) {
    check_all(a, b);
    cr_assert_eq(tensor_count(a), tensor_count(b));
    const float *x = a->data, *y = b->data;
    double difference = 0, size = 0;
    for (int64_t i = 0; i < tensor_count(a); i++) {
        difference += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        size += (double)y[i] * y[i];
    }
    return sqrt(difference / (size > 0 ? size : 1));
}

/* What the file of transformers' numbers has, the program's must have, and the same. Limits: the
 * project's own for F32 (rounding alone gives a tenth of them). */
Test(logits, are_those_of_transformers) {
    Scratch w = scratch_open();
    static const char *const models[] = {"v3", "v2_lite", "v3_bf16_shards", "v32", "v32_long"};
    for (int i = 0; i < 5; i++) {
        char golden[100], folder[400];
        Error err;
        snprintf(golden, sizeof golden, "10_full_model/goldens/%s", models[i]);
        check_ok(project_path(folder, sizeof folder, golden, &err), &err);
        const char *input = path_in(folder, "expected.safetensors"),
                   *output = path_in(w.directory, "out.safetensors");
        Output o = DEEPSEEK("logits", "--model", folder, "--input", input, "--output", output,
                            "--grads", "--overwrite");
        expect(&o, 0, "tensors in");
        SafeTensors *wanted = safetensors_open(input, &err), *got = safetensors_open(output, &err);
        cr_assert(wanted && got, "%s", err.text);
        int gradients = 0;
        for (int t = 0; t < safetensors_count(wanted); t++) {
            const Tensor *a = safetensors_at(wanted, t);
            bool gradient = strncmp(a->name, "grad.", 5) == 0;
            if (!gradient && strcmp(a->name, "logits") && strcmp(a->name, "loss")) continue;
            double d = distance(safetensors_find(got, a->name), a);
            double limit = gradient ? 1e-4 : a->name[1] == 'o' && a->name[2] == 's' ? 1e-6 : 2e-5;
            cr_assert(d <= limit, "%s: %s is %g away, allowed %g", models[i], a->name, d, limit);
            gradients += gradient;
        }
        check_all(gradients > 20, safetensors_count(got) == gradients + 2);
    }
}

static void write_ids(const char *path, const char *name, DType dtype, void *data,
                      const int64_t *shape, int ndim) {
    Tensor t = tensor_view(data, name, dtype, CPU, shape, ndim);
    check_ok(safetensors_write(path, &t, 1, NULL, 0, &err), &err);
}

Test(logits, wrong_ids_are_named) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *in = path_in(w.directory, "in.safetensors");
    const char *out = path_in(w.directory, "out.safetensors");
    int32_t ids[70] = {1, 2, 3, 283, 5, 6};
    float numbers[4] = {1, 2, 3, 4};
#define REFUSED(says)                                                                            \
    do {                                                                                         \
        Output o =                                                                               \
            DEEPSEEK("logits", "--model", model, "--input", in, "--output", out, "--overwrite"); \
        expect(&o, 1, says);                                                                     \
    } while (0)
    REFUSED("cannot open");
    write_ids(in, "input_ids", I32, ids, SHAPE(2, 3));
    REFUSED("id 283 at [1, 0] is not one of the model's 283 tokens");
    write_ids(in, "ids", I32, ids, SHAPE(1, 3));
    REFUSED("there is no tensor 'input_ids'");
    write_ids(in, "input_ids", I32, ids, SHAPE(3));
    REFUSED("'input_ids' has shape [3]");
    write_ids(in, "input_ids", I32, ids, SHAPE(1, 65));
    REFUSED("to 64 (the model's context)");
    write_ids(in, "input_ids", I32, ids, SHAPE(3, 1));
    REFUSED("each row must have 2 tokens");
    write_ids(in, "input_ids", F32, numbers, SHAPE(2, 2));
    REFUSED("input_ids is F32, but ids are I32 or I64");
    scratch_write(&w, "in.safetensors", "nonsense", 8);
    REFUSED("in.safetensors");
#undef REFUSED
    write_ids(in, "input_ids", I32, ids, SHAPE(1, 3));
    EXPECT(1, "cannot write /dev/full", "logits", "--model", model, "--input", in, "--output",
           "/dev/full");
}

/* ---- eval and convert ---- */

static double number_behind(const char *text, const char *name) {
    const char *at = strstr(text, name);
    cr_assert_not_null(at, "'%s' is not in %s", name, text);
    return strtod(at + strlen(name), NULL);
}

Test(eval, three_numbers_that_say_the_same) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *text = path_in(w.directory, "text.txt");
    Output o = EXPECT(0, "loss ", "eval", "--model", model, "--data", text, "--context", "16");
    double loss = number_behind(o.out, "loss "), bits = number_behind(o.out, "bits per byte ");
    cr_assert(loss > 0 && loss < 2, "it has learned this text by heart: %g", loss);
    cr_assert_float_eq(number_behind(o.out, "perplexity "), exp(loss), 0.01);
    double bytes_per_token = loss / log(2) / bits; /* "the cat" is two tokens for seven bytes */
    cr_assert(bytes_per_token > 2 && bytes_per_token < 6, "%g bytes a token", bytes_per_token);
    scratch_write(&w, "short.txt", "the cat", 7);
    scratch_write(&w, "empty.txt", "", 0);
    const struct {
        const char *says, *data, *context;
    } cases[] = {{"needs 17", path_in(w.directory, "short.txt"), "16"},
                 {"there is no text in it", path_in(w.directory, "empty.txt"), "16"},
                 {"cannot open", "/nowhere/text", "16"},
                 {"no finished shards", w.directory, "16"},
                 {"longer than this model's 64 positions", text, "65"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        EXPECT(1, cases[i].says, "eval", "--model", model, "--data", cases[i].data, "--context",
               cases[i].context);
    }
}

/* A weight that is no number is named, and nothing is said of the text. The router's bias alone
 * would not be seen in the loss: the model is not read. */
Test(eval, stops_where_numbers_end) {
    static const struct {
        const char *weight, *says;
    } cases[] = {
        {"model.norm.weight", "the loss is not finite: number 0 of 'model.norm.weight'"},
        {"model.layers.1.mlp.gate.e_score_correction_bias", "number 0 of 'model.layers.1"}};
    Scratch w = workplace();
    const char *model = trained_model(&w), *path = path_in(model, "model.safetensors");
    for (int i = 0; i < 2; i++) {
        put_nan(path, cases[i].weight);
        Output o = EXPECT(1, cases[i].says, "eval", "-m", model, "--data",
                          path_in(w.directory, "text.txt"));
        cr_assert(*o.out == 0, "%s", o.out);
    }
}

/* The stretches' losses, weighted by their lengths, are the loss of all. */
Test(eval, by_position) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *text = path_in(w.directory, "text.txt"),
               *csv = path_in(w.directory, "eval.csv");
    Output o = EXPECT(0, "17 ..   20 ", "eval", "-m", model, "--data", text, "--context", "20",
                      "--windows", "9", "--by-position", "--csv", csv);
    double loss = number_behind(o.out, "loss "), sum = 0;
    static const int last[] = {8, 16, 20};
    const char *line = strstr(file_text(csv, &(size_t){0}), "\nfirst,last,loss,");
    double bits = number_behind(o.out, "bits per byte "), bytes = 0;
    for (int i = 0; i < 3; i++) {
        int first, end;
        double here, perplexity, bits_here, error;
        line = strchr(line + 1, '\n');
        cr_assert(line && sscanf(line, "\n%d,%d,%lf,%lf,%lf,%lf", &first, &end, &here, &perplexity,
                                 &bits_here, &error) == 6);
        check_all(first == (i ? last[i - 1] + 1 : 1), end == last[i], error > 0, error < loss);
        sum += here * (end - first + 1);
        bytes += here * (end - first + 1) / bits_here;
    }
    /* the CSV has five digits, what is printed four */
    cr_assert_float_eq(sum / 20, loss, 1e-4);
    cr_assert_float_eq(sum / bytes, bits, 1e-3 * bits);
    /* It was trained on texts of 16 tokens. */
    expect(&o, 0, "longer than in training");
    cr_assert(strstr(o.err, "trained on texts of 16 tokens"), "%s", o.err);
    o = EXPECT(0, "windows of 16 tokens", "eval", "-m", model, "--data", text, "--csv", csv);
    cr_assert_str_empty(o.err);
    cr_assert(strstr(file_text(csv, &(size_t){0}), "\n1,16,"));
}

Test(convert, there_and_back) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *rounded = path_in(w.directory, "bf16"),
               *back = path_in(w.directory, "back"), *copy = path_in(w.directory, "copy");
    EXPECT(0, "with its tokenizer", "convert", "--model", model, "--out", copy);
    same_bytes(model, copy, "tokenizer.json");
    same_bytes(model, copy, "config.json");
    EXPECT(0, "is written", "convert", "--model", model, "--out", rounded, "--weights", "bf16",
           "--shard-mb", "0.02");
    check_all(exists(rounded, "model.safetensors.index.json"),
              exists(rounded, "model-00001-of-00003.safetensors"));
    EXPECT(0, "is written", "convert", "--model", rounded, "--out", back);
    double losses[3];
    const char *const folders[] = {model, rounded, back};
    for (int i = 0; i < 3; i++) {
        Output o =
            DEEPSEEK("eval", "--model", folders[i], "--data", path_in(w.directory, "text.txt"));
        losses[i] = number_behind(o.out, "loss ");
    }
    cr_assert(losses[1] == losses[2] && fabs(losses[0] - losses[1]) < 0.02, "%g, %g, %g", losses[0],
              losses[1], losses[2]);
    EXPECT(1, "--out is the folder of --model", "convert", "--model", rounded, "--out", rounded);
    EXPECT(1, "has a model, which would be lost", "convert", "--model", model, "--out", rounded);
    EXPECT(0, "is written", "convert", "--model", model, "--out", rounded, "--overwrite");
    /* no old shards stay behind */
    cr_assert_not(exists(rounded, "model.safetensors.index.json"));
    same_bytes(copy, rounded, "model.safetensors");
}

/* ---- data ---- */

/* 60 different documents of 60 words; one more of each kind that is to go. */
static void write_documents(Scratch *w) {
    static const char *const words[] = {"the",  "cat", "and",   "a",    "dog",   "that",  "have",
                                        "seen", "of",  "green", "with", "house", "river", "old"};
    FILE *file = fopen(scratch_path(w, "documents.jsonl"), "w");
    char first[2000] = "";
    for (int i = 0; i < 60; i++) {
        char text[2000] = "";
        for (int j = 0; j < 60; j++)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d%s ",
                     words[(7 * i + j * j + i * j) % 14], (i * 61 + j) % 100,
                     words[(i + 3 * j) % 14]);
        strcat(text, "the of and that have been with it.");
        if (i == 0) strcpy(first, text);
        fprintf(file, "{\"text\": \"%s\", \"id\": %d}\n", text, i);
    }
    fprintf(file, "{\"text\": \"%s\"}\n", first);              /* an exact copy */
    fprintf(file, "{\"text\": \"%s Changed.\"}\n", first);     /* a near one */
    fprintf(file, "{\"text\": \"Home | About | Contact\"}\n"); /* too short */
    cr_assert(fclose(file) == 0);
}

Test(data, sifts_and_train_reads_what_is_left) {
    Scratch w = workplace();
    write_documents(&w);
    const char *in = path_in(w.directory, "documents.jsonl"), *out = path_in(w.directory, "shards"),
               *again = path_in(w.directory, "again");
    Output o = EXPECT(0, "read                         63", "data", in, "--out", out, "--vocab",
                      "300", "--validation", "0.1");
    expect(&o, 0, "- exact duplicate             1");
    expect(&o, 0, "- near duplicate              1");
    expect(&o, 0, "- words                       1");
    expect(&o, 0, "Tokens of a document:");
    check_all(exists(out, "index.json"), exists(out, "report.json"));
    EXPECT(0, "= train", "data", in, "--out", again, "--vocab", "300", "--validation", "0.1",
           "--threads", "1");
    same_bytes(out, again, "train-00000.shard");
    same_bytes(out, again, "validation-00000.shard");

    EXPECT(0, "as the index says", "data", "--verify", out);
    const char *run = path_in(w.directory, "run");
    EXPECT(0, "Done after 6 steps", "train", "--data", out, "--config",
           path_in(w.directory, "tiny"), "--out", run, "--steps", "6", "--batch", "2", "--context",
           "16", "--peak", "0");
    EXPECT(0, "bits per byte", "eval", "--model", run, "--data", out, "--context", "16");
    EXPECT(2, "--vocab and --validation are for text files", "train", "--data", out, "--out", run,
           "--vocab", "400");
    EXPECT(1, "holds no finished shards", "train", "--data", run, "--out",
           path_in(w.directory, "x"), "--vocab", "300");
    /* A tokenizer of the same size that gives two tokens the other's id. */
    const char *tokenizer = path_in(run, "tokenizer.json");
    edit_file(tokenizer, "\"!\":", "\"first\":");
    edit_file(tokenizer, "\"#\":", "\"!\":");
    edit_file(tokenizer, "\"first\":", "\"#\":");
    EXPECT(1, "token 0 of the shards in", "train", "--from", run, "--data", out, "--out",
           path_in(w.directory, "other"), "--steps", "2", "--context", "16");

    EXPECT(1, "holds finished shards already", "data", in, "--out", out);

    edit_file(path_in(out, "train-00000.shard"), "DSSHARD1", "DSSHARD9");
    EXPECT(1, "is no shard of this version", "data", "--verify", out);
    edit_file(path_in(again, "index.json"), "\"version\":\t1", "\"version\":\t7");
    EXPECT(1, "\"version\" should be", "data", "--verify", again);
}

/* Whoever loses more than half of a text is told to what. */
Test(data, says_when_most_is_left_out) {
    Scratch w = workplace();
    write_documents(&w);
    const char *in = path_in(w.directory, "documents.jsonl"), *out = path_in(w.directory, "shards");
    Output o = EXPECT(0, "= train", "data", in, "--out", out, "--vocab", "300");
    cr_assert_null(strstr(o.out, "are left out"), "%s", o.out);
    FILE *file = fopen(in, "a");
    for (int i = 0; i < 137; i++) fprintf(file, "{\"text\": \"Page %d | Next\"}\n", i);
    fclose(file);
    EXPECT(0,
           "70 % of the documents are left out, 69 % by \"words\": --limit words=off turns that "
           "rule off.",
           "data", in, "--out", out, "--vocab", "300", "--overwrite");
}

Test(data, broken_lines_are_named) {
    Scratch w = workplace();
    write_documents(&w);
    const char *in = path_in(w.directory, "documents.jsonl"), *out = path_in(w.directory, "shards");
    edit_file(in, "\", \"id\": 2}", ", \"id\": 2}");
    EXPECT(1, "documents.jsonl:3: ", "data", in, "--out", out, "--vocab", "300");
    EXPECT(0, "- bad line                    1", "data", in, "--out", out, "--vocab", "300",
           "--bad-lines", "skip");
    EXPECT(1, "cannot open /nowhere/x.txt", "data", "/nowhere/x.txt", "--out",
           path_in(w.directory, "other"));
    EXPECT(2, "--limit: ", "data", in, "--out", path_in(w.directory, "other"), "--limit",
           "words=5");
    EXPECT(2, "which files?", "data", "--out", path_in(w.directory, "other"));
}
