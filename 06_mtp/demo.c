/*
 * The demo: trains a small model with modules that look further ahead, and without.
 */
#include "06_mtp/demo.h"

#include <stdio.h>

int main(int argc, char **argv) {
    static Demo d;
    DemoOptions *o = &d.options;
    *o = (DemoOptions){
        .common.csv = DEMO_OUT "loss.csv", .steps = 300, .layers = 3, .depth = 2, .lambda = 0.3};
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
    options_parse(argc, argv,
                  "Trains a small model with modules that predict further tokens, and without.",
                  flags);
    options_open(&o->common, &d.ctx);
    printf("What can a model say beyond the next token?\n\n");
    if (demo_train(&d, &err)) fatal("%s", err.text);
    printf("Try: --mtp 4 (how fast does it get hard?), --mtp-lambda 3 (does the next token "
           "suffer?),\n     --mtp-lambda 0 (modules that learn nothing), --steps 2000\n");
    return 0;
}
