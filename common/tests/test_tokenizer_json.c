/*
 * tokenizer.json files that are unusual, and those that are broken: each of the latter is refused
 * with a message that names the file and the fault, never with a crash.
 */
#include "common/core/rng.h"
#include "common/files/json.h"
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"
#include "common/text/tokenizer_internal.h"

/* ---- a good file, and edits to it ---- */

static const char sample[] = "the theory of the theatre <|endoftext|> the other theme";

/* The tokenizer.json of a small vocabulary; cJSON_Delete() it. */
static cJSON *good_file(Scratch *scratch) {
    Tokenizer *tokenizer = tokenizer_train(sample, strlen(sample), 280, NULL, NULL, &err);
    cr_assert(tokenizer, "%s", err.text);
    const char *path = scratch_path(scratch, "good.json");
    check_ok(tokenizer_save(tokenizer, path, &err), &err);
    cJSON *json = json_load(path, &err);
    cr_assert(json, "%s", err.text);
    return json;
}

/*
 * One change. `where` is the way to an item, "model/vocab/a" (a number counts in a list); it
 * becomes `value`, or is removed if that is NULL. A "+" in front adds the value under a name that
 * may be there already, or at the end of a list: "+model/merges/".
 */
typedef struct Edit {
    const char *where, *value;
    const char *message; /* part of what must be said */
} Edit;

static cJSON *child_of(cJSON *parent, const char *name) {
    return cJSON_IsArray(parent) ? cJSON_GetArrayItem(parent, atoi(name))
                                 : cJSON_GetObjectItemCaseSensitive(parent, name);
}

static void apply(cJSON *json, const Edit *edit) {
    char way[200], *name = way;
    bool adds = *edit->where == '+';
    snprintf(way, sizeof way, "%s", edit->where + adds);
    for (char *slash; (slash = strchr(name, '/')); name = slash + 1) {
        *slash = 0;
        json = child_of(json, name);
        cr_assert(json, "no %s in the good file", edit->where);
    }
    cJSON *value = edit->value ? cJSON_Parse(edit->value) : NULL;
    cr_assert(value || !edit->value, "the test's own JSON is wrong: %s", edit->value);
    if (adds && cJSON_IsArray(json))
        cJSON_AddItemToArray(json, value);
    else if (adds)
        cJSON_AddItemToObject(json, name, value);
    else {
        cJSON *old = child_of(json, name);
        cr_assert(old, "no %s in the good file", edit->where);
        if (!value)
            cJSON_Delete(cJSON_DetachItemViaPointer(json, old));
        else if (cJSON_IsArray(json))
            cJSON_ReplaceItemInArray(json, atoi(name), value);
        else
            cJSON_ReplaceItemInObjectCaseSensitive(json, name, value);
    }
}

static Tokenizer *load_edited(Scratch *scratch, const cJSON *good, const Edit *edit, Error *err) {
    cJSON *json = cJSON_Duplicate(good, 1);
    apply(json, edit);
    char *text = cJSON_PrintUnformatted(json);
    const char *path = scratch_write(scratch, "edited.json", text, strlen(text));
    cJSON_free(text);
    cJSON_Delete(json);
    return tokenizer_load(path, err);
}

/* clang-format off */
#define SPLIT(pattern) "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":" pattern "}"
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define SEQUENCE(steps) "{\"type\":\"Sequence\",\"pretokenizers\":[" steps "]}"
#define ADDED(id, content, more) "{\"id\":" id ",\"content\":\"" content "\"" more "}"
#define FOUR(x) x "," x "," x "," x
/* clang-format on */

/* ---- unusual files ---- */

