/*
 * Targets that get text: a tokenizer and its text, documents, tasks, answers, commands, limits,
 * flags.
 */
#define _GNU_SOURCE /* memmem, fmemopen */
#include "tools/fuzz/fuzz.h"

#include "09_grpo/rewards/rewards.h"
#include "10_full_model/commands/interactive.h"
#include "10_full_model/data/documents.h"
#include "10_full_model/data/minhash.h"
#include "10_full_model/data/normalise.h"
#include "10_full_model/data/quality.h"
#include "10_full_model/data/questions.h"
#include "10_full_model/evaluate/tasks.h"
#include "common/core/memory.h"
#include "common/core/utf8.h"
#include "common/program/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool contains(Bytes text, const char *what) {
    return memmem(text.data, text.size, what, strlen(what)) != NULL;
}

/* Zero-terminated; for the caller to free(). */
static char *string_of(Bytes text) {
    char *copy = memcpy(must_alloc(text.size + 1, 1), text.data, text.size);
    copy[text.size] = 0;
    return copy;
}

static bool is_utf8(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes;) {
        int length = utf8_character(text + i, bytes - i);
        if (length < 0) return false;
        i += (size_t)length;
    }
    return true;
}

/* ---- tokenizers ---- */

/* Are these the same but for spaces? */
static bool same_but_for_spaces(Bytes a, Bytes b) {
    size_t i = 0, j = 0;
    for (;;) {
        while (i < a.size && a.data[i] == ' ') i++;
        while (j < b.size && b.data[j] == ' ') j++;
        if (i == a.size || j == b.size) return i == a.size && j == b.size;
        if (a.data[i++] != b.data[j++]) return false;
    }
}

typedef enum Back { EXACT, BUT_FOR_SPACES, ANY } Back; /* how ids give their text back */

/* Ids are the vocabulary's, and give the text back. */
static int32_t *encode(const Tokenizer *tokenizer, Bytes text, Back how, size_t *count) {
    Bytes back;
    int32_t *ids = tokenizer_encode(tokenizer, text.data, text.size, count);
    for (size_t i = 0; i < *count; i++)
        REQUIRE(ids[i] >= 0 && ids[i] < tokenizer_vocab_size(tokenizer), "id %d", ids[i]);
    back.data = tokenizer_decode(tokenizer, ids, *count, &back.size);
    bool same = back.size == text.size && !memcmp(back.data, text.data, text.size);
    REQUIRE(same || how == ANY || (how == BUT_FOR_SPACES && same_but_for_spaces(back, text)),
            "%zu bytes became %zu others", text.size, back.size);
    free((void *)back.data);
    return ids;
}

/* tokenizer.json, then a text: what loads gives the text back, and is the same when it is saved and
 * loaded again. */
static void tokenizer_json(Bytes input) {
    Error err;
    Bytes json = fuzz_part(&input), text = fuzz_part(&input);
    fuzz_file("tokenizer.json", json);
    Tokenizer *tokenizer = tokenizer_load(FUZZ_FOLDER "/tokenizer.json", &err), *again;
    if (!tokenizer) return;
    /* A file may want pieces to be removed, and (that is the default) a space before a text. */
    Back how = contains(json, "emoved") ? ANY : BUT_FOR_SPACES;
    size_t count, count_again;
    int32_t *ids = encode(tokenizer, text, how, &count);
    const char *path = fuzz_scratch("saved.json");
    REQUIRE(tokenizer_save(tokenizer, path, &err) == 0, "not saved: %s", err.text);
    again = tokenizer_load(path, &err);
    REQUIRE(again, "not loaded again: %s", err.text);
    int32_t *same = encode(again, text, how, &count_again);
    REQUIRE(count == count_again && !memcmp(ids, same, count * sizeof *ids), "other ids");
    free(ids), free(same);
    tokenizer_free(tokenizer), tokenizer_free(again);
}

