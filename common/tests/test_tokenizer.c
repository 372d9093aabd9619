/*
 * The tokenizer against three oracles: the tokenizers library (golden files), slow and plain
 * programs for training and merging, and the text itself, which must come back.
 */
#include "common/tests/test_tokenizer.h"
#include "common/core/rng.h"
#include "common/files/files.h"
#include "common/files/json.h"
#include "common/tests/test_scratch.h"

#include <omp.h>

/* ---- helpers ---- */

static MappedFile must_map(const char *path) {
    MappedFile file;
    check_ok(file_map(&file, path, &err), &err);
    return file;
}

static Tokenizer *must_train(const char *text, size_t size, int vocab_size) {
    Tokenizer *tokenizer = tokenizer_train(text, size, vocab_size, NULL, NULL, &err);
    cr_assert(tokenizer, "%s", err.text);
    return tokenizer;
}

/* Encodes and decodes; fails unless the same bytes come back. Returns the ids. */
static int32_t *round_trip(const Tokenizer *tokenizer, const char *text, size_t size,
                           size_t *count) {
    int32_t *ids = tokenizer_encode(tokenizer, text, size, count);
    size_t bytes;
    char *decoded = tokenizer_decode(tokenizer, ids, *count, &bytes);
    cr_assert(bytes == size && memcmp(decoded, text, size) == 0 && decoded[size] == 0,
              "%zu bytes came back as %zu others", size, bytes);
    return ids;
}

static void expect_same_ids(const char *what, const int32_t *a, size_t a_count, const int32_t *b,
                            size_t b_count) {
    for (size_t i = 0; i < a_count && i < b_count; i++)
        cr_assert(a[i] == b[i], "%s: id %zu is %d, should be %d", what, i, a[i], b[i]);
    cr_assert(a_count == b_count, "%s: %zu ids, should be %zu", what, a_count, b_count);
}

static void expect_same_tokenizer(const Tokenizer *a, const Tokenizer *b) {
    cr_assert(a->vocab_size == b->vocab_size, "vocabularies of %zu and %zu", a->vocab_size,
              b->vocab_size);
    cr_assert(a->merge_count == b->merge_count, "%zu and %zu merges", a->merge_count,
              b->merge_count);
    for (size_t i = 0; i < a->merge_count; i++)
        cr_assert(memcmp(&a->merges[i], &b->merges[i], sizeof(Merge)) == 0, "merge %zu", i);
    for (size_t id = 0; id < a->vocab_size; id++) {
        const Token *x = &a->tokens[id], *y = &b->tokens[id];
        cr_assert(x->kind == y->kind && x->length == y->length, "token %zu", id);
        cr_assert(x->length == 0 || memcmp(x->bytes, y->bytes, x->length) == 0, "token %zu", id);
    }
    cr_expect(memcmp(a->byte_ids, b->byte_ids, sizeof a->byte_ids) == 0);
    check_all(tokenizer_eot(a) == tokenizer_eot(b), a->ignore_merges == b->ignore_merges);
    cr_expect(a->added_count == b->added_count);
}

/* ---- against the tokenizers library ---- */

static void expect_golden_ids(const char *file, const char *column) {
    Tokenizer *tokenizer = must_load(golden(file));
    cJSON *cases = json_load(golden("tokenizer_cases.json"), &err), *row;
    cr_assert(cases, "%s", err.text);
    cJSON_ArrayForEach(row, cases) {
        const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(row, "text"));
        const cJSON *list = cJSON_GetObjectItem(row, column), *item;
        int32_t expected[2048];
        size_t expected_count = 0, count;
        cJSON_ArrayForEach(item, list) expected[expected_count++] = item->valueint;
        int32_t *ids = round_trip(tokenizer, text, strlen(text), &count);
        expect_same_ids(cJSON_GetObjectItem(row, "name")->valuestring, ids, count, expected,
                        expected_count);
    }
    cr_expect(cJSON_GetArraySize(cases) >= 60);
    cJSON_Delete(cases);
}

