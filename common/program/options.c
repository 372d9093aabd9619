#include "common/program/options.h"

#include "common/core/blas.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Keys above 255 have no one-letter flag; programs may use any letters for their own. */
enum { KEY_DEVICE = 0x1000, KEY_DTYPE, KEY_SEED, KEY_THREADS, KEY_CSV };
enum { MAX_THREADS = 1024 };

static const struct argp_option flags[] = {
    {NULL, 0, NULL, 0, "In every program:", 0},
    {"device", KEY_DEVICE, "cpu|cuda", 0, "Where to compute (default cpu)", 0},
    {"dtype", KEY_DTYPE, "f32|bf16", 0, "Numbers to compute with; bf16 needs cuda (default f32)",
     0},
    {"seed", KEY_SEED, "N", 0, "Seed of all random numbers (default 1)", 0},
    {"threads", KEY_THREADS, "N", 0, "CPU threads (default 0: one per core)", 0},
    {"csv", KEY_CSV, "FILE", 0, "Write the numbers of the run to FILE", 0},
    {0},
};

long option_integer(const struct argp_state *state, const char *flag, const char *text, long low,
                    long high) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (end == text || *end)
        argp_error(state, "%s: '%s' is not a whole number", flag, text);
    else if (errno == ERANGE || value < low || value > high)
        argp_error(state, "%s: %s is not between %ld and %ld", flag, text, low, high);
    return value;
}

double option_number(const struct argp_state *state, const char *flag, const char *text, double low,
                     double high) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || isnan(value))
        argp_error(state, "%s: '%s' is not a number", flag, text);
    else if (!(value >= low && value <= high)) /* an overflow is infinite, so outside too */
        argp_error(state, "%s: %s is not between %g and %g", flag, text, low, high);
    return value;
}

/* A seed uses all 64 bits, which a long has not; strtoull would take "-1". */
static uint64_t parse_seed(const struct argp_state *state, const char *text) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (end == text || *end || strchr(text, '-'))
        argp_error(state, "--seed: '%s' is not a whole number from 0 on", text);
    else if (errno == ERANGE)
        argp_error(state, "--seed: %s needs more than 64 bits", text);
    return value;
}

/* The position of text among the choices; an exit with 2 if it is none of them. */
static int parse_choice(const struct argp_state *state, const char *flag, const char *text,
                        const char *first, const char *second) {
    if (strcmp(text, first) == 0) return 0;
    if (strcmp(text, second) == 0) return 1;
    argp_error(state, "%s: '%s' is neither %s nor %s", flag, text, first, second);
    return 0;
}

static error_t parse_common(int key, char *value, struct argp_state *state) {
    CommonOptions *common = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        CHECK(common, "the program's parser must set state->child_inputs[0]");
        return 0;
    case KEY_DEVICE:
        common->device = parse_choice(state, "--device", value, "cpu", "cuda") ? CUDA : CPU;
        return 0;
    case KEY_DTYPE:
        common->dtype = parse_choice(state, "--dtype", value, "f32", "bf16") ? BF16 : F32;
        return 0;
    case KEY_SEED:
        common->seed = parse_seed(state, value);
        return 0;
    case KEY_THREADS:
        common->threads = (int)option_integer(state, "--threads", value, 0, MAX_THREADS);
        return 0;
    case KEY_CSV:
        common->csv = value;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp common = {flags, parse_common, NULL, NULL, NULL, NULL, NULL};
/* A group of its own, after the program's flags and before --help. */
const struct argp_child common_argp[] = {{&common, 0, NULL, 100}, {0}};

void options_parse(const struct argp *argp, int argc, char **argv, CommonOptions *options,
                   void *input) {
    *options = (CommonOptions){.device = CPU, .dtype = F32, .seed = 1};
    argp_err_exit_status = 2; /* argp's own choice is 64 */
    argp_parse(argp, argc, argv, 0, NULL, input);
    blas_set_threads(options->threads);
    options->threads = blas_threads();
}

void options_open(const CommonOptions *options, Context *ctx) {
    Error err;
    if (context_init(ctx, options->device, options->dtype, options->seed, &err))
        fatal("%s", err.text);
}
