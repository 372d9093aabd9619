/*
 * The data pipeline, measured: how fast each stage of `deepseek data` is, and which share of
 * similar documents MinHash finds.
 *
 * The input is made from a text: JSON lines of 200 to 1000 words that follow each other in it,
 * with one word in twelve taken from elsewhere, so that going round the text again gives new
 * documents. One line in ten is an exact copy of an earlier one, one in ten a copy with three
 * words changed.
 */
#include "10_full_model/data/prepare.h"

#include "common/core/rng.h"
#include "common/files/csv.h"
#include "common/program/options.h"
#include "common/program/plot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct DataOptions {
    CommonOptions common;
    const char *data, *out;
    int megabytes;
} DataOptions;

/* ---- the input ---- */

typedef struct Words {
    const char **word;
    int *bytes;
    size_t count;
} Words;

static Words split(const MappedFile *text) {
    Words w = {must_alloc(text->size, sizeof *w.word), must_alloc(text->size, sizeof(int)), 0};
    for (size_t i = 0; i < text->size;) {
        while (i < text->size && (unsigned char)text->data[i] <= ' ') i++;
        size_t start = i;
        while (i < text->size && (unsigned char)text->data[i] > ' ') i++;
        if (i == start || i - start > 30) continue;
        w.word[w.count] = text->data + start;
        w.bytes[w.count++] = (int)(i - start);
    }
    return w;
}

/* Document `number` as a JSON line; `variant` > 0 changes three of its words. */
static void write_line(FILE *stream, const Words *w, uint64_t number, uint64_t variant) {
    Philox p = philox(1, 1, number), v = philox(2, variant, number);
    size_t length = 200 + p.word[0] % 800, start = ((size_t)p.word[1] << 8) % w->count;
    fprintf(stream, "{\"id\": %llu, \"text\": \"", (unsigned long long)number);
    for (size_t i = 0; i < length; i++) {
        Philox r = philox(3, number, i);
        size_t at = (start + i) % w->count;
        if (r.word[0] % 12 == 0) at = r.word[1] % w->count;
        for (int k = 0; variant && k < 3; k++)
            if (v.word[k] % length == i) at = v.word[3] % w->count;
        for (int c = 0; c < w->bytes[at]; c++) {
            if (strchr("\"\\", w->word[at][c])) fputc('\\', stream);
            fputc(w->word[at][c], stream);
        }
        fputs(i % 60 == 59 ? "\\n" : " ", stream);
    }
    fputs("\"}\n", stream);
}

static int write_input(const char *path, const char *source, size_t bytes, Error *err) {
    MappedFile text;
    AtomicFile file;
    if (file_map(&text, source, err))
        return error_prefix(err,
                            "the text to make documents from (`make corpus`, or --data FILE): ");
    Words words = split(&text);
    int status = words.count < 2000 ? error_set(err, "%s: too short a text", source)
                                    : atomic_open(&file, path, err);
    if (!status) {
        for (uint64_t n = 0; (size_t)ftell(file.stream) < bytes; n++) {
            bool copy = n % 10 == 3, near = n % 10 == 6;
            write_line(file.stream, &words, copy ? n - 2 : near ? n - 4 : n, near ? n : 0);
        }
        status = atomic_commit(&file, err);
    }
    free(words.word), free(words.bytes);
    file_unmap(&text);
    return status;
}

static int run_pipeline(const DataOptions *b, Error *err) {
    char path[1024];
    snprintf(path, sizeof path, "%s/input.jsonl", b->out);
    if (make_directories(b->out, err) ||
        write_input(path, b->data, (size_t)b->megabytes * 1000000, err))
        return -1;
    const char *input = path;
    PrepareOptions o = prepare_defaults();
    PrepareReport report;
    o.paths = &input;
    o.path_count = 1;
    o.out = b->out;
    o.seed = b->common.seed;
    o.overwrite = true;
    if (prepare_run(&o, &report, err)) return -1;
    printf("%d threads\n", b->common.threads);
    return prepare_report_show(&o, &report, err);
}

/* ---- MinHash ---- */

/* Pairs of sets whose similarity is known: words that are numbers, shingles of one word. */
static void write_numbers(char *text, int first, int count) {
    for (int i = 0; i < count; i++) text += sprintf(text, "w%d ", first + i);
}

static int run_curve(const DataOptions *b, Error *err) {
    enum { WORDS = 300, PAIRS = 400, STEPS = 40 };
    static char x[WORDS * 12], y[WORDS * 12];
    uint16_t sx[MINHASH_MOST], sy[MINHASH_MOST];
    MinHash m;
    Csv csv;
    double similarity[STEPS + 1], found[STEPS + 1];
    minhash_init(&m, 16, 8, 1);
    const char *path = b->common.csv;
    if (csv_open(&csv, path,
                 "similarity,bands_16_rows_8,bands_32_rows_4,bands_8_rows_16,met,dropped", "cpu",
                 b->common.seed, err))
        return -1;
    for (int s = 0; s <= STEPS; s++) {
        int shared = (int)(2.0 * WORDS * s / STEPS / (1 + (double)s / STEPS) + 0.5);
        double j = (double)shared / (2 * WORDS - shared);
        int met = 0, dropped = 0;
        for (int pair = 0; pair < PAIRS; pair++) {
            int first = (s * PAIRS + pair) * 1000;
            write_numbers(x, first, WORDS);
            write_numbers(y, first + WORDS - shared, WORDS);
            minhash_signature(&m, x, strlen(x), sx);
            minhash_signature(&m, y, strlen(y), sy);
            bool meet = false;
            for (int band = 0; band < m.bands; band++)
                meet |= minhash_band(&m, sx, band) == minhash_band(&m, sy, band);
            met += meet;
            dropped += meet && minhash_similarity(&m, sx, sy) >= 0.8;
        }
        similarity[s] = j;
        found[s] = (double)dropped / PAIRS;
        csv_row(&csv, "%.4f,%.5f,%.5f,%.5f,%.4f,%.4f", j, minhash_probability(j, 16, 8),
                minhash_probability(j, 32, 4), minhash_probability(j, 8, 16), (double)met / PAIRS,
                found[s]);
    }
    if (csv_close(&csv, err)) return -1;
    text_line_chart("share of pairs found as near duplicates, by their similarity", similarity,
                    found, STEPS + 1, 8, 0);
    plot_or_explain("10_full_model/figures/minhash", path, NULL);
    return 0;
}

int main(int argc, char **argv) {
    DataOptions options = {.common.csv = "10_full_model/figures/out/minhash.csv",
                           .data = "build/corpus/bible.txt",
                           .out = "out/bench-data",
                           .megabytes = 64},
                *o = &options;
    const Option flags[] = {
        OPT_STRING("data", 'd', "FILE", &o->data, "Text to make documents from"),
        OPT_STRING("out", 'o', "DIR", &o->out, "Folder for input and shards"),
        OPT_INT("megabytes", 'm', "N", &o->megabytes, 0, 1 << 20,
                "Size of the input; 0: only MinHash"),
        OPT_CSV(&o->common),
        OPT_COMMON_OF(&o->common, COMMON_SEED | COMMON_THREADS),
        OPT_END};
    options_parse(argc, argv, "Measures the data pipeline.", flags);
    Error err;
    if ((o->megabytes && run_pipeline(o, &err)) || run_curve(o, &err)) fatal("%s", err.text);
    return 0;
}