Test(tokenizer, gpt2_ids_equal_the_library) { expect_golden_ids("tokenizer_gpt2.json", "gpt2"); }

Test(tokenizer, deepseek_ids_equal_the_library) {
    expect_golden_ids("tokenizer_deepseek.json", "deepseek");
}

Test(tokenizer, a_space_before_a_text_as_in_the_library) {
    Scratch scratch = scratch_open();
    cJSON *file = json_load(golden("tokenizer_gpt2.json"), &err), *row, *item;
    cJSON *cases = json_load(golden("tokenizer_cases.json"), &err);
    cJSON_ReplaceItemInObject(file, "pre_tokenizer", cJSON_Parse("{\"type\":\"ByteLevel\"}"));
    const char *path = scratch_path(&scratch, "tokenizer.json");
    check_ok(json_save(path, file, &err), &err);
    Tokenizer *tokenizer = must_load(path);
    int seen = 0;
    cJSON_ArrayForEach(row, cases) {
        const cJSON *list = cJSON_GetObjectItem(row, "prefixed");
        if (!list) continue;
        const char *text = cJSON_GetObjectItem(row, "text")->valuestring;
        int32_t expected[2048];
        size_t expected_count = 0, count;
        cJSON_ArrayForEach(item, list) expected[expected_count++] = item->valueint;
        int32_t *ids = tokenizer_encode(tokenizer, text, strlen(text), &count);
        expect_same_ids(text, ids, count, expected, expected_count);
        seen++;
    }
    cr_expect(seen == 8);
}

Test(tokenizer, training_equals_the_library) {
    MappedFile text = must_map(golden("tokenizer_text.txt"));
    Tokenizer *library = must_load(golden("tokenizer_gpt2.json"));
    Tokenizer *ours = must_train(text.data, text.size, tokenizer_vocab_size(library));
    check_all(ours->merge_count > 300, tokenizer_eot(ours) == tokenizer_vocab_size(ours) - 1);
    expect_same_tokenizer(ours, library);
    file_unmap(&text);
}

/* ---- against slow programs ---- */

/* Joins the pair everywhere in ids, from left to right; returns how many are left. */
static size_t replace_pair(int32_t *ids, size_t count, Merge merge) {
    size_t out = 0;
    for (size_t in = 0; in < count; out++) {
        bool here = in + 1 < count && ids[in] == merge.left && ids[in + 1] == merge.right;
        ids[out] = here ? merge.result : ids[in];
        in += here ? 2 : 1;
    }
    return out;
}

/* Training as in a textbook: all words, every pair counted anew for each merge. */
static void expect_plain_training(const Tokenizer *tokenizer, const char *text, size_t size,
                                  size_t merges_wanted) {
    enum { MOST = 600 };
    static int64_t counts[MOST][MOST];
    static int32_t ids[4096][64];
    size_t lengths[4096];
    Words words = words_of(tokenizer, text, size);
    for (size_t w = 0; w < words.count; w++) {
        lengths[w] = words.length[w];
        cr_assert(lengths[w] <= 64);
        for (size_t i = 0; i < lengths[w]; i++)
            ids[w][i] = tokenizer->byte_ids[(unsigned char)words.start[w][i]];
    }
    for (size_t m = 0;; m++) {
        memset(counts, 0, sizeof counts);
        for (size_t w = 0; w < words.count; w++)
            for (size_t i = 0; i + 1 < lengths[w]; i++) counts[ids[w][i]][ids[w][i + 1]]++;
        Merge best = {0, 0, (int32_t)(256 + m)};
        for (int32_t a = 0; a < MOST; a++)
            for (int32_t b = 0; b < MOST; b++)
                if (counts[a][b] > counts[best.left][best.right]) best.left = a, best.right = b;
        bool done = m == merges_wanted || counts[best.left][best.right] < 2;
        cr_assert(done == (m == tokenizer->merge_count),
                  "it stopped at the wrong merge: %zu of %zu", tokenizer->merge_count, m);
        if (done) return;
        Merge learned = tokenizer->merges[m];
        cr_assert(memcmp(&learned, &best, sizeof best) == 0,
                  "merge %zu joins %d and %d, should be %d and %d", m, learned.left, learned.right,
                  best.left, best.right);
        for (size_t w = 0; w < words.count; w++)
            lengths[w] = replace_pair(ids[w], lengths[w], best);
    }
}

