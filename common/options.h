/*
 * Command lines: the flags that every program here knows, on top of glibc's argp.
 *
 *     --device cpu|cuda   --dtype f32|bf16   --seed N   --threads N   --csv FILE   --help   --usage
 *
 * A program puts a Common at the start of its own options, common_argp in its argp's children, and calls
 * options_parse(). A number that is not one, or is out of range, is an error that names the flag and the range; a wrong command line exits with 2.
 */
#ifndef COMMON_OPTIONS_H
#define COMMON_OPTIONS_H

#include "context.h"

#include <argp.h>

typedef struct CommonOptions {
    Device device;
    DType dtype;
    uint64_t seed;
    int threads;     /* 0: as many as there are cores */
    const char *csv; /* NULL: no file, or the program's default place */
} CommonOptions;

extern const struct argp_child common_argp[]; /* {argp of the flags above}, {0}: its input is a CommonOptions * */

/*
 * Parses argv with the program's own argp. `common` is filled with the defaults (cpu, f32, seed 1) first, applied after
 * (number of OpenMP and BLAS threads). Inside the program's parser, case ARGP_KEY_INIT must do
 * state->child_inputs[0] = &options->common.
 */
void options_parse(const struct argp *argp, int argc, char **argv, CommonOptions *common, void *input);

/* For a parser: the value of a flag, or an exit with 2 and a message that names flag and range. */
long option_integer(const struct argp_state *state, const char *flag, const char *text, long low, long high);
double option_number(const struct argp_state *state, const char *flag, const char *text, double low, double high);

/* context_init with the flags' device, dtype and seed; prints the error and exits with 1 if the device is not there. */
void options_open(const CommonOptions *common, Context *ctx);

#endif
