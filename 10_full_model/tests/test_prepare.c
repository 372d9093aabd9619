/*
 * The whole way from files to shards: the same bytes whatever the threads, the same part whatever
 * the order, and nothing that looks finished when something went wrong.
 */
#include "10_full_model/data/prepare.h"
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"

#include "common/core/rng.h"

#include <fcntl.h>
#include <omp.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>

/* Document number n: about `words` words, of which a few hundred exist, so that a tokenizer has
 * something to learn. */
static size_t write_document(char *text, uint64_t n, int words) {
    static const char *const common[] = {"the",   "of",   "and",     "lighthouse",
                                         "water", "with", "harbour", "evening"};
    char *end = text;
    for (int i = 0; i < words; i++) {
        Philox p = philox(n, 77, (uint64_t)i);
        if (p.word[0] % 3 == 0)
            end += sprintf(end, "%s", common[p.word[1] % 8]);
        else
            end += sprintf(end, "%c%co%c%c", 'a' + p.word[1] % 20, 'e', 'k' + p.word[2] % 10,
                           'a' + p.word[3] % 16);
        *end++ = i % 12 == 11 ? '\n' : ' ';
    }
    end[-1] = 0;
    return (size_t)(end - 1 - text);
}

/* JSON lines of documents first .. first + count - 1, and every seventh of them twice. free()
 * it. */
static char *json_lines(int first, int count) {
    char *lines = malloc((size_t)count * 2 * 2000), *end = lines, text[2000];
    for (int i = first; i < first + count; i++)
        for (int copy = 0; copy < (i % 7 ? 1 : 2); copy++) {
            write_document(text, (uint64_t)i, 60 + i % 50);
            end += sprintf(end, "{\"id\": %d, \"text\": \"", i);
            for (const char *c = text; *c; c++) end += sprintf(end, *c == '\n' ? "\\n" : "%c", *c);
            end += sprintf(end, "\"}\n");
        }
    *end = 0;
    return lines;
}

static PrepareOptions options_for(const Scratch *out, const char *const *paths, int count) {
    PrepareOptions o = prepare_defaults();
    o.paths = paths;
    o.path_count = count;
    o.out = out->directory;
    o.vocab = 320;
    o.validation = 0.2;
    o.quiet = true;
    return o;
}

static char *copy_path(Scratch *scratch, const char *name, const char *content) {
    return strdup(scratch_write(scratch, name, content, strlen(content)));
}

/* All of the held-out file and nothing else is for validation, but for what training has already;
 * and the tokenizer is learned without it. */
Test(prepare, files_are_held_out) {
    Scratch in = scratch_open(), out = scratch_open(), alone = scratch_open();
    const char *train = copy_path(&in, "a.jsonl", json_lines(0, 300)),
               *held_out = copy_path(&in, "b.jsonl", json_lines(290, 50));
    PrepareReport report, first;
    PrepareOptions o = options_for(&alone, &train, 1);
    o.validation = 0;
    check_ok(prepare_run(&o, &first, &err), &err);
    o = options_for(&out, &train, 1);
    o.held_out = &held_out, o.held_out_count = 1;
    check_ok(prepare_run(&o, &report, &err), &err);
    cr_expect_eq(report.documents[OUTCOME_TRAIN], 300);
    cr_expect_eq(report.documents[OUTCOME_VALIDATION], 40);
    /* 43 in the one; 290 .. 299 and their own copies in the other: 294, 301, 308, ... 336 */
    cr_expect_eq(report.documents[OUTCOME_EXACT], 43 + 10 + 7);
    cr_expect_eq(report.tokens[SHARD_TRAIN], first.tokens[SHARD_TRAIN]);
    same_bytes(out.directory, alone.directory, "train-00000.shard");
    same_bytes(out.directory, alone.directory, "tokenizer.json");
    o.out = out.directory, o.held_out_count = 0;
    cr_expect(prepare_run(&o, &report, &err) == -1 && strstr(err.text, "finished shards already"));
}

