/*
 * Shards on the disk: what is written is what is read, what lies is refused, and training sees
 * windows in an order of which any place can be asked for.
 */
#include "10_full_model/data/token_source.h"
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

enum { VOCAB = 300, END = 299 };

static cJSON *index_of(const char *directory, int vocab, cJSON *train, cJSON *validation) {
    size_t size;
    char *tokenizer = file_text(path_in(directory, "tokenizer.json"), &size);
    cJSON *index = cJSON_CreateObject();
    cJSON_AddStringToObject(index, "format", "deepseek shards");
    cJSON_AddNumberToObject(index, "version", 1);
    cJSON_AddNumberToObject(index, "vocab_size", vocab);
    cJSON_AddNumberToObject(index, "end_of_text", vocab - 1);
    cJSON_AddStringToObject(index, "tokenizer_hash",
                            hash128_text(hash128(tokenizer, size, 0)).text);
    cJSON_AddItemToObject(index, "train", train);
    cJSON_AddItemToObject(index, "validation", validation);
    return index;
}

/*
 * Writes `documents` documents of 1, 2, 3, ... tokens to train, every fourth to validation as
 * well, and the index. The tokens of train count up, and start again at END.
 */
static void write_folder(const char *directory, int documents, int vocab, int64_t shard_tokens) {
    Scratch scratch = {0};
    snprintf(scratch.directory, sizeof scratch.directory, "%s", directory);
    scratch_write(&scratch, "tokenizer.json", "{}", 2); /* shards ask only for its hash */
    ShardWriter writers[2];
    for (int part = 0; part < 2; part++)
        shard_writer_init(&writers[part], directory, (ShardPart)part, vocab, shard_tokens);
    int32_t ids[1000], next = 0;
    for (int d = 0; d < documents; d++) {
        for (int i = 0; i < d; i++) ids[i] = next++ % (vocab - 1);
        ids[d] = vocab - 1;
        check_ok(shard_write(&writers[0], ids, (size_t)d + 1, 10, &err), &err);
        if (d % 4 == 0) check_ok(shard_write(&writers[1], ids, (size_t)d + 1, 10, &err), &err);
    }
    cJSON *parts[2];
    for (int part = 0; part < 2; part++) {
        parts[part] = shard_writer_finish(&writers[part], &err);
        cr_assert(parts[part], "%s", err.text);
        shard_writer_free(&writers[part], false);
    }
    cJSON *index = index_of(directory, vocab, parts[0], parts[1]);
    char *text = cJSON_Print(index); /* not json_save: waiting for the disk takes the tests' time */
    scratch_write(&scratch, "index.json", text, strlen(text));
    cJSON_free(text);
    cJSON_Delete(index);
}

static void expect_written(const Shards *s, int documents, int vocab) {
    const ShardRow *row = &s->parts[SHARD_TRAIN];
    cr_assert_eq(row->documents, documents);
    cr_assert_eq(row->tokens, (int64_t)documents * (documents + 1) / 2);
    int32_t next = 0;
    for (int d = 0; d < documents; d++) {
        int64_t first, count;
        int32_t ids[1000];
        shards_document(s, SHARD_TRAIN, d, &first, &count);
        cr_assert_eq(count, d + 1);
        cr_assert_eq(first, (int64_t)d * (d + 1) / 2);
        shards_read(s, SHARD_TRAIN, first, count, ids);
        for (int i = 0; i < d; i++) cr_assert_eq(ids[i], next++ % (vocab - 1));
        cr_assert_eq(ids[d], vocab - 1);
    }
}

/* Ids of 2 and of 4 bytes; shards of one document, of some, and one for all. */
Test(shards, what_is_written_is_read) {
    static const int vocabs[] = {VOCAB, 65536, 65537, 200000};
    static const int64_t sizes[] = {1, 200, 1 << 20};
    for (int v = 0; v < 4; v++)
        for (int s = v ? 1 : 0; s < (v == 1 ? 2 : 3); s++) {
            int documents = s ? 40 : 5;
            Scratch scratch = scratch_open();
            Error err;
            Shards shards;
            write_folder(scratch.directory, documents, vocabs[v], sizes[s]);
            check_ok(shards_open(&shards, scratch.directory, true, &err), &err);
            cr_expect_eq(shards.token_bytes, v < 2 ? 2 : 4);
            cr_expect(s ? shards.parts[0].count < 10 : shards.parts[0].count == 5);
            expect_written(&shards, documents, vocabs[v]);
            shards_close(&shards);
        }
}

