/*
 * The demo's second half. All times are of one text, greedy: what is said is the same however it is
 * guessed, and pays_measure() makes sure of it.
 */
#include "06_mtp/demo_speculate.h"

#include "common/program/plot.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Guessed tokens are underlined on a terminal; elsewhere they stand in brackets, neighbours
 * together. */
static void print_passage(const DemoSpeculate *d, const int32_t *text, const bool *guessed) {
    bool terminal = isatty(STDOUT_FILENO), inside = false;
    printf("\n   ");
    for (int i = d->prompt_tokens; i < d->prompt_tokens + d->new_tokens; i++) {
        if (guessed[i] != inside)
            fputs(terminal ? guessed[i] ? "\033[4m" : "\033[0m" : guessed[i] ? "[" : "]", stdout);
        inside = guessed[i];
        d->write(d->user, text[i]);
    }
    printf("%s\n\n", inside ? terminal ? "\033[0m" : "]" : "");
}

static void print_row(int drafts, const Pays *p) {
    char kept[DEMO_DRAFTS][8] = {""};
    for (int j = 0; j < drafts; j++) snprintf(kept[j], sizeof kept[j], "%.0f %%", 100 * p->a[j]);
    printf("   %4d   %5s %5s %5s %5s   %6.2f   %5.2f  %5.2f  %7.2fx  %7.2fx\n", drafts, kept[0],
           kept[1], kept[2], kept[3], p->tokens, p->V, p->c, p->predicted, p->measured);
    fflush(stdout);
}

double demo_speculate(const DemoSpeculate *d) {
    size_t count = (size_t)(d->prompt_tokens + d->new_tokens);
    int32_t *text = must_alloc(count, sizeof *text);
    bool *guessed = must_alloc(count, sizeof *guessed), *best_guessed = must_alloc(count, 1);
    Pays best = {0};
    int best_drafts = 0;
    Csv csv = figure_open(d->ctx, d->csv, "drafts,a1,a2,a3,a4,tokens,V,c,predicted,measured");
    printf("   %d tokens, the likeliest ones, made plainly and with guesses: the same text\n"
           "   each time.\n\n"
           "   drafts   kept, draft by draft    tokens   a look  draft      speed-up\n"
           "   a step   1st   2nd   3rd   4th   a step     V       c   predicted measured\n",
           d->new_tokens);
    for (int drafts = 1; drafts <= DEMO_DRAFTS; drafts++) {
        PaysTask task = {.ctx = d->ctx,
                         .mtp = d->mtp,
                         .position = d->position,
                         .prompt = d->prompt,
                         .prompt_tokens = d->prompt_tokens,
                         .new_tokens = d->new_tokens,
                         .vocabulary = d->vocabulary,
                         .vocabulary_size = d->vocabulary_size,
                         .drafts = drafts,
                         .seconds = 1};
        Pays p = pays_measure(&task, text, guessed);
        print_row(drafts, &p);
        csv_row(&csv, "%d,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f", drafts, p.a[0], p.a[1],
                p.a[2], p.a[3], p.tokens, p.V, p.c, p.predicted, p.measured);
        if (p.measured <= best.measured) continue;
        best = p, best_drafts = drafts;
        for (size_t i = 0; i < count; i++) best_guessed[i] = guessed[i];
    }
    printf("\n   A plain step takes %.0f us and makes one token. With %d draft%s a step makes\n"
           "   %.2f, for %.2f + %d x %.2f plain steps.\n",
           1e6 * best.plain, best_drafts, best_drafts == 1 ? "" : "s", best.tokens, best.V,
           best_drafts, best.c);
    printf("   What the modules guessed right, and nobody had to wait for, is %s:\n",
           isatty(STDOUT_FILENO) ? "underlined" : "in brackets");
    print_passage(d, text, best_guessed);
    figure_close(&csv, "06_mtp/figures/guesses");
    free(text);
    free(guessed);
    free(best_guessed);
    return best.measured;
}
