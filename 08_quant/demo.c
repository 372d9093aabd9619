/*
 * The demo: what formats of few bits lose, with an outlier and without; a small model that is
 * quantised by every method and asked what it still knows; and one that learns to be quantised.
 */
#include "08_quant/demo.h"

#include <stdio.h>

int main(int argc, char **argv) {
    static Demo d;
    DemoOptions *o = &d.options;
    *o =
        (DemoOptions){.common.csv = DEMO_OUT "methods.csv", .steps = 240, .layers = 4, .group = 32};
    const Option flags[] = {
        OPT_STRING("text", 't', "FILE", &o->text,
                   "Text to learn from (default: Genesis, from the program `bible`)"),
        OPT_INT("steps", 's', "N", &o->steps, 20, 100000, "Training steps"),
        OPT_INT("layers", 'l', "N", &o->layers, 1, 16, "Layers of the model"),
        OPT_INT("group", 'g', "32|64|128", &o->group, 32, 128, "Numbers of a row with one scale"),
        OPT_CSV(&o->common),
        OPT_COMMON_OF(&o->common, COMMON_SEED | COMMON_THREADS),
        OPT_END};
    Error err;
    options_parse(argc, argv,
                  "Rounds numbers, and a small model's weights, to 8 and 4 bits in many ways.",
                  flags);
    if (o->group & (o->group - 1)) options_error(argv, "--group must be 32, 64 or 128");
    options_open(&o->common, &d.ctx);
    printf("How few bits can a number have, and what is lost?\n\n");
    demo_formats(&d);
    demo_outliers(&d);
    if (demo_learn(&d, &err) || demo_methods(&d, &err)) fatal("%s", err.text);
    demo_places(&d);
    if (demo_qat(&d, &err)) fatal("%s", err.text);
    printf("Try: --group 128 (fewer scales), --steps 1000 (does a model that knows more lose\n"
           "     more?), --layers 8; and your own model:\n"
           "     10_full_model/deepseek quantize --help\n");
    return 0;
}