static const Edit unusual[] = {
    {"version", NULL, ""},
    {"decoder", NULL, ""},
    {"added_tokens", NULL, ""},
    {"added_tokens", "null", ""},
    {"model/type", NULL, ""},
    {"model/merges", "[]", ""},
    {"model/merges", "[\"#version: 0.2\", \"h e\", \"t he\"]", ""},
    {"model/merges", "[[\"h\", \"e\"], \"t he\"]", ""},
    {"model/dropout", "0", ""},
    {"model/continuing_subword_prefix", "\"\"", ""},
    {"model/ignore_merges", "true", ""},
    {"+model/vocab/hole", "5000", ""},        /* ids with holes, as the library allows */
    {"+model/vocab/\xe4\xb8\xad", "300", ""}, /* not spelled in the alphabet of bytes */
    {"+model/vocab/", "300", ""},
    {"+unknown", "[1, {}]", ""},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[]}", ""},
    {"+added_tokens/", ADDED("300", "\xc3\xa9t\xc3\xa9", ""), ""},
    {"+added_tokens/", ADDED("300", "", ""), ""},
    {"pre_tokenizer", SEQUENCE(BYTES), ""},
    {"pre_tokenizer", BYTES, ""}, /* no pattern: all the text is one word */
    {"pre_tokenizer", SEQUENCE(SPLIT("{\"String\":\" t\"}") "," BYTES), ""},
    {"pre_tokenizer", SEQUENCE(SPLIT("{\"String\":\".*[a\\\\s\"}") "," BYTES), ""},
    {"pre_tokenizer", SEQUENCE(SPLIT("{\"Regex\":\"x*\"}") "," BYTES), ""}, /* matches nothing */
    {"pre_tokenizer", SEQUENCE(SPLIT("{\"Regex\":\"(?=t)|\\\\b\"}") "," BYTES), ""},
    {"pre_tokenizer", SEQUENCE(SPLIT("{\"Regex\":\"((t|h)|[^]x]|.)*\"}") "," BYTES), ""},
};

static void expect_round_trip(const Tokenizer *tokenizer, const char *text, size_t size,
                              const char *what) {
    size_t count, bytes;
    int32_t *ids = tokenizer_encode(tokenizer, text, size, &count);
    for (size_t i = 0; i < count; i++)
        cr_expect(ids[i] >= 0 && ids[i] < tokenizer_vocab_size(tokenizer), "%s", what);
    char *decoded = tokenizer_decode(tokenizer, ids, count, &bytes);
    cr_expect(bytes == size && memcmp(decoded, text, size) == 0, "%s: the text is not back", what);
}

Test(tokenizer_json, accepts_unusual_files) {
    Scratch scratch = scratch_open();
    cJSON *good = good_file(&scratch);
    for (size_t i = 0; i < sizeof unusual / sizeof *unusual; i++) {
        const char *text = "the the\xff \xc3\xa9t\xc3\xa9 \xe4\xb8\xad .*[a\\s theatre] xx hole";
        Error err = {""};
        Tokenizer *tokenizer = load_edited(&scratch, good, &unusual[i], &err);
        cr_expect(tokenizer, "%s = %s: %s", unusual[i].where, unusual[i].value, err.text);
        if (!tokenizer) continue;
        expect_round_trip(tokenizer, text, strlen(text), unusual[i].where);
        expect_round_trip(tokenizer, "", 0, unusual[i].where);
    }
}

/* A word that is in the vocabulary needs no merges if the file says so. */
Test(tokenizer_json, ignore_merges_finds_whole_words) {
    Scratch scratch = scratch_open();
    cJSON *good = good_file(&scratch);
    apply(good, &(Edit){"+model/vocab/xyz", "300", ""});
    for (int ignore = 0; ignore < 2; ignore++) {
        Edit edit = {"model/ignore_merges", ignore ? "true" : "false", ""};
        Error err = {""};
        Tokenizer *tokenizer = load_edited(&scratch, good, &edit, &err);
        cr_assert(tokenizer, "%s", err.text);
        size_t count;
        int32_t *ids = tokenizer_encode(tokenizer, "xyz", 3, &count);
        cr_expect(count == (ignore ? 1u : 3u) && (!ignore || ids[0] == 300), "%zu ids", count);
    }
}

/* DeepSeek-V3 has 818 added tokens; there may be many more. */
Test(tokenizer_json, many_added_tokens_are_found) {
    Scratch scratch = scratch_open();
    cJSON *good = good_file(&scratch), *list = cJSON_GetObjectItem(good, "added_tokens");
    enum { MANY = 5000 };
    for (int i = 0; i < MANY; i++) {
        char token[100];
        snprintf(token, sizeof token, ADDED("%d", "<place holder no %d", ""), 1000 + i, i);
        cJSON_AddItemToArray(list, cJSON_Parse(token));
    }
    Tokenizer *tokenizer = load_edited(&scratch, good, &(Edit){"version", "\"1.0\"", ""}, &err);
    cr_assert(tokenizer, "%s", err.text);
    for (int i = 0; i < MANY; i++) {
        char text[100];
        size_t count;
        int length = snprintf(text, sizeof text, "<place holder no %d<place", i);
        int32_t *ids = tokenizer_encode(tokenizer, text, (size_t)length, &count);
        cr_assert(count > 1 && ids[0] == 1000 + i, "%s gives id %d", text, ids[0]);
    }
}