/* Reading across shards gives what reading one token at a time gives. */
Test(shards, reads_across_shards) {
    Scratch scratch = scratch_open();
    Shards shards;
    write_folder(scratch.directory, 12, VOCAB, 5);
    check_ok(shards_open(&shards, scratch.directory, true, &err), &err);
    int64_t tokens = shards.parts[0].tokens;
    for (int64_t first = 0; first <= tokens; first++)
        for (int64_t count = 0; first + count <= tokens; count++) {
            int32_t all[100], one;
            shards_read(&shards, SHARD_TRAIN, first, count, all);
            for (int64_t i = 0; i < count; i++) {
                shards_read(&shards, SHARD_TRAIN, first + i, 1, &one);
                cr_assert_eq(all[i], one);
            }
        }
    shards_close(&shards);
}

/* ---- what lies ---- */

static void refused(const char *directory, bool verify, const char *what, const char *message) {
    Shards shards;
    int status = shards_open(&shards, directory, verify, &err);
    cr_expect(status == -1, "%s: opened", what);
    cr_expect(!message || strstr(err.text, message), "%s: '%s' should say '%s'", what, err.text,
              message);
    if (!status) shards_close(&shards);
}

Test(shards, truncated_at_every_length) {
    Scratch scratch = scratch_open();
    write_folder(scratch.directory, 9, VOCAB, 1 << 20);
    static const char *const names[] = {"train-00000.shard", "index.json"};
    for (int n = 0; n < 2; n++) {
        size_t size;
        char *content = file_text(scratch_path(&scratch, names[n]), &size);
        /* The index ends with "}\n": without the newline it is whole. */
        for (size_t length = 0; length < size - (size_t)n; length++) {
            char what[60];
            scratch_write(&scratch, names[n], content, length);
            snprintf(what, sizeof what, "%s, %zu bytes", names[n], length);
            refused(scratch.directory, false, what, names[n]);
        }
        scratch_write(&scratch, names[n], content, size + (n == 0)); /* one byte too many */
        if (n == 0) refused(scratch.directory, false, "a longer shard", names[n]);
        scratch_write(&scratch, names[n], content, size);
    }
    Shards shards;
    check_ok(shards_open(&shards, scratch.directory, true, &err), &err);
    shards_close(&shards);
}

/* Every bit that is turned over is found, and the file is named. */
Test(shards, changed_bytes_are_found) {
    Scratch scratch = scratch_open();
    write_folder(scratch.directory, 9, VOCAB, 1 << 20);
    size_t size;
    char *content = file_text(scratch_path(&scratch, "validation-00000.shard"), &size);
    for (size_t bit = 0; bit < 8 * size; bit += 3) {
        content[bit / 8] ^= (char)(1 << bit % 8);
        scratch_write(&scratch, "validation-00000.shard", content, size);
        refused(scratch.directory, true, "a changed bit", "validation-00000.shard");
        content[bit / 8] ^= (char)(1 << bit % 8);
    }
}