static void tokenizer_text(Bytes input) {
    static const char *const paths[] = {"common/tests/goldens/tokenizer_gpt2.json",
                                        "common/tests/goldens/tokenizer_deepseek.json"};
    enum { COUNT = sizeof paths / sizeof *paths };
    static Tokenizer *tokenizers[COUNT];
    Error err;
    for (int i = 0; i < COUNT; i++) {
        size_t count;
        if (!tokenizers[i]) tokenizers[i] = tokenizer_load(paths[i], &err);
        REQUIRE(tokenizers[i], "%s", err.text);
        free(encode(tokenizers[i], input, EXACT, &count));
    }
}

/* ---- documents ---- */

static void check_document(const char *text, size_t bytes) {
    static QualityScratch scratch;
    static MinHash minhash;
    if (!minhash.bands) minhash_init(&minhash, 4, 2, 3);
    const char *marker = "<|endoftext|>";
    char *once = must_alloc(3 * bytes + 1, 1);
    Normalised n = normalise(text, bytes, marker, once);
    REQUIRE(n.bytes <= 3 * bytes && once[n.bytes] == 0, "%zu of %zu", n.bytes, bytes);
    REQUIRE(is_utf8(once, n.bytes), "normalised text is no UTF-8");
    REQUIRE(!memmem(once, n.bytes, marker, strlen(marker)), "a marker is left");
    char *twice = must_alloc(3 * n.bytes + 1, 1);
    Normalised m = normalise(once, n.bytes, marker, twice);
    REQUIRE(m.bytes == n.bytes && !memcmp(once, twice, n.bytes) && !m.replaced, "not idempotent");
    double values[QUALITY_RULES];
    quality_measure(once, n.bytes, &scratch, values);
    for (int i = 0; i < QUALITY_RULES; i++) REQUIRE(!isinf(values[i]), "rule %d", i);
    uint16_t signature[8];
    minhash_signature(&minhash, once, n.bytes, signature);
    free(once), free(twice);
}

/* The first byte chooses how two files are read. */
static void documents(Bytes input) {
    if (!input.size) return;
    unsigned how = (unsigned char)input.data[0];
    input = (Bytes){input.data + 1, input.size - 1};
    Bytes first = fuzz_part(&input), second = fuzz_part(&input);
    fuzz_file("a.jsonl", first);
    fuzz_file("b.txt", second);
    static const char *const paths[] = {FUZZ_FOLDER "/a.jsonl", FUZZ_FOLDER "/b.txt"};
    DocumentOptions options = documents_defaults();
    options.format = (FileFormat)(how % 3);
    options.split = (TextSplit)(how / 3 % 3);
    options.cut = how / 9 % 2 ? 1 + how / 18 : options.cut;
    options.longest = how / 128 ? 100 : options.longest;
    DocumentReader reader;
    Error err;
    if (documents_open(&reader, paths, 2, &options, &err)) return;
    size_t left = 2 * reader.total + 2; /* no more pieces than bytes */
    Piece piece;
    for (int status; (status = documents_next(&reader, &piece, &err)) != 0;) {
        REQUIRE(left-- > 0, "there is no end");
        DocumentText text;
        if (status < 0) break;
        REQUIRE(documents_position(&reader) <= reader.total, "behind the end");
        if (document_text(&reader, &piece, &text, &err)) continue;
        check_document(text.text, text.bytes);
        document_text_free(&text);
    }
    documents_seek(&reader, how);
    documents_close(&reader);
}

/* ---- questions ---- */

/* Prompts and answers, as sft and grpo read them: ids are the text's, no prompt is in both parts,
 * and each question to learn from comes once. The first byte chooses what may be missing. */
