/*
 * Where a text ends, by the files of a model's folder; and that those files go along.
 */
#include "common/files/files.h"
#include "common/files/json.h"
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"
#include "common/text/tokenizer_folder.h"

/* 257 tokens of which the last is <|endoftext|>, and <eos>, <bos>, <user>: 300, 301, 302. */
static void write_tokenizer(Scratch *scratch) {
    Tokenizer *tokenizer = tokenizer_train("text", 4, 257, NULL, NULL, &err);
    const char *path = scratch_path(scratch, "tokenizer.json");
    check_ok(tokenizer_save(tokenizer, path, &err), &err);
    cJSON *json = json_load(path, &err), *list = cJSON_GetObjectItem(json, "added_tokens");
    static const char *const names[] = {"<eos>", "<bos>", "<user>"};
    for (int i = 0; i < 3; i++) {
        cJSON *token = cJSON_CreateObject();
        cJSON_AddNumberToObject(token, "id", 300 + i);
        cJSON_AddStringToObject(token, "content", names[i]);
        cJSON_AddItemToArray(list, token);
    }
    check_ok(json_save(path, json, &err), &err);
    cJSON_Delete(json);
    tokenizer_free(tokenizer);
}

static void write_text(Scratch *scratch, const char *name, const char *text) {
    if (text) scratch_write(scratch, name, text, strlen(text));
}