/* An index that was edited: `from` becomes `to` at its first place behind `after`. */
Test(shards, an_index_that_lies) {
    static const struct {
        const char *after, *from, *to, *message;
    } cases[] = {
        {"format", "deepseek shards", "other", "\"format\""},
        {"version", "1", "2", "\"version\""},
        {"vocab_size", "300", "0", "\"vocab_size\""},
        {"vocab_size", "300", "1e300", "\"vocab_size\""},
        {"vocab_size", "300", "65537", "tokens of 2 bytes"},
        {"vocab_size", "300", "299", "\"end_of_text\""},
        {"end_of_text", "299", "298", "document"},
        {"end_of_text", "299", "-1", "\"end_of_text\""},
        {"tokenizer_hash", "\":\t\"", "\":\t\"0", "tokenizer.json"},
        {"train", "tokens\":\t", "tokens\":\t1", "but its shards"},
        {"train", "tokens\":\t", "tokens\":\t-", "\"tokens\""},
        {"train", "documents\":\t", "documents\":\t1", "but its shards"},
        {"train", "\"shards\"", "\"shard\"", "\"shards\""},
        {"train", "text_bytes", "text", "\"text_bytes\""},
        {"00000.shard", "tokens\":\t", "tokens\":\t1", "by its head"},
        {"00000.shard", "documents\":\t", "documents\":\t99999", "\"documents\""},
        {"shards\":", "train-00000", "train-00001", "train-00000.shard"},
        {"shards\":", "train-00000", "/etc/passwd", "train-00000.shard"},
        {"bytes\":\t", "hash\":\t\"", "hash\":\t\"0", "was changed"},
    };
    Scratch scratch = scratch_open();
    write_folder(scratch.directory, 9, VOCAB, 1 << 20);
    size_t size;
    char *text = file_text(scratch_path(&scratch, "index.json"), &size),
         *edited = malloc(size + 100);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *after = strstr(text, cases[i].after);
        char *at = after ? strstr(after, cases[i].from) : NULL;
        cr_assert(at, "case %zu: '%s' is not there", i, cases[i].from);
        sprintf(edited, "%.*s%s%s", (int)(at - text), text, cases[i].to,
                at + strlen(cases[i].from));
        scratch_write(&scratch, "index.json", edited, strlen(edited));
        refused(scratch.directory, true, cases[i].to, cases[i].message);
    }
}

Test(shards, folders_that_are_not_finished) {
    Scratch scratch = scratch_open();
    refused(scratch.directory, false, "an empty folder", "holds no finished shards");
    refused("/proc/none", false, "no folder", "/proc/none/index.json");
    write_folder(scratch.directory, 9, VOCAB, 30);
    unlink(scratch_path(&scratch, "train-00001.shard"));
    refused(scratch.directory, false, "a shard is missing", "train-00001.shard");
    static const char *const ours[] = {"train-00000.shard", "validation-123456.shard", "index.json",
                                       "tokenizer.json"};
    static const char *const others[] = {"train-x.shard", "my-train-00000.shard", "train-0.shard",
                                         "train-00000.shard.txt", "config.json"};
    for (int i = 0; i < 4; i++) cr_expect(shards_owns(ours[i]), "%s", ours[i]);
    for (int i = 0; i < 5; i++) cr_expect(!shards_owns(others[i]), "%s", others[i]);
}

/* A limit on the size of files is a full disk: the writer says so, and takes away what it wrote. */
Test(shards, a_full_disk) {
    Scratch scratch = scratch_open();
    ShardWriter writer;
    int32_t ids[1000] = {0};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 100000, .rlim_max = RLIM_INFINITY});
    shard_writer_init(&writer, scratch.directory, SHARD_TRAIN, VOCAB, 30000);
    int status = 0, written = 0;
    while (!status && written < 29) status = shard_write(&writer, ids, 1000, 1, &err), written++;
    cr_expect(status == 0);
    shard_writer_free(&writer, true); /* given up: nothing stays */
    cr_expect_eq(scratch_count(&scratch), 0);

    shard_writer_init(&writer, scratch.directory, SHARD_TRAIN, VOCAB, 40000);
    shard_write(&writer, ids, 1000, 1, &err);
    writer.shard_tokens = 1000; /* closes one shard */
    check_ok(shard_write(&writer, ids, 1000, 1, &err), &err);
    writer.shard_tokens = 1 << 20; /* the next is larger than the disk */
    for (written = 0; !status && written < 1000; written++)
        status = shard_write(&writer, ids, 1000, 1, &err);
    cr_expect(status == -1 && written < 200, "%d documents of 2000 bytes fitted", written);
    cr_expect(strstr(err.text, "train-00001.shard") && strstr(err.text, "File too large"), "%s",
              err.text);
    shard_writer_free(&writer, true);
    cr_expect_eq(scratch_count(&scratch), 0, "something stayed");
}

/* ---- the order of training ---- */

Test(order, a_permutation_for_every_size) {
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 100, 255, 257, 1000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            bool seen[1000] = {0};
            for (uint64_t i = 0; i < sizes[s]; i++) {
                uint64_t place = shards_shuffled(5, epoch, i, sizes[s]);
                cr_assert(place < sizes[s] && !seen[place], "%llu of %llu",
                          (unsigned long long)place, (unsigned long long)sizes[s]);
                seen[place] = true;
            }
        }
}

