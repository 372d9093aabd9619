/*
 * What quantising a model has done to it: a table by layers, a CSV by matrices, and a drawing.
 */
#ifndef QUANTIZE_REPORT_H
#define QUANTIZE_REPORT_H

#include "10_full_model/model/model.h"

#include "08_quant/methods/quantise_decoder.h"

/* Of a model's matrices, of which `report` has those that were looked at; what it does not have, or
 * has no codes of, is plain and has the dtype `plain`. */
typedef struct QuantOutcome {
    const Params *params;
    const QuantReport *report;
    DType plain;
} QuantOutcome;

/* The table on stdout; OUT/quantize.csv (and csv, if it is not NULL), and OUT/quantize.svg. */
int quantize_report(const QuantOutcome *outcome, const char *out, const char *csv, Error *err);

#endif
