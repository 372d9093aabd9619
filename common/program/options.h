/*
 * Command lines: the flags that every program here knows, on top of glibc's argp.
 *
 *     --device cpu|cuda   --dtype f32|bf16   --seed N   --threads N   --csv FILE   --help   --usage
 *
 * A program puts a CommonOptions into its own options, common_argp into its argp's children, and
 * calls options_parse(). A number that is not one, or is out of range, is an error that names the
 * flag and the range; a wrong command line exits with 2. Example:
 *
 *     static error_t parse(int key, char *value, struct argp_state *state) {
 *         DemoOptions *options = state->input;
 *         switch (key) {
 *         case ARGP_KEY_INIT: state->child_inputs[0] = &options->common; return 0;
 *         case 't': options->n = (int)option_integer(state, "--tokens", value, 1, 64); return 0;
 *         default: return ARGP_ERR_UNKNOWN;
 *         }
 *     }
 */
#ifndef COMMON_OPTIONS_H
#define COMMON_OPTIONS_H

#include "common/core/context.h"

#include <argp.h>

typedef struct CommonOptions {
    Device device;
    DType dtype;
    uint64_t seed;
    int threads; /* 0 on the command line: one per core. After options_parse(): the number in use */
    const char *csv; /* NULL: no file, or the program's default place */
} CommonOptions;

/* {argp of the flags above}, {0}: its input is a CommonOptions * */
extern const struct argp_child common_argp[];

/*
 * Parses argv with the program's own argp, whose parser gets `input`. *common is filled with the
 * defaults (cpu, f32, seed 1) before, and the number of threads is handed to OpenMP and OpenBLAS
 * after. Without --threads, OMP_NUM_THREADS counts.
 */
void options_parse(const struct argp *argp, int argc, char **argv, CommonOptions *common,
                   void *input);

/* For a parser: the value of a flag, or an exit with 2 and a message that names flag and range. */
long option_integer(const struct argp_state *state, const char *flag, const char *text, long low,
                    long high);
double option_number(const struct argp_state *state, const char *flag, const char *text, double low,
                     double high);

/* context_init with the flags' device, dtype and seed; prints the error and exits with 1 if the
 * device is not there. */
void options_open(const CommonOptions *common, Context *ctx);

#endif
