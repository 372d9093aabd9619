/*
 * The program and texts: where they end, by whatever a folder says; what goes along with a model;
 * and text as pieces and ids.
 */
/* first: it says which functions of the system it needs */
#include "10_full_model/tests/test_deepseek.h"

#include "common/files/json.h"

#define GREEDY "--prompt", "the", "--temperature", "0", "--max-new-tokens", "25"
#define UNSAID "--prompt", "the", "--max-new-tokens", "25", "--seed", "5"

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0, "%s", path);
}

static cJSON *json_of(const char *path) {
    cJSON *json = json_load(path, &err);
    cr_assert(json, "%s", err.text);
    return json;
}

static int number_in(const char *path, const char *key) {
    const cJSON *item = cJSON_GetObjectItem(json_of(path), key);
    return cJSON_IsNumber(item) ? item->valueint : -1;
}

/* An answer ends at any token that the folder calls an end, in whichever file, and that token is
 * not printed. */
Test(text, ends_where_the_folder_says) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    const char *generation = path_in(model, "generation_config.json"),
               *config = path_in(model, "config.json");
    Output whole = DEEPSEEK("generate", "--model", model, GREEDY);
    Output ids = deepseek_with((Start){.input = whole.out},
                               ARGUMENTS("tokenize", "--model", model, "--ids"));
    int list[100], count = 0;
    for (char *at = ids.out, *end; count < 100; at = end) {
        list[count] = (int)strtol(at, &end, 10);
        if (end == at) break;
        count++;
    }
    cr_assert(count > 15, "%s", ids.out);
    int end = list[10], eot = number_in(config, "eos_token_id");
    char before[500] = "", *last = before, text[200];
    for (int i = 0; i < count && list[i] != end; i++) last += sprintf(last, "%d ", list[i]);
    Output wanted = deepseek_with((Start){.input = before},
                                  ARGUMENTS("tokenize", "--model", model, "--decode"));
    cr_assert(strlen(wanted.out) > 3 && strlen(wanted.out) < strlen(whole.out));
    strcat(wanted.out, "\n");

    snprintf(text, sizeof text, "{\"eos_token_id\": [%d, %d]}", eot, end);
    write_file(generation, text);
    Output o = DEEPSEEK("generate", "--model", model, GREEDY);
    cr_expect_str_eq(o.out, wanted.out, "by generation_config.json: '%s'", o.out);
    remove(generation);
    char now[60], then[60];
    snprintf(now, sizeof now, "\"eos_token_id\":\t%d", eot);
    snprintf(then, sizeof then, "\"eos_token_id\":\t[%d, %d]", end, eot);
    edit_file(config, now, then);
    o = DEEPSEEK("generate", "--model", model, GREEDY);
    cr_expect_str_eq(o.out, wanted.out, "by config.json: '%s'", o.out);
}

/* How tokens are drawn is the folder's to say, unless the command line does. */
Test(text, sampling_of_the_folder) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *path = path_in(model, "generation_config.json");
    Output greedy = DEEPSEEK("generate", "--model", model, GREEDY);
    write_file(path, "{\"do_sample\": false, \"temperature\": 7}");
    Output o = DEEPSEEK("generate", "--model", model, UNSAID);
    cr_expect_str_eq(o.out, greedy.out);
    write_file(path, "{\"do_sample\": true, \"temperature\": 50, \"top_p\": 1}");
    o = DEEPSEEK("generate", "--model", model, UNSAID, "--stop", "never said");
    Output hot =
        DEEPSEEK("generate", "--model", model, UNSAID, "--temperature", "50", "--top-p", "1");
    cr_expect_str_eq(o.out, hot.out);
    cr_expect(strcmp(o.out, greedy.out));
    o = DEEPSEEK("generate", "--model", model, UNSAID, "--temperature", "0");
    cr_expect_str_eq(o.out, greedy.out);
}