/* The five merges of common/text/BPE.md, and a word that was never seen. */
Test(tokenizer, five_merges_by_hand) {
    static const char text[] = " low low low low low lower lower newest newest newest newest newest"
                               " newest widest widest widest";
    static const char *const merges[] = {"es", "est", "lo", " lo", " low"};
    Tokenizer *tokenizer = must_train(text, sizeof text - 1, 256 + 5 + 1);
    size_t bytes, count;
    for (int i = 0; i < 5; i++) {
        const char *token = tokenizer_token(tokenizer, 256 + i, &bytes);
        cr_assert(bytes == strlen(merges[i]) && memcmp(token, merges[i], bytes) == 0,
                  "merge %d is '%.*s'", i + 1, (int)bytes, token);
    }
    const int32_t *ids = round_trip(tokenizer, " lowest", 7, &count);
    cr_assert(count == 2 && ids[0] == 260 && ids[1] == 257);
    round_trip(tokenizer, " slow", 5, &count);
    cr_assert(count == 4);
}

Test(tokenizer, training_equals_plain_training) {
    MappedFile file = must_map(golden("tokenizer_text.txt"));
    char random[6][400]; /* few letters: many ties, and runs such as "aaaa" */
    for (uint64_t t = 0; t < 6; t++)
        for (uint64_t i = 0; i < sizeof random[t]; i++)
            random[t][i] = "ab   cab"[philox(7, t, i).word[0] % (t < 3 ? 3 : 8)];
    const struct {
        const char *text;
        size_t size, merges;
    } cases[] = {
        {file.data, 1500, 200}, {"a", 1, 50},
        {"aaaaaaaa", 8, 50},    {"aa aa aa aaa aaaa aaaaa", 23, 50},
        {"abababab ab", 11, 1}, {"\xff\xfe\xff\xfe\xff\xfe", 6, 9},
        {random[0], 60, 30},    {random[1], 61, 30},
        {random[2], 59, 40},    {random[3], 400, 60},
        {random[4], 400, 60},   {random[5], 400, 60},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int vocab_size = 257 + (int)cases[i].merges;
        Tokenizer *tokenizer = must_train(cases[i].text, cases[i].size, vocab_size);
        expect_plain_training(tokenizer, cases[i].text, cases[i].size, cases[i].merges);
    }
    file_unmap(&file);
}

/* Encoding as the paper has it: all merges, one after the other, in the order learned. */
Test(tokenizer, encoding_equals_merging_in_order) {
    MappedFile file = must_map(golden("tokenizer_text.txt"));
    Tokenizer *tokenizer = must_train(file.data, file.size, 600);
    Words words = words_of(tokenizer, file.data, file.size);
    for (size_t w = 0; w < words.count; w++) {
        int32_t plain[1024];
        size_t plain_count = words.length[w], count;
        cr_assert(plain_count <= 1024);
        for (size_t i = 0; i < plain_count; i++)
            plain[i] = tokenizer->byte_ids[(unsigned char)words.start[w][i]];
        for (size_t m = 0; m < tokenizer->merge_count; m++)
            plain_count = replace_pair(plain, plain_count, tokenizer->merges[m]);
        int32_t *ids = tokenizer_encode(tokenizer, words.start[w], words.length[w], &count);
        expect_same_ids("word", ids, count, plain, plain_count);
    }
    file_unmap(&file);
}

/* ---- properties ---- */