/* ---- broken files ---- */

static const Edit broken[] = {
    /* the model */
    {"model", NULL, "there is no model"},
    {"model", "null", "there is no model"},
    {"model", "[]", "there is no model"},
    {"+model", "{}", "'model' is there twice"},
    {"+version", "\"1.0\"", "'version' is there twice"},
    {"+model/vocab", "{}", "'vocab' is there twice"},
    {"model/type", "\"Unigram\"", "the model is Unigram, only BPE"},
    {"model/type", "7", "only BPE"},
    {"model/dropout", "0.1", "dropout is not supported"},
    {"model/byte_fallback", "true", "byte_fallback is not supported"},
    {"model/continuing_subword_prefix", "\"##\"", "continuing_subword_prefix"},
    {"model/end_of_word_suffix", "\"</w>\"", "end_of_word_suffix"},
    {"normalizer", "{\"type\":\"NFC\"}", "a normalizer is not supported"},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}", "normalizer"},
    /* the vocabulary */
    {"model/vocab", NULL, "has no vocab"},
    {"model/vocab", "[]", "has no vocab"},
    {"model/vocab", "{}", "no token for the byte 0x00"},
    {"model/vocab/\xc4\xa0", NULL, "no token for the byte 0x20"},
    {"model/vocab/a", "-1", "the id of token 'a'"},
    {"model/vocab/a", "1.5", "the id of token 'a'"},
    {"model/vocab/a", "\"7\"", "the id of token 'a'"},
    {"model/vocab/a", "null", "the id of token 'a'"},
    {"model/vocab/a", "16777216", "the id of token 'a'"},
    {"model/vocab/a", "1e300", "the id of token 'a'"},
    {"model/vocab/a", "18446744073709551616", "the id of token 'a'"},
    {"model/vocab/a", "3", "two tokens have the id 3, one of them 'a'"},
    {"+model/vocab/a", "900", "token 'a' is in the vocabulary twice"},
    /* the merges */
    {"model/merges", NULL, "has no merges"},
    {"model/merges", "{}", "has no merges"},
    {"model/merges", "\"t h\"", "has no merges"},
    {"+model/merges/", "null", "neither"},
    {"+model/merges/", "[]", "neither"},
    {"+model/merges/", "[\"a\"]", "neither"},
    {"+model/merges/", "[\"a\", \"b\", \"c\"]", "neither"},
    {"+model/merges/", "[0, 1]", "neither"},
    {"+model/merges/", "[\"a\", null]", "neither"},
    {"+model/merges/", "\"ab\"", "neither"},
    {"+model/merges/", "\"a b c\"", "neither"},
    {"+model/merges/", "\"\"", "neither"},
    {"+model/merges/", "[\"zzz\", \"a\"]", "makes 'zzza', but its left part is not"},
    {"+model/merges/", "[\"a\", \"zzz\"]", "makes 'azzz', but its right part is not"},
    {"+model/merges/", "\"z z\"", "makes 'zz', but that is not"},
    {"+model/merges/", "\"h e\"", "('he') is there twice"},
    /* added tokens */
    {"added_tokens", "{\"id\":280}", "added_tokens is not a list"},
    {"+added_tokens/", "7", "lacks its content"},
    {"+added_tokens/", "{\"id\":300}", "lacks its content"},
    {"+added_tokens/", "{\"content\":\"x\"}", "lacks its content, or an id"},
    {"+added_tokens/", ADDED("-1", "<x>", ""), "an id in 0 .. "},
    {"+added_tokens/", ADDED("99999999", "<x>", ""), "an id in 0 .. "},
    {"+added_tokens/", ADDED("300", "<|endoftext|>", ""), "'<|endoftext|>' is there twice"},
    {"+added_tokens/", ADDED("3", "<x>", ""), "the vocabulary says otherwise"},
    {"+added_tokens/", ADDED("300", "a", ""), "the vocabulary says otherwise"},
    {"+added_tokens/", ADDED("300", "<x>", ",\"single_word\":true"),
     "single_word is not supported"},
    {"+added_tokens/", ADDED("300", "<x>", ",\"lstrip\":true"), "lstrip is not supported"},
    {"+added_tokens/", ADDED("300", "<x>", ",\"rstrip\":true"), "rstrip is not supported"},
    {"+added_tokens/", ADDED("220", "\xc4\xa0", ""), "'\xc4\xa0' is also made of bytes"},
    /* how text is split */
    {"pre_tokenizer", NULL, "pre_tokenizer 'unknown'"},
    {"pre_tokenizer", "null", "pre_tokenizer 'unknown'"},
    {"pre_tokenizer", "\"ByteLevel\"", "pre_tokenizer 'unknown'"},
    {"pre_tokenizer", "{\"type\":\"Metaspace\"}", "pre_tokenizer 'Metaspace'"},
    {"pre_tokenizer", "{\"type\":\"BertPreTokenizer\"}", "pre_tokenizer 'BertPreTokenizer'"},
    {"pre_tokenizer", SEQUENCE(SPLIT("{\"Regex\":\"a\"}") ",{\"type\":\"ByteLevel\"}"),
     "add_prefix_space behind another"},
    {"pre_tokenizer", SEQUENCE(""), "no ByteLevel"},
    {"pre_tokenizer", "{\"type\":\"Sequence\"}", "no ByteLevel"},
    {"pre_tokenizer", SPLIT("{\"Regex\":\"a\"}"), "no ByteLevel"},
    {"pre_tokenizer",
     SEQUENCE(
         SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(BYTES))))))))),
     "pre_tokenizer 'Sequence'"},
    {"pre_tokenizer", SEQUENCE(BYTES "," BYTES), "after ByteLevel"},
    {"pre_tokenizer", SEQUENCE(BYTES "," SPLIT("{\"Regex\":\"a\"}")), "after ByteLevel"},
    {"pre_tokenizer", SEQUENCE(SPLIT("{\"Regex\":\"(\"}") "," BYTES),
     "the pattern ( is wrong: end pattern"},
    {"pre_tokenizer", SEQUENCE(SPLIT("{\"Regex\":\"\\\\p{Nope}\"}") "," BYTES),
     "p{Nope} is wrong: inv"},
    {"pre_tokenizer", SEQUENCE(SPLIT("{\"Regex\":7}") "," BYTES), "has no pattern"},
    {"pre_tokenizer", SEQUENCE(SPLIT("{\"String\":\"\"}") "," BYTES), "has no pattern"},
    {"pre_tokenizer", SEQUENCE(SPLIT("null") "," BYTES), "has no pattern"},
    {"pre_tokenizer", SEQUENCE("{\"type\":\"Split\",\"behavior\":\"Removed\"}"), "has no pattern"},
    {"pre_tokenizer", SEQUENCE("{\"type\":\"Split\",\"behavior\":\"Gone\"}"), "behavior is Gone"},
    {"pre_tokenizer", SEQUENCE("{\"type\":\"Split\"}"), "behavior is missing"},
    {"pre_tokenizer",
     SEQUENCE(FOUR(FOUR(SPLIT("{\"Regex\":\"a\"}"))) "," SPLIT("{\"Regex\":\"a\"}")),
     "more than 16 patterns"},
    {"pre_tokenizer",
     SEQUENCE(FOUR(
         FOUR(SPLIT("{\"Regex\":\"a\"}"))) ",{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"),
     "more than 16 patterns"},
};

