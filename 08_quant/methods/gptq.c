/*
 * U without inverting H: turn H's rows and columns around, H' = L L^T (Cholesky), invert L, which
 * is triangular and cheap, and turn it around again: U = J L^-1 J is upper triangular, and
 * U^T U = J (L L^T)^-1 J = H^-1. In double precision: H is close to singular.
 *
 * Errors are carried to the columns of the same batch at once and to all later ones when the batch
 * is done, as one product ("lazy batch updates"). Rows do not know of each other.
 */
#include "08_quant/methods/gptq.h"

#include "common/core/cpu_matmul.h"
#include "common/core/memory.h"

#include <f77blas.h>
#include <math.h>
#include <stdlib.h>

/* The work on one matrix, with its columns in the order in which they are rounded. */
typedef struct Work {
    int64_t out, in, group; /* columns of a scale */
    const int *order;       /* [in]: column i of w here is order[i] of the caller's */
    float *w;               /* [out, in] */
    float *u;               /* [in, in] */
    float *scales;          /* [out, in / group], by the caller's columns */
    bool current;           /* scales are made on the way */
    const QuantFormat *format;
} Work;

/* u F32 [n, n]: U of H = gram + damping, in this order of columns. */
static int inverse_factor(float *u, const float *gram, const int *order, int n, float damp,
                          Error *err) {
    double *l = must_alloc((size_t)n * (size_t)n, sizeof *l), mean = 0;
    for (int i = 0; i < n; i++) mean += gram[(int64_t)i * n + i] / (double)n;
    for (int i = 0; i < n; i++) /* turned around */
        for (int j = 0; j < n; j++)
            l[(int64_t)i * n + j] = gram[(int64_t)order[n - 1 - i] * n + order[n - 1 - j]];
    for (int i = 0; i < n; i++) {
        double *diagonal = &l[(int64_t)i * n + i];
        if (*diagonal == 0) *diagonal = 1; /* its inputs are zero: no column can help it */
        *diagonal += damp * mean;
    }
    int info = 0;
    dpotrf_("U", &n, l, &n, &info); /* Fortran's upper triangle is C's lower one */
    if (!info) dtrtri_("U", "N", &n, l, &n, &info);
    for (int64_t i = 0; i < n && !info; i++)
        for (int64_t j = 0; j < n; j++)
            u[i * n + j] = j < i ? 0 : (float)l[(n - 1 - i) * n + n - 1 - j];
    free(l);
    if (!info) return 0;
    return error_set(err,
                     "the inputs' X^T X is not positive definite (column %d of %d): too few "
                     "tokens for so many inputs. Use a longer text, or a larger damping than "
                     "%g",
                     info, n, (double)damp);
}

/* Columns from .. to - 1 of one row; error [to - from] gets -e. */
static void round_row(const Work *k, float *row, float *scales, float *error, int64_t from,
                      int64_t to) {
    for (int64_t i = from; i < to; i++) {
        float *scale = &scales[k->order[i] / k->group];
        if (k->current && i % k->group == 0) { /* of the weights as they are now */
            float amax = 0;
            for (int64_t j = i; j < i + k->group; j++) amax = fmaxf(amax, fabsf(row[j]));
            *scale = quant_scale(amax, k->format);
        }
        const float *u = k->u + i * k->in;
        float q = *scale * quant_round(row[i] / *scale, k->format->dtype);
        float e = (row[i] - q) / u[i];
        row[i] = q;
        error[i - from] = -e;
        for (int64_t j = i + 1; j < to; j++) row[j] -= e * u[j];
    }
}

static void round_columns(const Work *k) {
    int64_t in = k->in, groups = in / k->group;
    /* Whole groups, so that all of a group's columns have been carried to when its scale is made;
     * a row's only scale is made at the very beginning. */
    int64_t batch = k->group >= in ? 128 : k->group >= 128 ? k->group : 128 / k->group * k->group;
    float *errors = must_alloc((size_t)(k->out * batch), sizeof *errors);
    for (int64_t from = 0; from < in; from += batch) {
        int64_t to = from + batch < in ? from + batch : in;
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < k->out; r++)
            round_row(k, k->w + r * in, k->scales + r * groups, errors + r * batch, from, to);
        if (to < in)
            cpu_matmul(&(CpuMatmul){.c = k->w + to,
                                    .base = k->w + to,
                                    .c_row = in,
                                    .a = {errors, batch, 1},
                                    .b = {k->u + from * in + to, in, 1},
                                    .m = k->out,
                                    .n = in - to,
                                    .k = to - from});
    }
    free(errors);
}

typedef struct Column {
    float size;
    int index;
} Column;

/* The largest first; of equals the first. */
static int compare(const void *a, const void *b) {
    const Column *x = a, *y = b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return x->index - y->index;
}

static void choose_order(int *order, const float *gram, int n, bool by_size) {
    Column *columns = must_alloc((size_t)n, sizeof *columns);
    for (int i = 0; i < n; i++) columns[i] = (Column){gram[(int64_t)i * n + i], i};
    if (by_size) qsort(columns, (size_t)n, sizeof *columns, compare);
    for (int i = 0; i < n; i++) order[i] = columns[i].index;
    free(columns);
}

int gptq(float *w, float *scales, const float *gram, int64_t out, int64_t in,
         const QuantFormat *format, GptqSettings settings, Error *err) {
    CHECK(format->block_out == 1 && (format->dtype == U8 || format->dtype == I4),
          "gptq: %s in blocks of %d rows", dtype_name(format->dtype), format->block_out);
    int64_t group = format->block_in ? format->block_in : in;
    float *sorted = must_realloc(NULL, (size_t)(out * in), sizeof *sorted);
    float *u = must_realloc(NULL, (size_t)(in * in), sizeof *u);
    int *order = must_alloc((size_t)in, sizeof *order);
    Work work = {out, in, group, order, sorted, u, scales, !settings.act_order, format};
    choose_order(order, gram, (int)in, settings.act_order);
    /* Its scales are kept, or made anew on the way; and what it finds wrong, we would. */
    int status = quant_round_trip(sorted, scales, w, out, in, format, err);
    if (!status) status = inverse_factor(u, gram, order, (int)in, settings.damp, err);
    if (!status) {
        for (int64_t r = 0; r < out; r++)
            for (int64_t i = 0; i < in; i++) sorted[r * in + i] = w[r * in + order[i]];
        round_columns(&work);
        for (int64_t r = 0; r < out; r++)
            for (int64_t i = 0; i < in; i++) w[r * in + order[i]] = sorted[r * in + i];
    }
    free(sorted);
    free(u);
    free(order);
    return status;
}
