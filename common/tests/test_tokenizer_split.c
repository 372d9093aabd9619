/*
 * Text into words: what any pattern makes of it, by the tokenizers library (golden files); the
 * patterns that are also loops, by the engine; and patterns that mean harm.
 */
#include "common/core/rng.h"
#include "common/files/json.h"
#include "common/tests/test_scratch.h"
#include "common/tests/test_tokenizer.h"

/* ---- against the tokenizers library ---- */

/* Is this what the library makes of text? `expected` is a list of words. */
static void expect_words(const char *what, const Words *words, const cJSON *expected) {
    const cJSON *item;
    size_t w = 0;
    cJSON_ArrayForEach(item, expected) {
        cr_expect(w < words->count && words->length[w] == strlen(item->valuestring) &&
                      memcmp(words->start[w], item->valuestring, words->length[w]) == 0,
                  "%s: word %zu should be '%s'", what, w, item->valuestring);
        w++;
    }
    cr_expect(w == words->count, "%s: %zu words, should be %zu", what, words->count, w);
}

/* What patterns other than the three above make of a text: classes, empty matches, lookaround. */
Test(tokenizer_split, words_equal_the_library) {
    cJSON *rows = json_load(golden("tokenizer_splits.json"), &err), *row, *item;
    cr_assert(rows, "%s", err.text);
    cJSON_ArrayForEach(row, rows) {
        const cJSON *patterns = cJSON_GetObjectItem(row, "patterns");
        const cJSON *expected = cJSON_GetObjectItem(row, "words");
        Tokenizer *tokenizer = tokenizer_new();
        cJSON_ArrayForEach(item, patterns) {
            const char *pattern = item->valuestring;
            check_ok(splitter_add(&tokenizer->splitter, pattern, SPLIT_ISOLATED, false, "", &err),
                     &err);
        }
        cr_expect(!tokenizer->splitter.cuts_at_spaces, "nothing is known of such patterns");
        char text[1024] = "";
        cJSON_ArrayForEach(item, expected) strcat(text, item->valuestring);
        Words words = words_of(tokenizer, text, strlen(text));
        expect_words(patterns->child->valuestring, &words, expected);
    }
}

/* The five behaviors of a Split, and the steps that are one by another name. */
Test(tokenizer_split, steps_equal_the_library) {
    Scratch scratch = scratch_open();
    cJSON *rows = json_load(golden("tokenizer_steps.json"), &err);
    cJSON *file = json_load(golden("tokenizer_gpt2.json"), &err);
    cr_assert(rows && file, "%s", err.text);
    const char *text = cJSON_GetObjectItem(rows->child, "text")->valuestring;
    int count = 0;
    for (const cJSON *row = rows->child->next; row; row = row->next, count++) {
        char *step = cJSON_PrintUnformatted(cJSON_GetObjectItem(row, "pre_tokenizer"));
        char *both = malloc(strlen(step) + 200);
        sprintf(both,
                "{\"type\":\"Sequence\",\"pretokenizers\":[%s,{\"type\":\"ByteLevel\","
                "\"add_prefix_space\":false,\"use_regex\":false}]}",
                step);
        cJSON_ReplaceItemInObject(file, "pre_tokenizer", cJSON_Parse(both));
        const char *path = scratch_path(&scratch, "tokenizer.json");
        check_ok(json_save(path, file, &err), &err);
        Words words = words_of(must_load(path), text, strlen(text));
        expect_words(step, &words, cJSON_GetObjectItem(row, "words"));
    }
    cr_expect(count >= 30);
}

/*
 * What any pattern makes of a text, or that it is refused. The golden file has the lengths of the
 * words. This, and not another engine's opinion, is what a pattern means.
 */
Test(tokenizer_split, patterns_equal_the_library) {
    cJSON *rows = json_load(golden("tokenizer_patterns.json"), &err);
    cr_assert(rows, "%s", err.text);
    const char *text = cJSON_GetObjectItem(rows->child, "text")->valuestring;
    int count = 0;
    for (const cJSON *row = rows->child->next; row; row = row->next, count++) {
        const char *pattern = row->child->valuestring;
        const cJSON *expected = row->child->next, *item;
        Tokenizer *tokenizer = tokenizer_new();
        int refused = splitter_add(&tokenizer->splitter, pattern, SPLIT_ISOLATED, false, "", &err);
        cr_expect(!refused == !cJSON_IsNull(expected), "%s: %s", pattern,
                  refused ? err.text : "is not refused");
        if (refused || cJSON_IsNull(expected)) continue;
        Words words = words_of(tokenizer, text, strlen(text));
        size_t w = 0;
        cJSON_ArrayForEach(item, expected) {
            bool same = w < words.count && words.length[w] == (size_t)item->valueint;
            cr_expect(same, "%s: word %zu has %zu bytes, should have %d", pattern, w,
                      words.length[w], item->valueint);
            if (!same) break;
            w++;
        }
        cr_expect(item || w == words.count, "%s: more words than %zu", pattern, w);
    }
    cr_expect(count >= 400);
}

/*
 * The patterns that are also written as loops against the engine: on texts by chance out of the
 * characters that they tell apart, and on one that has every character between others.
 */