/* No order shines through: neighbours in time are as far apart as random places are (a third of n
 * in the mean; its standard error over 10,000 is 0.0024 n), and epochs and seeds agree in about
 * one place, as random permutations do. */
Test(order, looks_random) {
    enum { N = 10000 };
    double distance = 0;
    int same_epoch = 0, same_seed = 0;
    for (uint64_t i = 0; i < N; i++) {
        uint64_t a = shards_shuffled(1, 0, i, N), b = shards_shuffled(1, 0, (i + 1) % N, N);
        distance += a > b ? (double)(a - b) : (double)(b - a);
        same_epoch += a == shards_shuffled(1, 1, i, N);
        same_seed += a == shards_shuffled(2, 0, i, N);
    }
    cr_expect(fabs(distance / N / N - 1.0 / 3) < 5 * 0.0024, "%g", distance / N / N);
    cr_expect(same_epoch < 10 && same_seed < 10, "%d, %d", same_epoch, same_seed);
}

/* In one epoch the windows' inputs do not overlap, and cover all but less than two windows of the
 * part. */
Test(order, an_epoch_sees_everything_once) {
    Scratch scratch = scratch_open();
    Shards shards;
    write_folder(scratch.directory, 20, VOCAB, 30); /* 210 tokens */
    check_ok(shards_open(&shards, scratch.directory, false, &err), &err);
    static const int lengths[] = {1, 2, 7, 32, 100, 104, 105, 106, 208, 209};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        int length = lengths[l], windows = 210 > 2 * length ? (210 - length) / length : 1;
        for (int epoch = 0; epoch < 3; epoch++) {
            bool seen[210] = {0};
            for (int i = 0; i < windows; i++) {
                int64_t first = shards_window(&shards, 3, (uint64_t)(epoch * windows + i), length);
                cr_assert(first >= 0 && first + length + 1 <= 210, "length %d: %lld", length,
                          (long long)first);
                for (int t = 0; t < length; t++) {
                    cr_assert(!seen[first + t], "token %lld twice in an epoch",
                              (long long)first + t);
                    seen[first + t] = true;
                }
            }
        }
    }
    shards_close(&shards);
}

/* ---- the source ---- */

/* Any batch, in any order, of any size: window i is window i, whether it was read ahead or not. */
Test(source, a_batch_is_a_function_of_seed_and_place) {
    Scratch scratch = scratch_open();
    Shards shards;
    TokenSource source, other;
    enum { LENGTH = 16, WINDOWS = 60 };
    write_folder(scratch.directory, 40, VOCAB, 100);
    check_ok(shards_open(&shards, scratch.directory, true, &err), &err);
    check_ok(source_of_shards(&source, &shards, LENGTH, &err), &err);
    check_ok(source_of_shards(&other, &shards, LENGTH, &err), &err);
    cr_expect_eq(source.train_tokens, 820);
    int32_t all[2][WINDOWS * LENGTH], some[2][WINDOWS * LENGTH];
    source_batch(&source, 9, 0, WINDOWS, LENGTH, all[0], all[1]);
    for (int w = 0; w < WINDOWS; w++) {
        int64_t first = shards_window(&shards, 9, (uint64_t)w, LENGTH);
        int32_t truth[LENGTH + 1];
        shards_read(&shards, SHARD_TRAIN, first, LENGTH + 1, truth);
        cr_assert(!memcmp(all[0] + w * LENGTH, truth, sizeof truth - 4), "inputs of %d", w);
        cr_assert(!memcmp(all[1] + w * LENGTH, truth + 1, sizeof truth - 4), "targets of %d", w);
    }
    /* in order (as training does), and then as a run that was stopped, goes on, and is stopped
     * again */
    static const int starts[] = {0, 4, 8, 12, 40, 44, 4, 8, 3, 0, 52};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        int batch = i == 8 ? 7 : 4;
        memset(some, 0xFF, sizeof some);
        source_batch(&other, 9, (uint64_t)starts[i], batch, LENGTH, some[0], some[1]);
        for (int k = 0; k < 2; k++)
            cr_assert(!memcmp(some[k], all[k] + starts[i] * LENGTH,
                              (size_t)batch * LENGTH * sizeof(int32_t)),
                      "batch %zu", i);
    }
    source_batch(&other, 10, 0, 4, LENGTH, some[0], some[1]);
    cr_expect(memcmp(some[0], all[0], 4 * LENGTH * sizeof(int32_t)), "another seed, another order");
    source_free(&source);
    source_free(&other);
    shards_close(&shards);
}