static void questions(Bytes input) {
    static Tokenizer *tokenizer;
    Error err;
    if (!tokenizer) tokenizer = tokenizer_train("0", 1, 257, NULL, NULL, &err);
    if (!input.size) return;
    unsigned how = (unsigned char)input.data[0];
    fuzz_file("a.jsonl", (Bytes){input.data + 1, input.size - 1});
    Questions q;
    const QuestionOptions options = {.from = FUZZ_FOLDER "/a.jsonl",
                                     .file = true,
                                     .field = how % 2 ? "answer" : "completion",
                                     .may_miss = how % 2,
                                     .held_out = 0.3,
                                     .most_prompt = how / 2 % 2 ? 5 : 100,
                                     .most = 100};
    if (questions_open(&q, tokenizer, how / 4 % 2 ? 256 : -1, &options, &err)) return;
    REQUIRE(q.train > 0 && q.train < q.count, "%d of %d", q.train, q.count);
    for (int i = 0; i < q.count && i < 200; i++) {
        const Question *one = &q.list[i];
        REQUIRE(one->prompt_tokens > 0 && one->prompt_tokens <= q.longest_prompt &&
                    one->prompt_tokens + one->tokens <= q.longest,
                "question %d: %d and %d tokens", i, one->prompt_tokens, one->tokens);
        REQUIRE(!one->tokens == !one->answer, "an answer without an end");
        for (int j = i < q.train ? q.train : q.count; j < q.count; j++)
            REQUIRE(strcmp(one->prompt, q.list[j].prompt), "a prompt in both parts");
        Question copy = question_at(&q, false, 1, (uint64_t)i);
        question_free(&copy);
    }
    questions_close(&q);
}

/* What a model wrote, judged; and a list of rewards. */
static void judged(Bytes input) {
    Error err;
    WeightedReward list[REWARDS_MAX];
    char *prompt = string_of(fuzz_part(&input)), *text = string_of(fuzz_part(&input));
    char *expected = string_of(fuzz_part(&input)), *names = string_of(input);
    const Answer answer = {prompt, text, expected, 3, 4, true};
    for (const Reward *r = rewards; r->name; r++) {
        float value = r->function(&answer);
        REQUIRE(isnan(value) || (value >= -1 && value <= 1), "%s gives %g", r->name, value);
    }
    int count = rewards_parse(list, names, &err);
    REQUIRE(count <= REWARDS_MAX, "%d rewards", count);
    free(prompt), free(text), free(expected), free(names);
}

/* ---- tasks ---- */

/* The first byte: is a bad line left out? What is read can be scored. */
static void tasks(Bytes input) {
    if (!input.size) return;
    bool skip = input.data[0] % 2;
    fuzz_file("a.jsonl", (Bytes){input.data + 1, input.size - 1});
    const char *path = FUZZ_FOLDER "/a.jsonl";
    TaskSet set;
    Error err;
    if (tasks_read(&set, &path, 1, skip, &err)) return;
    REQUIRE(set.count && (skip || !set.bad_lines), "%zu items", set.count);
    for (size_t i = 0; i < set.count; i++) {
        const TaskItem *item = &set.items[i];
        REQUIRE(item->task >= 0 && item->task < set.task_count && item->context, "a task");
        REQUIRE(item->answer >= 0 && item->answer < item->count && item->line > 0, "an answer");
        for (int j = 0; j < item->count; j++)
            REQUIRE(item->choices[j] && *item->choices[j], "an empty choice");
    }
    tasks_free(&set);
}

/* ---- answers ---- */

typedef struct Heard {
    char *text;
    size_t bytes;
} Heard;

static void hear(void *user, const char *text, size_t bytes) {
    Heard *heard = user;
    REQUIRE(is_utf8(text, bytes) && bytes > 0, "half a character");
    heard->text = must_realloc(heard->text, heard->bytes + bytes + 1, 1);
    memcpy(heard->text + heard->bytes, text, bytes);
    heard->bytes += bytes;
    heard->text[heard->bytes] = 0;
}

static Heard streamed(Bytes text, const char *const *stops, int count, size_t step) {
    Heard heard = {must_alloc(1, 1), 0};
    TextStream stream = text_stream(hear, &heard, stops, count);
    for (size_t i = 0; i < text.size; i += step)
        if (text_stream_add(&stream, text.data + i, text.size - i < step ? text.size - i : step))
            break;
    text_stream_end(&stream);
    return heard;
}