Test(prepare, the_bytes_do_not_depend_on_threads) {
    Scratch in = scratch_open(), out[2] = {scratch_open(), scratch_open()};
    char *lines = json_lines(0, 300), *path = copy_path(&in, "a.jsonl", lines);
    PrepareReport report[2];
    for (int run = 0; run < 2; run++) {
        PrepareOptions o = options_for(&out[run], (const char *const *)&path, 1);
        o.shard_tokens = 8000;
        omp_set_num_threads(run ? 5 : 1);
        check_ok(prepare_run(&o, &report[run], &err), &err);
    }
    cr_expect(!memcmp(report[0].documents, report[1].documents, sizeof report[0].documents));
    cr_expect_eq(report[0].documents[OUTCOME_EXACT], 43); /* 0, 7, ... 294 */
    check_all(report[0].documents[OUTCOME_VALIDATION] > 30,
              report[0].documents[OUTCOME_VALIDATION] < 90);
    cr_expect(report[0].shards[SHARD_TRAIN] > 1);
    static const char *const names[] = {"train-00000.shard", "train-00001.shard",
                                        "validation-00000.shard", "tokenizer.json", "index.json"};
    for (int i = 0; i < 5; i++) same_bytes(out[0].directory, out[1].directory, names[i]);
}

/* The tokens of the documents of a part, one after the other, are what the tokenizer makes of
 * each text alone. */
Test(prepare, shards_hold_what_the_tokenizer_says) {
    Scratch in = scratch_open(), out = scratch_open();
    char text[2000], all[60000] = "";
    for (uint64_t i = 0; i < 20; i++) { /* raw text, cut by the marker */
        write_document(text, i, 80);
        strcat(strcat(strcat(all, "\r\n"), text), " \n<|endoftext|>");
    }
    char *path = copy_path(&in, "a.txt", all);
    PrepareOptions o = options_for(&out, (const char *const *)&path, 1);
    PrepareReport report;
    check_ok(prepare_run(&o, &report, &err), &err);
    cr_assert_eq(report.documents[OUTCOME_TRAIN] + report.documents[OUTCOME_VALIDATION], 20);
    Shards shards;
    check_ok(shards_open(&shards, out.directory, true, &err), &err);
    Tokenizer *tokenizer = tokenizer_load(scratch_path(&out, "tokenizer.json"), &err);
    cr_assert(tokenizer, "%s", err.text);
    int64_t next[2] = {0};
    for (uint64_t i = 0; i < 20; i++) {
        size_t count;
        int32_t *ids = tokenizer_encode(tokenizer, text, write_document(text, i, 80), &count);
        bool found = false;
        for (int part = 0; part < 2 && !found; part++) {
            if (next[part] == shards.parts[part].documents) continue;
            int64_t first, length;
            int32_t stored[2000];
            shards_document(&shards, (ShardPart)part, next[part], &first, &length);
            shards_read(&shards, (ShardPart)part, first, length, stored);
            found = length == (int64_t)count + 1 && !memcmp(stored, ids, count * sizeof *ids) &&
                    stored[count] == shards.end_of_text;
            next[part] += found;
        }
        cr_expect(found, "document %llu is in neither part", (unsigned long long)i);
    }
    shards_close(&shards);
}

/* A document's part depends on its text and the seed: not on the order, nor on what else is
 * there. */
Test(prepare, the_split_does_not_depend_on_the_order) {
    Scratch in = scratch_open(), first = scratch_open(), out = scratch_open();
    char *lines = json_lines(0, 100), *more = json_lines(100, 50);
    char *a = copy_path(&in, "a.jsonl", lines), *b = copy_path(&in, "b.jsonl", more);
    const char *const forth[] = {a, b}, *const back[] = {b, a};
    PrepareReport r[3], other;
    PrepareOptions o = options_for(&first, forth, 2);
    check_ok(prepare_run(&o, &r[0], &err), &err);
    o = options_for(&out, back, 2);
    o.tokenizer = first.directory;
    check_ok(prepare_run(&o, &r[1], &err), &err);
    o.path_count = 1; /* b alone, and then a alone: their counts add up */
    o.overwrite = true;
    check_ok(prepare_run(&o, &r[2], &err), &err);
    o.paths = forth;
    check_ok(prepare_run(&o, &other, &err), &err);
    for (int i = OUTCOME_TRAIN; i <= OUTCOME_VALIDATION; i++) {
        cr_expect_eq(r[0].documents[i], r[1].documents[i]);
        cr_expect_eq(r[0].documents[i], r[2].documents[i] + other.documents[i]);
    }
    for (int part = 0; part < 2; part++) cr_expect_eq(r[0].tokens[part], r[1].tokens[part]);
    o.seed = 2;
    check_ok(prepare_run(&o, &r[2], &err), &err);
    cr_expect(r[2].tokens[0] != other.tokens[0], "another seed, another split");
}