/* What `data --end-of-text` chose is what `train` writes and `generate` stops at. */
Test(text, ends_as_the_shards_do) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *shards = path_in(w.directory, "shards");
    const char *tokenizer = path_in(w.directory, "t.json");
    cJSON *json = json_of(path_in(model, "tokenizer.json"));
    int size = number_in(path_in(model, "config.json"), "vocab_size");
    cJSON *token = cJSON_CreateObject();
    cJSON_AddNumberToObject(token, "id", size);
    cJSON_AddStringToObject(token, "content", "<end>");
    cJSON_AddItemToArray(cJSON_GetObjectItem(json, "added_tokens"), token);
    check_ok(json_save(tokenizer, json, &err), &err);
    EXPECT(0, "", "data", path_in(w.directory, "text.txt"), "--out", shards, "--tokenizer",
           tokenizer, "--end-of-text", "<end>", "--no-limits", "--near", "0", "--cut", "1",
           "--validation", "0.4", "--keep-exact");
    EXPECT(0, "Done", "train", "--config", path_in(w.directory, "tiny"), "--data", shards, "--out",
           path_in(w.directory, "m"), "--batch", "4", "--context", "16", "--peak", "0", "--steps",
           "2");
    cr_expect_eq(number_in(path_in(w.directory, "m/config.json"), "eos_token_id"), size);
    cr_expect_eq(number_in(path_in(w.directory, "m/generation_config.json"), "eos_token_id"), size);
    json = json_of(path_in(w.directory, "m/tokenizer_config.json"));
    cr_expect_str_eq(cJSON_GetObjectItem(json, "eos_token")->valuestring, "<end>");
}

/* The ids in a --config are another vocabulary's when the tokens are learned here. */
Test(text, foreign_ids_do_not_survive) {
    Scratch w = workplace();
    edit_file(path_in(w.directory, "tiny/config.json"), "\"model_type\"",
              "\"eos_token_id\": [1, 7], \"bos_token_id\": 0, \"model_type\"");
    EXPECT(0, "Done", TRAINING(&w, "m"), "--steps", "2");
    const char *config = path_in(w.directory, "m/config.json");
    int eot = number_in(config, "vocab_size") - 1;
    cr_expect_eq(number_in(config, "eos_token_id"), eot);
    cr_expect(number_in(config, "bos_token_id") > 0);
    cr_expect_eq(number_in(path_in(w.directory, "m/generation_config.json"), "eos_token_id"), eot);
}

static bool same_file(const char *a, const char *b, const char *name) {
    size_t x, y;
    char *p = file_text(path_in(a, name), &x), *q = file_text(path_in(b, name), &y);
    return x == y && !memcmp(p, q, x);
}

/* convert and --from keep what lies beside the weights, and convert a tokenizer it cannot read. */
Test(text, what_lies_beside_goes_along) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *out = path_in(w.directory, "out");
    write_file(path_in(model, "generation_config.json"),
               "{\"eos_token_id\": [282, 5], \"do_sample\": true, \"temperature\": 0.6}");
    write_file(path_in(model, "tokenizer_config.json"),
               "{\"eos_token\": \"<|endoftext|>\", \"chat_template\": \"{{x}}\"}");
    write_file(path_in(model, "chat_template.jinja"), "{{y}}");
    edit_file(path_in(model, "config.json"), "\"eos_token_id\":\t282",
              "\"eos_token_id\":\t[282, 5]");
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json",
                                        "generation_config.json", "chat_template.jinja"};
    EXPECT(0, "with its tokenizer", "convert", "--model", model, "--out", out);
    for (int i = 0; i < 4; i++) cr_expect(same_file(model, out, files[i]), "%s", files[i]);
    size_t bytes;
    cr_expect(strstr(file_text(path_in(out, "config.json"), &bytes), "[282, 5]"));
    EXPECT(0, "Done", "train", "--from", model, "--data", path_in(w.directory, "text.txt"), "--out",
           path_in(w.directory, "from"), "--context", "16", "--peak", "0", "--steps", "1");
    for (int i = 0; i < 4; i++)
        cr_expect(same_file(model, path_in(w.directory, "from"), files[i]), "%s", files[i]);

    cJSON *json = json_of(path_in(model, "tokenizer.json"));
    cJSON_ReplaceItemInObject(json, "normalizer", cJSON_Parse("{\"type\":\"NFKC\"}"));
    check_ok(json_save(path_in(model, "tokenizer.json"), json, &err), &err);
    out = path_in(w.directory, "unread");
    Output o = DEEPSEEK("convert", "--model", model, "--out", out);
    expect(&o, 0, "with its tokenizer");
    cr_expect(strstr(o.err, "normalizer is not supported. It is copied as it is"), "%s", o.err);
    for (int i = 0; i < 4; i++) cr_expect(same_file(model, out, files[i]), "%s", files[i]);
}