static void expect_loop_equals_engine(const Pattern *loop, const char *text, size_t length) {
    Pattern engine = {loop->regex, -1};
    Matcher matcher;
    matcher_init(&matcher);
    matcher_begin(&matcher, length);
    for (size_t from = 0; from < length;) {
        size_t start[2] = {0}, end[2] = {0};
        bool found[2];
        found[0] = pattern_find(loop, &matcher, text, length, from, &start[0], &end[0]);
        found[1] = pattern_find(&engine, &matcher, text, length, from, &start[1], &end[1]);
        cr_assert(found[0] == found[1] && (!found[0] || (start[0] == start[1] && end[0] == end[1])),
                  "pattern %d, from %zu: %zu .. %zu, should be %zu .. %zu: '%.40s'", loop->known,
                  from, start[0], end[0], start[1], end[1], text + from);
        if (!found[0]) break;
        from = end[0];
    }
    matcher_free(&matcher);
}

/* clang-format off */
static const char *const told_apart[] = {
    "a", "Z", "x", " ", " ", "  ", "\n", "\r", "\t", "\n\n", "1", "23", "'", "s", "S", "re", "Re",
    "lL", "VE", "'t", "\xc5\xbf", "\xc3\xa9", "\xcc\x81", "\xe4\xb8\xad", "\xe3\x81\x82", "!", "-",
    "\xe3\x83\xbb", "\xe3\x80\x80", "\xe2\x82\xac", "_", "$", "\xe2\x80\x8d", "\xe1\xa0\x8e",
    "\xc2\x85", "\xc2\xa0", "\xe2\x80\xa8", "\xd9\xa3", "\xc2\xbd", "\x01", "\x7f",
    "\xf0\x9f\x98\x80", "\xe9\xbe\xa6", "\xcd\xb8"};
/* clang-format on */

static size_t put_character(char *out, uint32_t c) {
    int length = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 63));
    out[0] = (char)(length == 1 ? c : (0xF00u >> length & 0xF0u) | c);
    return (size_t)length;
}

/* Every character between and beside others; beyond the first planes' crowded part every eighth:
 * it must not take seconds. free() it. */
static char *every_character(size_t *size) {
    enum { CHARACTERS = 0x110000 };
    char *every = malloc(CHARACTERS * 30), *end = every;
    for (uint32_t c = 1; c < CHARACTERS; c++) {
        bool crowded = c < 0x3400 || (c >= 0xFA00 && c < 0x12000);
        char one[5] = {0};
        if ((c >= 0xD800 && c < 0xE000) || (!crowded && c % 8)) continue;
        put_character(one, c);
        end += sprintf(end, "a%sb %s%s 1%s'%s\n", one, one, one, one, one);
    }
    *size = (size_t)(end - every);
    return every;
}

Test(tokenizer_split, loops_equal_the_engine) {
    enum { PIECES = sizeof told_apart / sizeof *told_apart };
    Splitter splitters[3] = {must_load(golden("tokenizer_gpt2.json"))->splitter,
                             must_load(golden("tokenizer_deepseek.json"))->splitter};
    /* Llama 3's and Qwen 2's are the first in the golden file. */
    const cJSON *row = json_load(golden("tokenizer_patterns.json"), &err)->child->next;
    for (int i = 0; i < 2; i++, row = row->next)
        check_ok(
            splitter_add(&splitters[2], row->child->valuestring, SPLIT_ISOLATED, false, "", &err),
            &err);
    size_t size;
    char *every = every_character(&size);
    for (int t = 0; t < 3; t++) {
        cr_assert(splitters[t].count >= 1);
        for (int s = 0; s < splitters[t].count; s++) {
            const Pattern *pattern = &splitters[t].steps[s].pattern;
            cr_assert(pattern->known >= 0, "step %d is not known", s);
            expect_loop_equals_engine(pattern, every, size);
            for (uint64_t round = 0; round < 4000; round++) {
                char text[300] = "";
                Philox random = philox(11, round, 0);
                for (uint64_t i = 0; i < 1 + random.word[0] % 24; i++)
                    strcat(text, told_apart[philox(12, round, i).word[0] % PIECES]);
                expect_loop_equals_engine(pattern, text, strlen(text));
            }
        }
    }
    free(every);
}

/* A hostile pattern ends the program with a message, and soon. */
Test(tokenizer_split, hostile_patterns_give_up, .exit_code = 1, .timeout = 60) {
    Tokenizer *tokenizer = tokenizer_new();
    const char *text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!";
    check_ok(splitter_add(&tokenizer->splitter, "(a+)+$", SPLIT_ISOLATED, false, "", &err), &err);
    words_of(tokenizer, text, strlen(text));
}

/* Bytes that are not UTF-8 are words of their own; what is around them does not change. */
Test(tokenizer_split, invalid_bytes_are_words) {
    Tokenizer *tokenizer = must_load(golden("tokenizer_gpt2.json"));
    const char *text = "one\xff\xfe two\xe4\xb8 three\xc0";
    const char *const expected[] = {"one", "\xff\xfe", " two", "\xe4\xb8", " three", "\xc0"};
    Words words = words_of(tokenizer, text, strlen(text));
    cr_assert(words.count == 6, "%zu words", words.count);
    for (size_t w = 0; w < 6; w++)
        cr_expect(words.length[w] == strlen(expected[w]) &&
                      memcmp(words.start[w], expected[w], words.length[w]) == 0,
                  "word %zu is '%.*s'", w, (int)words.length[w], words.start[w]);
}