Test(tokenizer, any_bytes_come_back) {
    Tokenizer *tokenizers[] = {must_load(golden("tokenizer_gpt2.json")),
                               must_load(golden("tokenizer_deepseek.json"))};
    enum { MOST = 3000 };
    char text[MOST];
    for (uint64_t round = 0; round < 200; round++) {
        size_t size = round < 40 ? round : philox(2, round, 0).word[0] % MOST;
        for (size_t i = 0; i < size; i++) {
            uint32_t word = philox(3, round, i).word[0];
            /* Any byte, or only those that UTF-8 is made of beyond ASCII, or nearly text. */
            unsigned byte = round % 3 == 0   ? word & 0xff
                            : round % 3 == 1 ? 0x80u | (word & 0x7f)
                                             : (unsigned)"a b\n\xe1\xa0\x8e\xc2\x85<|1'"[word % 14];
            text[i] = (char)byte;
        }
        for (int t = 0; t < 2; t++) {
            size_t count;
            round_trip(tokenizers[t], text, size, &count);
        }
    }
    char all[256];
    for (int i = 0; i < 256; i++) all[i] = (char)i;
    size_t count;
    round_trip(tokenizers[0], all, sizeof all, &count);
    int32_t *none = tokenizer_encode(tokenizers[0], NULL, 0, &count);
    check_all(none, count == 0);
}

/* About a megabyte in which all kinds of text, added tokens too, follow on each other. */
static char *large_text(size_t *size) {
    MappedFile file = must_map(golden("tokenizer_text.txt"));
    const char *const extras[] = {"<think>", " a b c <|User|> d", "<|endoftext|>", "\xff\xfe",
                                  "    ",    "9876543210",        "\xe1\xa0\x8e",  " the end "};
    char *text = malloc(1100000);
    *size = 0;
    for (uint64_t i = 0; *size < 1000000; i++) {
        Philox random = philox(5, 0, i);
        size_t from = random.word[0] % (file.size - 600), length = random.word[1] % 600;
        const char *extra = extras[random.word[2] % 8];
        memcpy(text + *size, file.data + from, length);
        memcpy(text + *size + length, extra, strlen(extra));
        *size += length + strlen(extra);
    }
    file_unmap(&file);
    return text;
}

Test(tokenizer, threads_and_segments_change_nothing) {
    size_t size, count[2];
    char *text = large_text(&size);
    for (int t = 0; t < 2; t++) {
        Tokenizer *tokenizer =
            must_load(golden(t ? "tokenizer_deepseek.json" : "tokenizer_gpt2.json"));
        cr_expect(tokenizer->splitter.cuts_at_spaces);
        tokenizer->splitter.cuts_at_spaces = false; /* one segment between two added tokens */
        omp_set_num_threads(1);
        int32_t *whole = round_trip(tokenizer, text, size, &count[0]);
        tokenizer->splitter.cuts_at_spaces = true;
        omp_set_num_threads(4);
        int32_t *parts = round_trip(tokenizer, text, size, &count[1]);
        expect_same_ids("four threads", parts, count[1], whole, count[0]);

        /* Cut at every place where a cut is allowed. */
        size_t segment_count, at = 0;
        Segment *segments = segments_of(tokenizer, text, size, 1, &segment_count);
        cr_expect(segment_count > 50000, "only %zu segments", segment_count);
        for (size_t i = 0; i < segment_count; i++) {
            int32_t *ids =
                tokenizer_encode(tokenizer, segments[i].text, segments[i].length, &count[1]);
            for (size_t k = 0; k < count[1]; k++, at++)
                cr_assert(ids[k] == whole[at], "segment %zu differs", i);
        }
        cr_expect(at == count[0]);
    }
}

/* A megabyte that is one word: the time must not grow with the square. */
Test(tokenizer, long_words_are_no_trap) {
    enum { SIZE = 1 << 20 };
    char *text = malloc(SIZE);
    size_t count;
    memset(text, 'a', SIZE);
    Tokenizer *tokenizer = must_train(text, SIZE, 300);
    cr_expect(tokenizer->merge_count == 19, "%zu merges", tokenizer->merge_count);
    round_trip(tokenizer, text, SIZE, &count);
    cr_expect(count == 2, "%zu tokens for 2^20 letters and a token of 2^19", count);
    memset(text, ' ', SIZE);
    round_trip(tokenizer, text, SIZE, &count);
}