Test(tokenizer_folder, the_first_that_names_an_end_has_it_right) {
    static const struct {
        const char *generation, *config, *names;
        int bos, ends[3]; /* -1 behind the last */
    } cases[] = {
        {NULL, NULL, NULL, -1, {256, -1}},
        {"{\"eos_token_id\": 300, \"bos_token_id\": 301}",
         "{\"eos_token_id\": 302}",
         NULL,
         301,
         {300, -1}},
        {"{\"eos_token_id\": [300, 302]}",
         "{\"eos_token_id\": 256, \"bos_token_id\": 301}",
         NULL,
         301,
         {300, 302, -1}},
        {"{\"_from_model_config\": true}",
         "{\"eos_token_id\": [302, 300]}",
         NULL,
         -1,
         {302, 300, -1}},
        {"{\"eos_token_id\": null}",
         "{\"eos_token_id\": null}",
         "{\"eos_token\": \"<eos>\"}",
         -1,
         {300, -1}},
        {NULL,
         NULL,
         "{\"eos_token\": {\"content\": \"<eos>\"}, \"bos_token\": \"<bos>\"}",
         301,
         {300, -1}},
        {NULL, NULL, "{\"eos_token\": \"<none>\", \"bos_token\": null}", -1, {256, -1}},
        {"[]", "[]", "\xEF\xBB\xBF{\"eos_token\": \"<eos>\"}", -1, {300, -1}},
        {"{\"eos_token_id\": []}", "{\"eos_token_id\": -1}", NULL, -1, {256, -1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Scratch scratch = scratch_open();
        write_tokenizer(&scratch);
        write_text(&scratch, "generation_config.json", cases[i].generation);
        write_text(&scratch, "config.json", cases[i].config);
        write_text(&scratch, "tokenizer_config.json", cases[i].names);
        Tokenizer *tokenizer = tokenizer_load_folder(scratch.directory, &err);
        cr_assert(tokenizer, "%s", err.text);
        cr_expect(tokenizer_bos(tokenizer) == cases[i].bos, "case %zu: begins with %d", i,
                  tokenizer_bos(tokenizer));
        cr_expect(tokenizer_eot(tokenizer) == cases[i].ends[0], "case %zu: ends with %d", i,
                  tokenizer_eot(tokenizer));
        for (int id = 0; id < 400; id++) {
            bool wanted = false;
            for (int k = 0; k < 3 && cases[i].ends[k] >= 0; k++) wanted |= id == cases[i].ends[k];
            cr_expect(tokenizer_is_end(tokenizer, id) == wanted, "case %zu: %d", i, id);
        }
        tokenizer_free(tokenizer);
    }
}

Test(tokenizer_folder, what_is_wrong_is_named) {
    static const char *const files[][3] = {
        {"generation_config.json", "no JSON", "generation_config.json: not JSON at line 1"},
        {"tokenizer_config.json", "{\"eos_token\": }", "tokenizer_config.json: not JSON"},
        {"generation_config.json", "{\"eos_token_id\": \"300\"}", "eos_token_id is neither"},
        {"generation_config.json", "{\"eos_token_id\": [300, 9999]}",
         "is 9999, but there are only"},
        {"generation_config.json", "{\"eos_token_id\": [300, -1]}", "eos_token_id is neither"},
        {"generation_config.json", "{\"bos_token_id\": 1.5}", "bos_token_id is neither"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        Scratch scratch = scratch_open();
        write_tokenizer(&scratch);
        write_text(&scratch, files[i][0], files[i][1]);
        cr_expect_null(tokenizer_load_folder(scratch.directory, &err));
        cr_expect(strstr(err.text, files[i][2]), "'%s' should say '%s'", err.text, files[i][2]);
        Tokenizer *kept = tokenizer_keep_folder(scratch.directory, &err);
        cr_assert(kept, "%s", err.text);
    }
}

static bool same_file(Scratch *a, Scratch *b, const char *name) {
    MappedFile x, y;
    check_ok(file_map(&x, scratch_path(a, name), &err), &err);
    check_ok(file_map(&y, scratch_path(b, name), &err), &err);
    return x.size == y.size && !memcmp(x.data, y.data, x.size);
}

/* Every file goes along, byte by byte; with another end only what names the end differs. */
Test(tokenizer_folder, what_lies_beside_goes_along) {
    static const char *const files[][2] = {
        {"generation_config.json",
         "{\"eos_token_id\":[300,302],  \"do_sample\":true,\"temperature\":0.6}"},
        {"tokenizer_config.json",
         "{\"eos_token\":\"<eos>\",\"chat_template\":\"{{x}}\",\"model_max_length\":7}"},
        {"special_tokens_map.json", "{\"eos_token\":\"<eos>\"}"},
        {"chat_template.jinja", "{% for m in messages %}"},
    };
    Scratch from = scratch_open(), to = scratch_open(), unread = scratch_open();
    write_tokenizer(&from);
    for (int i = 0; i < 4; i++) write_text(&from, files[i][0], files[i][1]);
    Tokenizer *tokenizer = tokenizer_load_folder(from.directory, &err);
    cr_assert(tokenizer, "%s", err.text);
    check_ok(tokenizer_save_folder(tokenizer, to.directory, 256, 4096, &err), &err);
    cr_expect(same_file(&from, &to, "tokenizer.json"));
    for (int i = 0; i < 4; i++) cr_expect(same_file(&from, &to, files[i][0]), "%s", files[i][0]);

    tokenizer_add_end(tokenizer, 300); /* the first already */
    check_ok(tokenizer_save_folder(tokenizer, to.directory, 256, 4096, &err), &err);
    for (int i = 0; i < 4; i++) cr_expect(same_file(&from, &to, files[i][0]), "%s", files[i][0]);
    tokenizer_add_end(tokenizer, 256);
    check_ok(tokenizer_save_folder(tokenizer, to.directory, 256, 4096, &err), &err);
    cJSON *generation = json_load(scratch_path(&to, "generation_config.json"), &err);
    cJSON *config = json_load(scratch_path(&to, "tokenizer_config.json"), &err);
    cJSON *wanted =
        cJSON_Parse("{\"eos_token_id\":[256,300,302],\"do_sample\":true,\"temperature\":0.6}");
    cr_expect(cJSON_Compare(generation, wanted, 1), "%s", cJSON_Print(generation));
    wanted = cJSON_Parse(
        "{\"eos_token\":\"<|endoftext|>\",\"chat_template\":\"{{x}}\",\"model_max_length\":7}");
    cr_expect(cJSON_Compare(config, wanted, 1), "%s", cJSON_Print(config));

    /* One that cannot be read goes along, too. */
    write_text(&from, "tokenizer.json", "{\"model\":{\"type\":\"Unigram\"}}");
    cr_assert(!tokenizer_load_folder(from.directory, &err) && strstr(err.text, "Unigram"));
    tokenizer = tokenizer_keep_folder(from.directory, &err);
    cr_assert(tokenizer, "%s", err.text);
    check_ok(tokenizer_save_folder(tokenizer, unread.directory, 256, 4096, &err), &err);
    cr_expect(same_file(&from, &unread, "tokenizer.json"));
    for (int i = 0; i < 4; i++) cr_expect(same_file(&from, &unread, files[i][0]));
}

/* What AutoTokenizer and generate() of transformers want to know of a tokenizer learned here. */
Test(tokenizer_folder, of_a_tokenizer_learned_here) {
    Scratch scratch = scratch_open();
    Tokenizer *tokenizer = tokenizer_train("text", 4, 257, NULL, NULL, &err);
    check_ok(tokenizer_save_folder(tokenizer, scratch.directory, 256, 4096, &err), &err);
    cJSON *generation = json_load(scratch_path(&scratch, "generation_config.json"), &err);
    cJSON *config = json_load(scratch_path(&scratch, "tokenizer_config.json"), &err);
    cr_expect(cJSON_Compare(
        generation,
        cJSON_Parse("{\"_from_model_config\":true,\"bos_token_id\":256,\"eos_token_id\":256}"), 1));
    cr_expect(cJSON_Compare(
        config,
        cJSON_Parse("{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"model_max_length\":4096,"
                    "\"clean_up_tokenization_spaces\":false,\"eos_token\":\"<|endoftext|>\"}"),
        1));
}

Test(tokenizer_folder, sampling) {
    static const struct {
        const char *generation;
        Sampling wanted;
    } cases[] = {
        {NULL, {.temperature = 0.8f, .top_p = 0.95f, .repetition_penalty = 1}},
        {"{\"do_sample\":true,\"temperature\":0.6,\"top_p\":0.5,\"top_k\":7,\"min_p\":0.1,"
         "\"repetition_penalty\":1.5}",
         {.temperature = 0.6f,
          .top_p = 0.5f,
          .top_k = 7,
          .min_p = 0.1f,
          .repetition_penalty = 1.5f}},
        {"{\"do_sample\":false,\"temperature\":0.6}",
         {.temperature = 0, .top_p = 0.95f, .repetition_penalty = 1}},
        {"{\"temperature\":null,\"top_p\":null,\"top_k\":null,\"do_sample\":null}",
         {.temperature = 0.8f, .top_p = 0.95f, .repetition_penalty = 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Scratch scratch = scratch_open();
        write_tokenizer(&scratch);
        write_text(&scratch, "generation_config.json", cases[i].generation);
        Tokenizer *tokenizer = tokenizer_load_folder(scratch.directory, &err);
        cr_assert(tokenizer, "%s", err.text);
        Sampling s = {.temperature = 0.8f, .top_p = 0.95f, .repetition_penalty = 1};
        const Sampling *w = &cases[i].wanted;
        check_ok(tokenizer_sampling(tokenizer, &s, &err), &err);
        cr_expect(s.temperature == w->temperature && s.top_p == w->top_p && s.top_k == w->top_k &&
                      s.min_p == w->min_p && s.repetition_penalty == w->repetition_penalty,
                  "case %zu", i);
    }
}

/* What transformers would stop at is no default here. */
Test(tokenizer_folder, sampling_that_cannot_be_is_named) {
    static const char *const cases[][2] = {
        {"{\"temperature\":-1}", "temperature is not a number between 0 and 100"},
        {"{\"temperature\":\"hot\"}", "temperature is not a number"},
        {"{\"top_p\":5}", "top_p is not a number between 0 and 1"},
        {"{\"min_p\":2}", "min_p is not"},
        {"{\"repetition_penalty\":0}", "repetition_penalty is not"},
        {"{\"top_k\":-3}", "top_k is not a whole number"},
        {"{\"top_k\":1.5}", "top_k is not a whole number"},
        {"{\"do_sample\":\"no\"}", "do_sample is neither true nor false"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Scratch scratch = scratch_open();
        write_tokenizer(&scratch);
        write_text(&scratch, "generation_config.json", cases[i][0]);
        Tokenizer *tokenizer = tokenizer_load_folder(scratch.directory, &err);
        cr_assert(tokenizer, "%s", err.text);
        Sampling s = {.temperature = 0.8f};
        cr_expect_eq(tokenizer_sampling(tokenizer, &s, &err), -1, "%s", cases[i][0]);
        cr_expect(strstr(err.text, cases[i][1]), "%s", err.text);
        tokenizer_free(tokenizer);
    }
}