/* One document of each kind: where each goes. */
Test(prepare, outcomes) {
    Scratch in = scratch_open(), out = scratch_open();
    char text[2000], nearly[2000], lines[20000] = "";
    write_document(text, 1, 200);
    strcpy(nearly, text);
    memcpy(strstr(nearly, " the "), " tHE ", 5); /* another text, the same words */
    for (char *c = text; *c; c++) *c = *c == '\n' ? ' ' : *c;
    for (char *c = nearly; *c; c++) *c = *c == '\n' ? ' ' : *c;
    sprintf(
        lines,
        "{\"text\": \"%s\"}\n{\"text\": \"%s  \"}\n{\"text\": \"%s\"}\n{\"text\": \"too short\"}\n"
        "{\"text\": \" <|endoftext|>\\n\"}\nno JSON\n{\"text\": \"caf\xE9\"}\n",
        text, text, nearly);
    char *paths[2] = {copy_path(&in, "a.jsonl", lines), NULL};
    write_document(text, 2, 200);
    text[100] = (char)0xFF;
    paths[1] = copy_path(&in, "b.txt", text);
    PrepareOptions o = options_for(&out, (const char *const *)paths, 2);
    o.skip_bad_lines = true;
    o.validation = 0;
    PrepareReport r;
    check_ok(prepare_run(&o, &r, &err), &err);
    cr_expect_eq(r.documents[OUTCOME_TRAIN], 2);
    cr_expect_eq(r.documents[OUTCOME_EXACT], 1);
    cr_expect_eq(r.documents[OUTCOME_NEAR], 1);
    cr_expect_eq(r.documents[OUTCOME_RULE + QUALITY_WORDS], 2);
    cr_expect_eq(r.documents[OUTCOME_EMPTY], 1);
    cr_expect_eq(r.documents[OUTCOME_BAD_LINE], 1);
    cr_expect_eq(r.replaced, 2); /* in JSON lines, too */
    cr_expect(strstr(r.first_bad_line, "a.jsonl:6: "), "%s", r.first_bad_line);
    o.overwrite = o.drop_invalid = true;
    o.near = 0;
    o.exact = false;
    check_ok(prepare_run(&o, &r, &err), &err);
    cr_expect_eq(r.documents[OUTCOME_INVALID], 2);
    cr_expect_eq(r.documents[OUTCOME_TRAIN], 3);
}

/* Documents shorter than a shingle have nothing to compare: they are not all "the same". A zero
 * character in JSON goes as in raw text, and an upper-case extension is one. */
Test(prepare, short_documents_all_stay) {
    Scratch in = scratch_open(), out = scratch_open();
    char *paths[] = {copy_path(&in, "SHORT.JSONL",
                               "{\"text\": \"hello world\"}\n{\"text\": \"foo bar\"}\n"
                               "{\"text\": \"one two three four\"}\n{\"text\": \"a\"}\n"
                               "{\"text\": \"five six seven eight\"}\n{\"text\": \"ping\"}\n"
                               "{\"text\": \"pong\\u0000 ping\"}\n")};
    PrepareOptions o = options_for(&out, (const char *const *)paths, 1);
    o.limits = quality_off();
    o.validation = 0;
    o.vocab = 257; /* bytes: ids can be read */
    PrepareReport r;
    check_ok(prepare_run(&o, &r, &err), &err);
    cr_expect_eq(r.documents[OUTCOME_TRAIN], 7);
    cr_expect_eq(r.text_bytes[SHARD_TRAIN], 11 + 7 + 18 + 1 + 20 + 4 + 9);
}

/* ---- what goes wrong ---- */

/* It fails, says so, and leaves no index and no shards. */
static void fails(const PrepareOptions *o, Scratch *out, const char *message) {
    PrepareReport report;
    cr_expect(prepare_run(o, &report, &err) == -1, "it should say '%s'", message);
    cr_expect(strstr(err.text, message), "'%s' should say '%s'", err.text, message);
    cr_expect(access(scratch_path(out, "index.json"), F_OK), "there is an index");
    cr_expect(access(scratch_path(out, "train-00000.shard"), F_OK), "there is a shard");
}