/* ---- tokenize ---- */

Test(text, pieces_and_back) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *text = "the\t\xC3\xA9\xFF \"q\"\\ the cat\n";
    Start start = {.input = text};
    Output ids = deepseek_with(start, ARGUMENTS("tokenize", "--model", model, "--ids"));
    Output pieces = deepseek_with(
        start, ARGUMENTS("tokenize", "--tokenizer", path_in(model, "tokenizer.json")));
    char line[60];
    cr_expect(ids.status == 0 && strchr(ids.out, '\n') == ids.out + strlen(ids.out) - 1);
    char *next = pieces.out, *quoted;
    for (char *id = strtok(ids.out, " \n"); id; id = strtok(NULL, " \n")) {
        snprintf(line, sizeof line, "%s\t\"", id);
        cr_assert(strncmp(next, line, strlen(line)) == 0, "'%.20s' should begin with %s", next, id);
        next = strchr(next, '\n') + 1;
    }
    cr_expect_str_eq(next, "");
    quoted = strstr(pieces.out, "\\xFF");
    check_all(quoted, strstr(pieces.out, "\t\"\\\"\"\n"), strstr(pieces.out, "\\n"));

    ids = deepseek_with(start, ARGUMENTS("tokenize", "--model", model, "--ids"));
    Output back = deepseek_with((Start){.input = ids.out},
                                ARGUMENTS("tokenize", "--model", model, "--decode"));
    cr_expect_str_eq(back.out, text);
    back = deepseek_with((Start){.input = pieces.out},
                         ARGUMENTS("tokenize", "--model", model, "--decode"));
    cr_expect_str_eq(back.out, text);
    write_file(path_in(w.directory, "mark.txt"), "\xEF\xBB\xBFthe");
    Output marked =
        DEEPSEEK("tokenize", "--model", model, path_in(w.directory, "mark.txt"), "--ids");
    Output plain =
        deepseek_with((Start){.input = "the"}, ARGUMENTS("tokenize", "--model", model, "--ids"));
    cr_expect_str_eq(marked.out, plain.out);
    Output none = DEEPSEEK("tokenize", "--model", model);
    cr_expect_str_eq(none.out, "");
}

Test(text, tokenize_says_what_is_wrong) {
    Scratch w = workplace();
    const char *model = trained_model(&w);
    EXPECT(2, "which tokenizer", "tokenize");
    EXPECT(2, "which tokenizer", "tokenize", "--model", model, "--tokenizer", model);
    EXPECT(2, "exclude each other", "tokenize", "--model", model, "--ids", "--decode");
    EXPECT(2, "one FILE", "tokenize", "--model", model, "a", "b");
    EXPECT(1, "/proc/none", "tokenize", "--model", model, "/proc/none");
    EXPECT(1, "/proc/none", "tokenize", "--tokenizer", "/proc/none");
    static const char *const wrong[] = {"1 x", "1 -2", "283", "1.5", "99999999999999999999", "7a"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Output o = deepseek_with((Start){.input = wrong[i]},
                                 ARGUMENTS("tokenize", "--model", model, "--decode"));
        expect(&o, 1, "no id of this tokenizer");
        cr_expect_str_eq(o.out, "");
    }
}
