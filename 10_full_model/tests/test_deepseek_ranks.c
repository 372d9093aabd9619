/*
 * The programs as several ranks, as processes: answers and pairs are shared as text is, one rank
 * alone writes, and a disk that is full is said once.
 */
#include "10_full_model/tests/test_deepseek.h"

#define SIZES(out, steps) \
    "--out", path_in(w.directory, out), "--steps", steps, "--overwrite", "--threads", "1"
#define LAUNCH(n, ...) DEEPSEEK("launch", "-n", n, "--", __VA_ARGS__)

/* The rows of metrics.csv without what the clock says. */
static const char *rows_of(const Scratch *w, const char *out) {
    static char text[2][20000];
    static int turn;
    char line[4000], *kept = text[turn ^= 1];
    bool skipped[64] = {false};
    int used = 0;
    FILE *file = fopen(path_in(path_in(w->directory, out), "metrics.csv"), "r");
    cr_assert_not_null(file);
    while (fgets(line, sizeof line, file)) {
        char *at = line, *cell;
        if (*line == '#') continue;
        for (int column = 0; (cell = strsep(&at, ",\n")); column++) {
            skipped[column] |= strstr(cell, "time") || strstr(cell, "second");
            if (!skipped[column]) used += sprintf(kept + used, "%.7s,", cell);
        }
        used += sprintf(kept + used, "\n");
    }
    fclose(file);
    return kept;
}

/* Numbers of 7 characters: what is left of them after sums in another order. */
Test(deepseek_ranks, learn_from_answers_as_one_does) {
    Scratch w = workplace();
    Output o = DEEPSEEK("sft", "--config", "nano", "--task", "addition", "--digits", "1", "--batch",
                        "16", "--peak", "1", SIZES("sums", "20"));
    expect(&o, 0, "Done after 20 steps");
    const char *first = NULL;
    for (int n = 1; n <= 2; n++) {
        char out[8] = {'o', (char)('0' + n)}, ranks[2] = {(char)('0' + n)};
        o = LAUNCH(ranks, "grpo", "--model", path_in(w.directory, "sums"), "--task", "addition",
                   "--digits", "1", "--prompts", "4", "--num-generations", "4", "--eval-every", "2",
                   "--eval-prompts", "8", "--num-generations-eval", "4", SIZES(out, "2"));
        expect(&o, 0, "Done after 2 steps");
        const char *rows = rows_of(&w, out);
        cr_assert(!first || !strcmp(first, rows), "one:\n%s%d:\n%s", first, n, rows);
        first = rows;
    }
}

/* Pairs of different lengths, so padded windows that count each of their tokens. */
Test(deepseek_ranks, learn_from_pairs_as_one_does) {
    Scratch w = workplace();
    const char *first = NULL;
    for (int n = 1; n <= 2; n++) {
        char out[8] = {'o', (char)('0' + n)}, ranks[2] = {(char)('0' + n)};
        Output o = LAUNCH(ranks, "sft", "--config", "nano", "--task", "countdown", "--digits", "3",
                          "--batch", "8", "--eval-every", "2", "--eval-batches", "1", "--peak", "0",
                          "--deterministic", SIZES(out, "4"));
        expect(&o, 0, "Done after 4 steps");
        const char *rows = rows_of(&w, out);
        cr_assert(!first || !strcmp(first, rows), "one:\n%s%d:\n%s", first, n, rows);
        first = rows;
    }
}

Test(deepseek_ranks, what_ranks_cannot_share_is_named) {
    Scratch w = workplace();
    Output o = LAUNCH("2", TRAINING(&w, "out"), "--threads", "1", "--steps", "2", "--batch", "3");
    expect(&o, 1, "cannot be shared evenly by 2 ranks; --batch 4 could");
    o = LAUNCH("4", TRAINING(&w, "out"), "--threads", "1", "--steps", "2", "--expert-parallel",
               "4");
    expect(&o, 1, "6 experts cannot be spread evenly over 4 ranks; over 3");
    o = LAUNCH("2", TRAINING(&w, "out"), "--threads", "1", "--steps", "2", "--expert-parallel",
               "3");
    expect(&o, 1, "--expert-parallel 3 does not divide 2 ranks");
}

/* One of two ranks, which meet by a file. */
static Process rank_start(Scratch *w, int rank, long file_size, const char *const *arguments) {
    char number[2] = {(char)('0' + rank)};
    setenv("RANK", number, 1), setenv("LOCAL_RANK", number, 1), setenv("WORLD_SIZE", "2", 1);
    setenv("DEEPSEEK_BOOTSTRAP", path_in(w->directory, "meet"), 1);
    Process p = process_start((Start){.file_size = file_size}, arguments);
    unsetenv("RANK"), unsetenv("LOCAL_RANK"), unsetenv("WORLD_SIZE"),
        unsetenv("DEEPSEEK_BOOTSTRAP");
    return p;
}

/* Rank 0's ends both with one message; the other writes nothing, and does not notice. */
Test(deepseek_ranks, a_disk_that_is_full) {
    for (int full = 0; full < 2; full++) {
        Scratch w = workplace();
        const char *const *train =
            ARGUMENTS(TRAINING(&w, "out"), "--threads", "1", "--steps", "4", "--eval-every", "2");
        Process ranks[2];
        for (int r = 0; r < 2; r++) ranks[r] = rank_start(&w, r, r == full ? 9000 : 0, train);
        Output ends[2];
        for (int r = 0; r < 2; r++) ends[r] = process_end(&ranks[r]);
        for (int r = 0; r < 2; r++)
            cr_assert(ends[r].status == (full == 0), "full %d, rank %d: status %d\n%s", full, r,
                      ends[r].status, ends[r].err);
        if (full) continue;
        char both[sizeof ends[0].err * 2];
        snprintf(both, sizeof both, "%s%s", ends[0].err, ends[1].err);
        char *at = strstr(both, "saving at step 2");
        cr_assert(at && strstr(both, "rank 0"), "%s", both);
        cr_assert(!strstr(at + 1, "saving at step"), "said twice:\n%s", both);
    }
}
