/*
 * `deepseek quantize` and its folders in all other commands: one trained model in each format,
 * which must know its text nearly as well, and say so in every way it can be asked.
 */
#include "10_full_model/tests/test_deepseek.h"

/* The tiny model of test_deepseek.h with experts that groups of 32 divide; in it, o_proj (12
 * columns) and kv_b_proj (8) are not. */
static Scratch even_workplace(void) {
    Scratch w = workplace();
    const char *config = path_in(path_in(w.directory, "tiny"), "config.json");
    edit_file(config, "\"moe_intermediate_size\": 10", "\"moe_intermediate_size\": 32");
    edit_file(config, "\"intermediate_size\": 48", "\"intermediate_size\": 64");
    return w;
}

#define TEXT "--windows", "40", "--context", "16", "--calibrate"

/* Behind a way's last flag comes the text, if that is --calibrate. */
static const struct {
    const char *name, *says;
    double worse; /* loss, at most: eight bits change little, and this model is sure of its text */
    const char *flags[12];
} ways[] = {
    {"int8", "kv_b_proj 24 x 8", 0.02, {"--to", "int8", "--group", "32"}},
    {"row", "with its tokenizer", 0.02, {"--to", "int8", "--group", "0"}},
    {"int4", "o_proj 32 x 12", 0.3, {"--to", "int4", "--group", "32"}},
    {"fp8", "with its tokenizer", 0.1, {"--to", "fp8", "--ragged"}},
    {"gptq",
     "rows that groups of 32",
     0.3,
     {"--to", "int4", "--group", "32", "--method", "gptq", TEXT}},
    {"awq",
     "rows that groups of 32",
     0.3,
     {"--to", "int4", "--group", "32", "--method", "awq", TEXT}},
    {"smooth", "with its tokenizer", 0.02, {"--to", "int8", "--method", "smoothquant", TEXT}},
    {"llm", "with its tokenizer", 0.02, {"--to", "int8", "--method", "llmint8", TEXT}},
};
enum { WAYS = sizeof ways / sizeof *ways };

static Output quantise(const Scratch *w, const char *model, int way, const char *out) {
    const char *argv[20] = {"quantize", "--model", model, "--out", out};
    int count = 5;
    for (int i = 0; ways[way].flags[i]; i++) argv[count++] = ways[way].flags[i];
    if (!strcmp(argv[count - 1], "--calibrate")) argv[count] = path_in(w->directory, "text.txt");
    return deepseek_with((Start){0}, argv);
}

static double loss_of(const Scratch *w, const char *model, const char *flag) {
    Output o = DEEPSEEK("eval", "--model", model, "--data", path_in(w->directory, "text.txt"),
                        "--context", "16", "--windows", "8", flag);
    expect(&o, 0, "loss ");
    return atof(o.out + strlen("loss "));
}

Test(quantize, there_and_back) {
    Scratch w = even_workplace();
    const char *plain = trained_model(&w), *back = path_in(w.directory, "back");
    double loss = loss_of(&w, plain, NULL);
    for (int i = 0; i < WAYS; i++) {
        const char *few = path_in(w.directory, ways[i].name);
        size_t bytes;
        Output o = quantise(&w, plain, i, few);
        expect(&o, 0, ways[i].says);
        const char *csv = file_text(path_in(few, "quantize.csv"), &bytes);
        cr_assert(strstr(csv, "model.layers.0.mlp.down_proj,0,2048,") &&
                      strstr(csv, "model.embed_tokens,,9056,16.0000,,,,0,0,\"never quantised\""),
                  "%s", csv);
        cr_assert(exists(few, "quantize.csv") && exists(few, "tokenizer.json"));
        double here = loss_of(&w, few, NULL), fast = loss_of(&w, few, "--quantised-activations");
        cr_assert(here < loss + ways[i].worse && fast < loss + ways[i].worse + 0.02,
                  "%s: %g and %g, plain %g", ways[i].name, here, fast, loss);
        EXPECT(0, "the cat sat", "generate", "--model", few, "--prompt", "the cat", "--temperature",
               "0", "-n", "8");
        EXPECT(0, "scales and shapes", "info", "--config", few);
        /* without --dequantize it stays as it is, with it the same numbers are plain ones */
        EXPECT(0, "is written", "convert", "--model", few, "--out", back, "--weights", "bf16",
               "--shard-mb", "0.02", "--overwrite");
        cr_assert(exists(back, "model.safetensors.index.json"));
        cr_assert(loss_of(&w, back, NULL) == here, "%s: other numbers", ways[i].name);
        EXPECT(1, "is quantised already", "quantize", "--model", back, "--to", "int8", "--out",
               path_in(w.directory, "again"));
        EXPECT(0, "is written", "convert", "--model", few, "--out", back, "--dequantize",
               "--overwrite");
        cr_assert(loss_of(&w, back, NULL) == here, "%s: other numbers", ways[i].name);
        Output info = EXPECT(0, "in the files", "info", "--config", back);
        cr_assert(!strstr(info.out, "scales and shapes"), "%s", info.out);
    }
}

