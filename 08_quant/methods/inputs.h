/*
 * What a linear layer is given, watched at the door of quantised weights.
 *
 * Which rounding of a weight is best depends on the inputs it will be multiplied with. A model's
 * code has no place where one could look at them, and needs none: a weight that says it is
 * quantised is multiplied by a table of products of its own (common/core/quantised.h). A Tap is
 * such a table. It hands a copy of the inputs to a function, which may note them or change them,
 * and then multiplies what came back with the weight's numbers, which are plain F32 all along.
 *
 *     tap_open(&tap, w, see, user)   ...the model runs...   tap_close(&tap)
 *
 * InputStats are what the methods of this folder want to know of an input X [rows, in].
 *
 * CPU, F32, recording off.
 */
#ifndef QUANT_INPUTS_H
#define QUANT_INPUTS_H

#include "common/core/quantised.h"

__BEGIN_DECLS

/* x [rows, in] may be overwritten; expert: whose rows they are, 0 of a layer without experts. It
 * is not called for experts without rows. */
typedef void (*TapFunction)(void *user, float *x, int64_t rows, int64_t in, int expert);

typedef struct Tap {
    Quantised door; /* first: what the weight's `quantised` points to */
    Tensor *weight;
    DType dtype; /* the weight's own */
    TapFunction see;
    void *user;
} Tap;

/* weight [out, in] or [E, out, in]; the Tap must stay where it is until it is closed. */
void tap_open(Tap *tap, Tensor *weight, TapFunction see, void *user);
void tap_close(Tap *tap);

enum { INPUT_SAMPLES = 128 };

typedef struct InputStats {
    int64_t in, rows;         /* how many rows were seen */
    float *gram;              /* [in, in]: X^T X, all that input_square() needs */
    float *sum_abs, *max_abs; /* [in]: of each column */
    float *sample;            /* [samples, in]: every stride-th row */
    int64_t samples, stride;
} InputStats;

/* For about `rows` rows, of which at most INPUT_SAMPLES are kept. */
void input_stats_init(InputStats *stats, int64_t in, int64_t rows);
void input_stats_free(InputStats *stats);
void input_stats_add(InputStats *stats, const float *x, int64_t rows);

/* Adds what another has seen, but for its sample. */
void input_stats_join(InputStats *stats, const InputStats *other);

/* As if X[:, j] had been X[:, j] / s[j]. */
void input_stats_divide(InputStats *stats, const float *s);

/* ||X w^T||^2 over all rows seen = sum over rows of w of  w gram w^T;   w [out, in] */
double input_square(const InputStats *stats, const float *w, int64_t out);

__END_DECLS
#endif