Test(tokenizer, end_of_text_is_one_token) {
    const char *text = "ab<|endoftext|>ab ab<|endoftext|>ab";
    Tokenizer *tokenizer = must_train(text, strlen(text), 300);
    size_t count, bytes;
    int32_t *ids = round_trip(tokenizer, text, strlen(text), &count);
    int eot = tokenizer_eot(tokenizer);
    check_all(ids[1] == eot, eot == tokenizer_vocab_size(tokenizer) - 1);
    cr_expect(tokenizer->merge_count == 1, "'endoftext' was learned");
    cr_expect_str_eq(tokenizer_token(tokenizer, eot, &bytes), "<|endoftext|>");
    cr_expect(bytes == 13);
    cr_expect_str_eq(tokenizer_token(tokenizer, eot + 1, &bytes), "");
    cr_expect(bytes == 0);
    cr_expect_str_eq(tokenizer_token(tokenizer, -1, &bytes), "");
}

static void count_calls(void *user, int done, int wanted) {
    int *calls = user;
    check_all(done >= 0, done <= wanted);
    ++*calls;
}

Test(tokenizer, training_refuses_and_reports) {
    int calls = 0;
    cr_expect_null(tokenizer_train("text", 4, 256, NULL, NULL, &err));
    cr_expect(strstr(err.text, "need 257"), "%s", err.text);
    cr_expect_null(tokenizer_train("", 0, 300, NULL, NULL, &err));
    cr_expect(strstr(err.text, "empty"), "%s", err.text);
    Tokenizer *tokenizer = tokenizer_train("no pair", 7, 5000, count_calls, &calls, &err);
    check_all(tokenizer, calls > 0);
    cr_expect(tokenizer_vocab_size(tokenizer) == 257);
}

Test(tokenizer, saved_equals_loaded) {
    Scratch scratch = scratch_open();
    MappedFile text = must_map(golden("tokenizer_text.txt"));
    Tokenizer *originals[] = {must_load(golden("tokenizer_gpt2.json")),
                              must_load(golden("tokenizer_deepseek.json")),
                              must_train(text.data, text.size, 400)};
    for (int t = 0; t < 3; t++) {
        Error err = {""};
        const char *path = scratch_path(&scratch, "tokenizer.json");
        check_ok(tokenizer_save(originals[t], path, &err), &err);
        Tokenizer *loaded = must_load(path);
        expect_same_tokenizer(loaded, originals[t]);
        cr_expect(cJSON_Compare(loaded->shell, originals[t]->shell, 1), "the rest differs");
        size_t count[2];
        int32_t *a = tokenizer_encode(originals[t], text.data, text.size, &count[0]);
        int32_t *b = tokenizer_encode(loaded, text.data, text.size, &count[1]);
        expect_same_ids("loaded", b, count[1], a, count[0]);
        cr_expect(tokenizer_save(originals[t], "/proc/none/tokenizer.json", &err) == -1);
        cr_expect(strstr(err.text, "No such file"), "%s", err.text);
    }
    file_unmap(&text);
}

Test(tokenizer, the_alphabet_is_a_bijection) {
    bool seen[0x200] = {false};
    for (int byte = 0; byte < 256; byte++) {
        uint32_t character = byte_to_character((unsigned char)byte);
        cr_assert(character < 0x144 && !seen[character], "byte %d", byte);
        seen[character] = true;
        cr_expect(character_to_byte(character) == byte);
    }
    for (uint32_t character = 0; character < 0x200; character++)
        cr_expect(seen[character] == (character_to_byte(character) >= 0));
    check_all(byte_to_character(' ') == 0x120, byte_to_character('\n') == 0x10A);
    cr_expect(character_to_byte(0xFFFFFFFFu) == -1);
}