/* Two stop strings and a text: the same however it is cut, whole characters, no stop string. */
static void stream(Bytes input) {
    char *a = string_of(fuzz_part(&input)), *b = string_of(fuzz_part(&input));
    const char *const stops[] = {a, b};
    int count = !*a ? 0 : !*b ? 1 : 2;
    Heard whole = streamed(input, stops, count, input.size ? input.size : 1);
    for (size_t step = 1; step < 5; step += 2) {
        Heard cut = streamed(input, stops, count, step);
        REQUIRE(cut.bytes == whole.bytes && !memcmp(cut.text, whole.text, cut.bytes),
                "cut in %zu: %zu bytes, not %zu", step, cut.bytes, whole.bytes);
        free(cut.text);
    }
    for (int i = 0; i < count; i++)
        REQUIRE(!is_utf8(stops[i], strlen(stops[i])) ||
                    !contains((Bytes){whole.text, whole.bytes}, stops[i]),
                "a stop string was shown");
    free(whole.text), free(a), free(b);
}

/* What somebody types, or a pipe brings. */
static void interactive(Bytes input) {
    static Context ctx;
    static Model model;
    static Tokenizer *tokenizer;
    static FILE *nowhere;
    Error err;
    if (!tokenizer) {
        tokenizer = tokenizer_load("common/tests/goldens/tokenizer_gpt2.json", &err);
        REQUIRE(tokenizer && !context_init(&ctx, CPU, F32, 1, &err), "%s", err.text);
        ModelConfig cfg;
        config_preset(&cfg, "nano", &err);
        cfg.vocab_size = tokenizer_vocab_size(tokenizer);
        cfg.hidden_size = cfg.intermediate_size = cfg.kv_lora_rank = 8;
        cfg.num_hidden_layers = 1, cfg.max_position_embeddings = 64;
        REQUIRE(model_init(&model, &ctx, &cfg, false, &err) == 0, "%s", err.text);
        model_randomize(&model);
        nowhere = fopen("/dev/null", "w");
    }
    FILE *in = fmemopen((void *)input.data, input.size ? input.size : 1, "r");
    GenerateOptions options = {.sampling = sampling_defaults(), .max_new_tokens = 2};
    const GuessOptions guess = {0};
    if (input.size) interactive_run(&model, tokenizer, options, &guess, in, nowhere, &err);
    fclose(in);
}

/* ---- what stands on a command line ---- */

static void limits(Bytes input) {
    Error err;
    char *text = string_of(input);
    QualityLimits set = quality_defaults(), before = set;
    if (quality_set(&set, text, &err))
        REQUIRE(!memcmp(&set, &before, sizeof set), "refused, but changed");
    double values[QUALITY_RULES] = {0};
    quality_judge(&set, values);
    free(text);
}

static void options(Bytes input) {
    static const char *const names[] = {"one", "two", "", NULL};
    int whole = 3;
    int64_t large = 3;
    float fraction = 3;
    uint64_t seed = 3;
    enum { FIRST, SECOND } choice = FIRST;
    StringList list = {0};
    const Option rows[] = {OPT_INT("int", 0, "N", &whole, -5, 7, ""),
                           OPT_INT("large", 0, "N", &large, 0, 1e15, ""),
                           OPT_FLOAT("float", 0, "X", &fraction, -1, 1e6, ""),
                           OPT_SEED("seed", &seed, ""),
                           OPT_CHOICE("choice", 0, "X", &choice, names, ""),
                           OPT_LIST("list", 0, "X", &list, 2, ""),
                           OPT_END};
    Error err;
    char *text = string_of(input);
    for (const Option *row = rows; row->kind != OPTION_END; row++) {
        OptionText before = option_text(row);
        if (option_read(row, text, &err))
            REQUIRE(!strcmp(before.text, option_text(row).text), "refused, but changed");
    }
    REQUIRE(whole >= -5 && whole <= 7 && large >= 0 && large <= (int64_t)1e15 && fraction >= -1 &&
                fraction <= 1e6f && choice <= 2,
            "out of range");
    free(list.items), free(text);
}

const FuzzTarget fuzz_text_targets[] = {{"tokenizer", tokenizer_json},
                                        {"text", tokenizer_text},
                                        {"documents", documents},
                                        {"tasks", tasks},
                                        {"stream", stream},
                                        {"interactive", interactive},
                                        {"limits", limits},
                                        {"options", options},
                                        {"questions", questions},
                                        {"rewards", judged},
                                        {NULL, NULL}};