static bool has(const char *folder, const char *file, const char *text) {
    size_t bytes;
    const char *all = file_text(path_in(folder, file), &bytes);
    return memmem(all, bytes, text, strlen(text)) != NULL;
}

/* With a module, which repeats the head: codes in the file, in what is written of that again, and
 * in what decodes, by itself and guessing. */
static void head_too(bool tied) {
    Scratch w = even_workplace();
    const char *config = path_in(path_in(w.directory, "tiny"), "config.json");
    if (!tied) edit_file(config, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    edit_file(config, "\"num_nextn_predict_layers\": 0", "\"num_nextn_predict_layers\": 1");
    const char *plain = trained_model(&w), *back = path_in(w.directory, "back");
    const char *few = path_in(w.directory, "few"), *text = path_in(w.directory, "text.txt");
    double loss = loss_of(&w, plain, NULL);
    for (int bits = 8; bits; bits -= 4) {
        EXPECT(0, "\n head   0.", "quantize", "-m", plain, "--out", few, "--to",
               bits == 8 ? "int8" : "int4", "--group", "32", "--head", "--overwrite",
               bits == 8 ? NULL : "--method", "gptq", TEXT, text);
        cr_assert(has(few, "quantize.csv",
                      bits == 8 ? "\nlm_head,,9056,8.5000,0.0" : "\nlm_head,,9056,4.5000,0."));
        cr_assert(
            has(few, "model.safetensors", "\"lm_head.weight_packed\"") &&
            has(few, "model.safetensors", "\"model.layers.2.shared_head.head.weight_scale\"") &&
            !has(few, "model.safetensors", "head.weight\"") && !has(few, "config.json", "lm_head"));
        double here = loss_of(&w, few, NULL), fast = loss_of(&w, few, "--quantised-activations");
        double worse = bits == 8 ? 0.02 : 0.3;
        cr_assert(here < loss + worse && fast < loss + worse + 0.02, "%d: %g, %g, plain %g", bits,
                  here, fast, loss);
        Output one = EXPECT(0, "the cat sat", "generate", "-m", few, "--prompt", "the cat",
                            "--temperature", "0", "-n", "8");
        Output more = EXPECT(0, "the cat sat", "generate", "-m", few, "--prompt", "the cat",
                             "--temperature", "0", "-n", "8", "--speculative", "1");
        cr_assert_str_eq(one.out, more.out);
        EXPECT(0, "is written", "convert", "-m", few, "--out", back, "--weights", "bf16",
               "--overwrite");
        cr_assert(has(back, "model.safetensors", "\"lm_head.weight_packed\"") &&
                  loss_of(&w, back, NULL) == here);
        EXPECT(0, "is written", "convert", "-m", few, "--out", back, "--dequantize", "--overwrite");
        cr_assert(has(back, "model.safetensors", "\"lm_head.weight\"") &&
                  loss_of(&w, back, NULL) == here);
    }
}

Test(quantize, the_head_too) { head_too(false); }
Test(quantize, a_head_that_was_the_table) { head_too(true); }

Test(quantize, what_training_does_with_it) {
    Scratch w = even_workplace();
    const char *plain = trained_model(&w), *few = path_in(w.directory, "few");
    Output o = quantise(&w, plain, 0, few);
    expect(&o, 0, "is written");
    o = DEEPSEEK("train", "--from", few, "--data", path_in(w.directory, "text.txt"), "--out",
                 path_in(w.directory, "next"), "--steps", "2", "--batch", "4", "--context", "16",
                 "--eval-batches", "1", "--peak", "0");
    expect(&o, 0, "Done after 2 steps");
    cr_assert(strstr(o.err, "few is quantised: training begins with the numbers"), "%s", o.err);
    Output info = EXPECT(0, "in the files", "info", "--config", path_in(w.directory, "next"));
    cr_assert(!strstr(info.out, "scales"), "%s", info.out);
    char command[900];
    snprintf(command, sizeof command, "cp '%s/config.json' '%s/last/'", few, plain);
    cr_assert(system(command) == 0);
    EXPECT(1, "last is quantised, so it is not what a run has left", TRAINING(&w, "model"),
           "--resume", "--steps", "90");
    EXPECT(0, "Done after 2 steps", "train", "--config", few, "--data",
           path_in(w.directory, "text.txt"), "--out", path_in(w.directory, "new"), "--steps", "2",
           "--batch", "4", "--context", "16", "--eval-batches", "1", "--peak", "0");
    info = EXPECT(0, "in the files", "info", "--config", path_in(w.directory, "new"));
    cr_assert(!strstr(info.out, "scales"), "%s", info.out);
}

Test(quantize, what_is_refused_leaves_nothing) {
    Scratch w = even_workplace();
    const char *plain = trained_model(&w), *out = path_in(w.directory, "out");
    const char *text = path_in(w.directory, "text.txt");
    const struct {
        int status;
        const char *says, *argv[18];
    } cases[] = {
        {2, "--to int8|int4|fp8 says into what", {"quantize", "-m", plain, "--out", out}},
        {2,
         "--group must be 32, 64 or 128",
         {"quantize", "-m", plain, "--out", out, "--to", "int4", "--group", "48"}},
        {2,
         "with --to int8 also 0",
         {"quantize", "-m", plain, "--out", out, "--to", "int4", "--group", "0"}},
        {1,
         "rows of 32 numbers, which --group 128 does not divide; --group 32 does",
         {"quantize", "-m", plain, "--out", out, "--to", "int4"}},
        {1, "--ragged takes them all", {"quantize", "-m", plain, "--out", out, "--to", "fp8"}},
        {1,
         "is the folder of --model",
         {"quantize", "-m", plain, "--out", plain, "--to", "int8", "--overwrite"}},
        {1,
         "is no model's folder",
         {"quantize", "-m", w.directory, "--out", out, "--to", "int8", "--group", "32"}},
        {2,
         "--method gptq looks at what the weights are multiplied with",
         {"quantize", "-m", plain, "--out", out, "--to", "int4", "--group", "32", "--method",
          "gptq"}},
        {2,
         "of FP8, as transformers opens it, the head is plain",
         {"quantize", "-m", plain, "--out", out, "--to", "fp8", "--head"}},
        {2,
         "--ragged is for --to fp8",
         {"quantize", "-m", plain, "--out", out, "--to", "int8", "--ragged"}},
        {2,
         "--method gptq is for --to int8 and int4",
         {"quantize", "-m", plain, "--out", out, "--to", "fp8", "--method", "gptq", "--calibrate",
          text}},
        {2,
         "--method smoothquant is for --to int8\n",
         {"quantize", "-m", plain, "--out", out, "--to", "int4", "--method", "smoothquant",
          "--calibrate", text}},
        {1,
         "choose INT8 without groups",
         {"quantize", "-m", plain, "--out", out, "--to", "int8", "--method", "smoothquant",
          "--calibrate", text, "--group", "32"}},
        {1,
         "tokens, but 128 windows of 64 need 8192",
         {"quantize", "-m", plain, "--out", out, "--to", "int8", "--group", "32", "--calibrate",
          text, "--context", "64"}},
        {1,
         "GPTQ needs at least as many as the widest layer has inputs, 64",
         {"quantize", "-m", plain, "--out", out, "--to", "int8", "--group", "32", "--method",
          "gptq", "--windows", "2", "--calibrate", text}},
        {1,
         "nowhere.txt: No such file",
         {"quantize", "-m", plain, "--out", out, "--to", "int8", "--group", "0", "--calibrate",
          "nowhere.txt"}},
        {2,
         "makes no sense with it",
         {"logits", "-m", plain, "--input", out, "--output", out, "--grads",
          "--quantised-activations"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Output o = deepseek_with((Start){0}, cases[i].argv);
        expect(&o, cases[i].status, cases[i].says);
        cr_assert(!exists(out, "config.json") && !exists(out, "model.safetensors"), "case %zu", i);
    }
    put_nan(path_in(plain, "model.safetensors"), "model.layers.1.mlp.experts.2.up_proj.weight");
    EXPECT(1, "model.layers.1.mlp.experts.up_proj.weight: ", "quantize", "-m", plain, "--out", out,
           "--to", "int8", "--group", "32");
    cr_assert(!exists(out, "config.json"));
}

/* Before hours of work, not after them. To root every folder is open, so somebody else asks. */
Test(quantize, a_folder_that_takes_nothing) {
    Scratch w = even_workplace();
    const char *plain = trained_model(&w), *out = path_in(w.directory, "out");
    cr_assert(mkdir(out, 0555) == 0 && chmod(w.directory, 0755) == 0);
    const char *const argv[] = {"quantize", "-m",   plain,     "--out", out,
                                "--to",     "int8", "--group", "32",    NULL};
    Output o = deepseek_with((Start){.nobody = true}, argv);
    if (o.status == 127) cr_skip_test("nobody may not read this program");
    expect(&o, 1, "cannot write into ");
    cr_assert_null(strstr(o.err, "quantising"), "it has worked: %s", o.err);
}