Test(tokenizer_json, refuses_broken_files) {
    Scratch scratch = scratch_open();
    cJSON *good = good_file(&scratch);
    size_t rows = sizeof broken / sizeof *broken;
    cr_expect(rows >= 40);
    for (size_t i = 0; i < rows; i++) {
        Error err = {""};
        Tokenizer *tokenizer = load_edited(&scratch, good, &broken[i], &err);
        cr_expect(!tokenizer, "accepted: %s = %s", broken[i].where, broken[i].value);
        cr_expect(strstr(err.text, broken[i].message) && strstr(err.text, "/edited.json"),
                  "%s = %s: '%s' should say '%s'", broken[i].where, broken[i].value, err.text,
                  broken[i].message);
    }
}

Test(tokenizer_json, refuses_what_is_no_tokenizer) {
    const struct {
        const char *content, *message;
    } cases[] = {
        {"", "not JSON"},
        {"\n\n", "not JSON"},
        {"{}", "no model"},
        {"[]", "no model"},
        {"7", "no model"},
        {"\"model\"", "no model"},
        {"null", "no model"},
        {"{\"model\":{\"type\":\"BPE\"}}", "no vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\xff\":1}}}", "invalid UTF-8"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\\u0000\":1}}}", "zero character"},
        {"\x1f\x8b\x08", "control character"},
    };
    Scratch scratch = scratch_open();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path =
            scratch_write(&scratch, "t.json", cases[i].content, strlen(cases[i].content));
        Error err = {""};
        cr_expect_null(tokenizer_load(path, &err), "accepted: %s", cases[i].content);
        cr_expect(strstr(err.text, cases[i].message) && strstr(err.text, path),
                  "'%s' should say '%s'", err.text, cases[i].message);
    }
    cr_expect_null(tokenizer_load("/proc/none/tokenizer.json", &err));
    cr_expect(strstr(err.text, "/proc/none/tokenizer.json: No such file"), "%s", err.text);
    cr_expect_null(tokenizer_load(scratch.directory, &err));
    cr_expect(strstr(err.text, "is a directory"), "%s", err.text);
}