/*
 * What ends a document is a token like others, to be learned: each end that lies in a window, but
 * for its first token, is a target there. A model without such targets never stops.
 */
Test(source, the_end_of_every_document_is_learned) {
    Scratch scratch = scratch_open();
    Shards shards;
    TokenSource source;
    enum { LENGTH = 16, DOCUMENTS = 40 };
    write_folder(scratch.directory, DOCUMENTS, VOCAB, 100);
    check_ok(shards_open(&shards, scratch.directory, true, &err), &err);
    check_ok(source_of_shards(&source, &shards, LENGTH, &err), &err);
    int learned = 0;
    for (uint64_t w = 0; w < 50; w++) { /* an epoch, for 820 tokens */
        int32_t inputs[LENGTH], targets[LENGTH];
        source_batch(&source, 9, w, 1, LENGTH, inputs, targets);
        int64_t begins = shards_window(&shards, 9, w, LENGTH);
        for (int d = 0; d < DOCUMENTS; d++) {
            int64_t first, count;
            shards_document(&shards, SHARD_TRAIN, d, &first, &count);
            int64_t t = first + count - 1 - begins; /* the end's place; its target stands before */
            if (t < 1 || t > LENGTH) continue;
            cr_assert(targets[t - 1] == END,
                      "the target before the end of document %d is %d, not the end-of-text token "
                      "%d: a model would not learn to stop",
                      d, targets[t - 1], END);
            learned++;
        }
    }
    /* An epoch leaves up to 20 of the 820 tokens out, and the first 20 hold five ends, or six. */
    cr_expect(learned >= DOCUMENTS - 6, "%d ends were learned in an epoch", learned);
    source_free(&source);
    shards_close(&shards);
}

Test(source, validation_is_spread_over_its_part) {
    Scratch scratch = scratch_open();
    Shards shards;
    TokenSource source;
    write_folder(scratch.directory, 40, VOCAB, 50);
    check_ok(shards_open(&shards, scratch.directory, false, &err), &err);
    check_ok(source_of_shards(&source, &shards, 8, &err), &err);
    int32_t inputs[8], targets[8], truth[9];
    int64_t tokens = shards.parts[SHARD_VALIDATION].tokens, last = -1;
    for (int i = 0; i < 10; i++) {
        int64_t first = (tokens - 9) * i / 10;
        source_validation(&source, i, 10, 8, inputs, targets);
        shards_read(&shards, SHARD_VALIDATION, first, 9, truth);
        check_all(!memcmp(inputs, truth, sizeof inputs), !memcmp(targets, truth + 1, 32));
        cr_assert(first > last);
        last = first;
    }
    source_free(&source);
    cr_expect(source_of_shards(&source, &shards, (int)tokens, &err) == -1);
    cr_expect(strstr(err.text, "validation part has 190 tokens"), "%s", err.text);
    source_free(&source); /* harmless after a failure */
    shards_close(&shards);
}

/* A corpus in memory gives through the interface what it gives without. */
Test(source, of_a_corpus) {
    int32_t ids[500], a[2][40], b[2][40];
    for (int i = 0; i < 500; i++) ids[i] = i;
    Corpus corpus = {.ids = ids, .count = 500, .train_count = 450, .bytes = 2000};
    TokenSource source = source_of_corpus(&corpus);
    check_all(source.train_tokens == 450, source.validation_tokens == 50, source.bytes == 2000);
    source_batch(&source, 4, 7, 5, 8, a[0], a[1]);
    corpus_batch(&corpus, 4, 7, 5, 8, b[0], b[1]);
    cr_expect(!memcmp(a, b, sizeof a));
    source_validation(&source, 2, 3, 8, a[0], a[1]);
    corpus_validation(&corpus, 2, 3, 8, b[0], b[1]);
    cr_expect(!memcmp(a, b, 8 * sizeof(int32_t)));
    source_free(&source);
}