Test(prepare, bad_input) {
    Scratch in = scratch_open(), out = scratch_open();
    char *lines = json_lines(0, 40), *path = copy_path(&in, "a.jsonl", lines);
    PrepareOptions good = options_for(&out, (const char *const *)&path, 1), o = good;
    const char *missing = "/proc/none/a.txt";
    o.paths = &missing;
    fails(&o, &out, missing);
    o = good;
    o.limits.low[QUALITY_WORDS] = 1000;
    fails(&o, &out, "40 by \"words\"");
    o.tokenizer = "/proc/none";
    fails(&o, &out, "/proc/none");
    o = good;
    o.end_of_text = "<|end|>";
    fails(&o, &out, "--end-of-text");
    o = good;
    o.out = path; /* a file */
    fails(&o, &out, path);
    strcpy(strstr(lines, "\"id\": 20"), "\n");
    char *bad = copy_path(&in, "b.jsonl", lines);
    char *plain = copy_path(&in, "plain.txt", "one\ntwo\n");
    o = good;
    o.paths = (const char *const *)&bad;
    fails(&o, &out, "b.jsonl:24: ");
    fails(&o, &out, "--bad-lines skip");
    o.tokenizer = NULL;
    o.paths = (const char *const *)&plain; /* not one good line: still the first is named */
    o.documents.format = FORMAT_JSONL;
    fails(&o, &out, "plain.txt:1: the line: not JSON");
    int fd = open(out.directory, O_RDONLY);
    cr_assert(flock(fd, LOCK_EX) == 0);
    fails(&good, &out, "another process is writing");
    close(fd);
}

Test(prepare, a_finished_folder_is_left_alone) {
    Scratch in = scratch_open(), out = scratch_open();
    char *lines = json_lines(0, 40), *path = copy_path(&in, "a.jsonl", lines);
    PrepareOptions o = options_for(&out, (const char *const *)&path, 1);
    PrepareReport report;
    o.shard_tokens = 2000;
    check_ok(prepare_run(&o, &report, &err), &err);
    int files = scratch_count(&out);
    cr_expect(prepare_run(&o, &report, &err) == -1 && strstr(err.text, "the same settings"), "%s",
              err.text);
    o.limits.high[QUALITY_WORDS] = 5000;
    cr_expect(prepare_run(&o, &report, &err) == -1 && strstr(err.text, "\"limits\""), "%s",
              err.text);
    o.limits = quality_defaults();
    o.seed = 7;
    cr_expect(prepare_run(&o, &report, &err) == -1 && strstr(err.text, "\"seed\""), "%s", err.text);
    cr_expect_eq(scratch_count(&out), files);
    o.overwrite = true;
    o.shard_tokens = 1 << 20; /* fewer shards than before: the old ones must go */
    check_ok(prepare_run(&o, &report, &err), &err);
    cr_expect_eq(scratch_count(&out), 5, "index, report, tokenizer, two shards");
    Shards shards;
    check_ok(shards_open(&shards, out.directory, true, &err), &err);
    shards_close(&shards);
}

/* The disk is full at any place: tokenizer, shard, report or index. */
Test(prepare, a_full_disk) {
    Scratch in = scratch_open(), out = scratch_open();
    char *lines = json_lines(0, 100), *path = copy_path(&in, "a.jsonl", lines);
    PrepareOptions o = options_for(&out, (const char *const *)&path, 1);
    signal(SIGXFSZ, SIG_IGN);
    static const int limits[] = {500, 12000};
    for (int i = 0; i < 2; i++) {
        setrlimit(RLIMIT_FSIZE,
                  &(struct rlimit){.rlim_cur = (rlim_t)limits[i], .rlim_max = RLIM_INFINITY});
        fails(&o, &out, i ? ".shard: File too large" : "tokenizer.json");
    }
}

/* What a killed run leaves behind is no obstacle, and is gone after the next one. */
Test(prepare, a_killed_run_leaves_no_trace) {
    Scratch in = scratch_open(), out = scratch_open();
    char *lines = json_lines(0, 40), *path = copy_path(&in, "a.jsonl", lines);
    PrepareOptions o = options_for(&out, (const char *const *)&path, 1);
    PrepareReport report;
    scratch_write(&out, "train-00000.shard", "old", 3);
    scratch_write(&out, "train-00009.shard", "old", 3);
    scratch_write(&out, "validation-00003.shard.77-0.tmp", "half", 4);
    check_ok(prepare_run(&o, &report, &err), &err);
    cr_expect_eq(scratch_count(&out), 5, "index, report, tokenizer, two shards");
}