/* A depth of brackets that would use up the stack of a recursive reader. */
Test(tokenizer_json, refuses_depth_bombs) {
    Scratch scratch = scratch_open();
    enum { DEPTH = 200000 };
    char *text = malloc(DEPTH);
    memset(text, '[', DEPTH);
    cr_expect_null(tokenizer_load(scratch_write(&scratch, "t.json", text, DEPTH), &err));
    cr_expect(strstr(err.text, "not JSON"), "%s", err.text);
}

/* The good file without its indentation, so that most bytes mean something. */
static char *compact_file(Scratch *scratch, size_t *size) {
    cJSON *good = good_file(scratch);
    apply(good, &(Edit){"pre_tokenizer",
                        SEQUENCE(SPLIT("{\"Regex\":\"\\\\p{N}{1,3}\"}") "," SPLIT(
                            "{\"Regex\":\" ?[a-z]+|\\\\s+(?!\\\\S)|[^x]\"}") "," BYTES),
                        ""});
    char *text = cJSON_PrintUnformatted(good);
    *size = strlen(text);
    cJSON_Delete(good);
    return text;
}

Test(tokenizer_json, refuses_every_truncation) {
    Scratch scratch = scratch_open();
    size_t size;
    char *text = compact_file(&scratch, &size);
    for (size_t cut = 0; cut < size; cut += cut + 20 < size ? 7 : 1) {
        Error err = {""};
        const char *path = scratch_write(&scratch, "cut.json", text, cut);
        cr_assert_null(tokenizer_load(path, &err), "cut at %zu of %zu: accepted", cut, size);
        cr_assert(strstr(err.text, path), "cut at %zu: '%s'", cut, err.text);
    }
}

/* Up to three bytes changed at random (fixed seed). What still loads must still be exact. */
Test(tokenizer_json, survives_changed_bytes) {
    Scratch scratch = scratch_open();
    size_t size;
    char *text = compact_file(&scratch, &size), *changed = malloc(size);
    int refused = 0;
    for (uint64_t round = 0; round < 1500; round++) {
        memcpy(changed, text, size);
        for (uint64_t i = 0; i < 1 + round % 3; i++) {
            Philox random = philox(1, round, i);
            /* A third of the changes fall on the pre_tokenizer and what is around it. */
            size_t range = random.word[3] % 3 ? size : 700;
            changed[random.word[0] % range] = random.word[2] & 1
                                                  ? "{}[],:\"0123456789-eE.\\u"[random.word[1] % 23]
                                                  : (char)random.word[1];
        }
        Error err = {""};
        const char *path = scratch_write(&scratch, "changed.json", changed, size);
        Tokenizer *tokenizer = tokenizer_load(path, &err);
        if (tokenizer) {
            expect_round_trip(tokenizer, sample, strlen(sample), "changed");
            expect_round_trip(tokenizer, "12345 \xff\xe4\xb8\xad\n\n x", 15, "changed");
        } else {
            refused++;
            cr_assert(strstr(err.text, path), "round %d: '%s'", (int)round, err.text);
        }
    }
    cr_expect(refused > 300 && refused < 1500, "%d of 1500 were refused", refused);
}
