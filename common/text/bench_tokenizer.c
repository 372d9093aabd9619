/*
 * How fast the tokenizer trains and encodes.
 *
 *     make common/text/bench_tokenizer
 *     common/text/bench_tokenizer --data TEXT [--vocab N] [--threads N]
 *
 * trains N - 257 merges (2,048 unless told otherwise) on TEXT, then encodes TEXT with one thread
 * and with all of them, and decodes it again. Each row is the best of five.
 */
#include "common/program/options.h"
#include "common/text/text_file.h"
#include "common/text/tokenizer.h"

#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPEATS = 5 };

static void row(const char *what, double seconds, size_t bytes) {
    printf("%-24s %8.1f ms %8.1f MB/s\n", what, 1e3 * seconds, (double)bytes / seconds * 1e-6);
}

static int32_t *time_encode(const Tokenizer *tokenizer, const MappedFile *text, int threads,
                            size_t *count) {
    int32_t *ids = NULL;
    double best = 1e30;
    omp_set_num_threads(threads);
    for (int i = 0; i < REPEATS; i++) {
        free(ids);
        double start = omp_get_wtime();
        ids = tokenizer_encode(tokenizer, text->data, text->size, count);
        double seconds = omp_get_wtime() - start;
        if (seconds < best) best = seconds;
    }
    char what[64];
    snprintf(what, sizeof what, "encode, %d thread%s", threads, threads == 1 ? "" : "s");
    row(what, best, text->size);
    return ids;
}

static void time_decode(const Tokenizer *tokenizer, const MappedFile *text, const int32_t *ids,
                        size_t count) {
    double best = 1e30;
    bool same = true;
    for (int i = 0; i < REPEATS; i++) {
        size_t size;
        double start = omp_get_wtime();
        char *decoded = tokenizer_decode(tokenizer, ids, count, &size);
        double seconds = omp_get_wtime() - start;
        if (seconds < best) best = seconds;
        same = same && size == text->size && memcmp(decoded, text->data, size) == 0;
        free(decoded);
    }
    row("decode", best, text->size);
    if (!same) fatal("decode(encode(text)) is not the text");
}

int main(int argc, char **argv) {
    CommonOptions common = {0};
    const char *data = "build/corpus/bible.txt";
    int vocab_size = 2048 + 257;
    const Option flags[] = {
        OPT_STRING("data", 'd', "FILE", &data, "Text to learn from and to encode"),
        OPT_INT("vocab", 'v', "N", &vocab_size, 257, 1 << 20, "Tokens to learn"),
        OPT_COMMON_OF(&common, COMMON_THREADS), OPT_END};
    options_parse(argc, argv, "Measures the tokenizer: training, encoding, decoding.", flags);
    Error err;
    MappedFile text;
    if (text_file_map(&text, data, &err) < 0) fatal("%s", err.text);
    double start = omp_get_wtime();
    Tokenizer *tokenizer = tokenizer_train(text.data, text.size, vocab_size, NULL, NULL, &err);
    if (!tokenizer) fatal("%s: %s", data, err.text);
    double seconds = omp_get_wtime() - start;
    printf("%s: %zu bytes, vocabulary %d\n", data, text.size, tokenizer_vocab_size(tokenizer));
    row("train", seconds, text.size);

    size_t count;
    int threads = omp_get_max_threads();
    int32_t *ids = time_encode(tokenizer, &text, 1, &count);
    for (int n = 2; n <= threads; n *= 2) {
        free(ids);
        ids = time_encode(tokenizer, &text, n, &count);
    }
    time_decode(tokenizer, &text, ids, count);
    printf("%zu tokens, %.2f bytes each\n", count, (double)text.size / (double)count);
    free(ids);
    tokenizer_free(tokenizer);
    file_unmap(&text);
    return 0;
}
