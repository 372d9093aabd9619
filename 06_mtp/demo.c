/*
 * The demo: trains a small model with modules that look further ahead, and without; then the
 * modules guess what the model is about to write.
 */
#include "06_mtp/demo.h"
#include "06_mtp/demo_speculate.h"

#include <stdio.h>

static void write_character(void *user, int32_t id) {
    const Demo *d = user;
    uint8_t byte = d->text.alphabet.byte[id];
    putchar(byte < ' ' ? ' ' : byte);
}

/* From the first characters of the text that was kept back, to the last place there is. */
static void speculate(Demo *d) {
    enum { PROMPT = 8 };
    DemoSpeculate s = {.ctx = &d->ctx,
                       .mtp = &d->with.mtp,
                       .prompt = d->text.ids + d->text.train,
                       .prompt_tokens = PROMPT,
                       .new_tokens = DEMO_CONTEXT - PROMPT - DEMO_DRAFTS - 1,
                       .write = write_character,
                       .user = d,
                       .csv = DEMO_OUT "guesses.csv"};
    printf("4. The modules guess, and the model only checks\n");
    demo_speculate(&s);
    printf("\n");
}

int main(int argc, char **argv) {
    static Demo d;
    DemoOptions *o = &d.options;
    *o = (DemoOptions){
        .common.csv = DEMO_OUT "loss.csv", .steps = 240, .layers = 8, .depth = 2, .lambda = 0.3};
    const Option flags[] = {
        OPT_STRING("text", 't', "FILE", &o->text,
                   "Text to learn from (default: Genesis, from the program `bible`)"),
        OPT_INT("steps", 's', "N", &o->steps, 20, 100000, "Training steps of each run"),
        OPT_INT("layers", 'l', "N", &o->layers, 1, 16, "Layers of the model"),
        OPT_INT("mtp", 'D', "D", &o->depth, 1, MTP_MAX_DEPTH, "Modules, each one token further"),
        OPT_FLOAT("mtp-lambda", 'L', "X", &o->lambda, 0, 100, "Weight of their losses together"),
        OPT_CSV(&o->common),
        OPT_COMMON(&o->common),
        OPT_END};
    Error err;
    options_parse(
        argc, argv,
        "Trains a small model with modules that predict further tokens, and lets them guess.",
        flags);
    options_open(&o->common, &d.ctx);
    printf("What can a model say beyond the next token?\n\n");
    if (demo_train(&d, &err)) fatal("%s", err.text);
    speculate(&d);
    printf("Try: --mtp 4 (how fast does it get hard?), --mtp-lambda 0 (modules that learn\n"
           "     nothing), --mtp-lambda 3 (does the next token suffer?), --steps 2000\n");
    return 0;
}
