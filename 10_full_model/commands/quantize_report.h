/*
 * What quantising a model has done to it: a row for each of its matrices, shown as a table by
 * layers, written as CSV by matrices, and drawn.
 */
#ifndef QUANTIZE_REPORT_H
#define QUANTIZE_REPORT_H

#include "10_full_model/checkpoint/stored.h"

typedef struct QuantRow {
    Tensor *weight;     /* of the plain model */
    char why[64];       /* it stays plain; "": it does not, and then */
    QuantFormat format; /* in memory */
    void *codes;
    float *scales;
    double size, before, after; /* squares added up: of what should come out, and of the errors of
                                   plain rounding and of the method */
} QuantRow;

typedef struct QuantRows {
    QuantRow *list;
    int count, layers; /* layers: with modules for multi-token prediction */
    int64_t numbers;   /* in all matrices */
} QuantRows;

/* All matrices of the model, nothing decided yet. */
QuantRows quant_rows(const Model *model);
void quant_rows_free(QuantRows *rows);

/* Adds a part of the weight, as it was and as it came back: errors of rounding. */
void quant_row_add(QuantRow *row, const float *was, const float *is, int64_t count);

/* The table on stdout; OUT/quantize.csv (and csv, if it is not NULL), and OUT/quantize.svg. plain:
 * dtype of what is not quantised. */
int quant_report(const QuantRows *rows, const char *out, const char *csv, DType plain, Error *err);

#endif
