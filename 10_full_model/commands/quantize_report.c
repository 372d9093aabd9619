/*
 * Errors are relative norms, ||difference|| / ||wanted||, so those of several matrices are put
 * together as squares.
 */
#include "10_full_model/commands/quantize_report.h"

#include "common/files/csv.h"
#include "common/files/files.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

QuantRows quant_rows(const Model *model) {
    const Params *params = &model->params;
    QuantRows rows = {.list = must_alloc((size_t)params->count, sizeof *rows.list)};
    for (int i = 0; i < params->count; i++) {
        Tensor *weight = params->list[i];
        int layer = weight_layer(weight->name);
        if (weight->ndim < 2) continue;
        rows.list[rows.count++].weight = weight;
        rows.numbers += tensor_count(weight);
        if (layer >= rows.layers) rows.layers = layer + 1;
    }
    return rows;
}

void quant_rows_free(QuantRows *rows) {
    for (int i = 0; i < rows->count; i++) {
        free(rows->list[i].codes);
        free(rows->list[i].scales);
    }
    free(rows->list);
    *rows = (QuantRows){0};
}

void quant_row_add(QuantRow *row, const float *was, const float *is, int64_t count) {
    double size = 0, error = 0;
    for (int64_t i = 0; i < count; i++) {
        double difference = (double)is[i] - was[i];
        error += difference * difference;
        size += (double)was[i] * was[i];
    }
    row->size += size;
    row->before += error;
    row->after += error;
}

static double relative(double error, double size) { return size > 0 ? sqrt(error / size) : 0; }

/* Bits that a number of this matrix takes, its share of the scales included. */
static double bits_of(const QuantRow *row, DType plain) {
    const Tensor *w = row->weight;
    return *row->why ? 8 * (double)dtype_size(plain)
                     : quant_bits(&row->format, w->shape[w->ndim - 2], tensor_dim(w, -1));
}

/* "kv_b_proj" of "model.layers.0.self_attn.kv_b_proj.weight". */
static const char *short_name(const ModuleName *module) {
    const char *dot = strrchr(module->text, '.');
    return dot ? dot + 1 : module->text;
}

static void print_layer(const QuantRows *rows, int layer) {
    QuantRow sum = {0};
    char high[400] = "";
    for (int i = 0; i < rows->count; i++) {
        const QuantRow *row = &rows->list[i];
        if (weight_layer(row->weight->name) != layer) continue;
        sum.size += row->size, sum.before += row->before, sum.after += row->after;
        if (!*row->why || !strcmp(row->why, "always")) continue;
        size_t used = strlen(high);
        ModuleName module = stored_module(row->weight->name);
        snprintf(high + used, sizeof high - used, "%s%*s%s: %s", used ? "\n" : "", used ? 27 : 2,
                 "", short_name(&module), row->why);
    }
    printf("%5d %9.5f %9.5f%s\n", layer, relative(sum.before, sum.size),
           relative(sum.after, sum.size), high);
}

static void print_table(const QuantRows *rows, DType plain) {
    double bits = 0, high = 0, were = 0;
    printf("\n%5s %9s %9s  %s\n", "layer", "rounding", "error", "stays plain, and why");
    for (int layer = 0; layer < rows->layers; layer++) print_layer(rows, layer);
    for (int i = 0; i < rows->count; i++) {
        const QuantRow *row = &rows->list[i];
        double count = (double)tensor_count(row->weight), size = count * bits_of(row, plain);
        bits += size;
        were += count * 32;
        if (*row->why) high += size;
    }
    char now[32], left[32], before[32];
    printf("\nall matrices: %s bytes (%s of them plain, %s), as F32 %s\n",
           format_count(now, sizeof now, (int64_t)(bits / 8)),
           format_count(left, sizeof left, (int64_t)(high / 8)), dtype_name(plain),
           format_count(before, sizeof before, (int64_t)(were / 8)));
}

static int write_csv(const QuantRows *rows, const char *path, DType plain, Error *err) {
    Csv csv;
    if (csv_open(&csv, path, "weight,layer,numbers,bits,rounding,error,plain_because", "cpu", 0,
                 err))
        return -1;
    for (int i = 0; i < rows->count; i++) {
        const QuantRow *row = &rows->list[i];
        char layer[16] = "", errors[64] = ",";
        if (weight_layer(row->weight->name) >= 0)
            snprintf(layer, sizeof layer, "%d", weight_layer(row->weight->name));
        if (!*row->why)
            snprintf(errors, sizeof errors, "%.6f,%.6f", relative(row->before, row->size),
                     relative(row->after, row->size));
        csv_row(&csv, "%s,%s,%lld,%.4f,%s,%s", stored_module(row->weight->name).text, layer,
                (long long)tensor_count(row->weight), bits_of(row, plain), errors, row->why);
    }
    return csv_close(&csv, err);
}

int quant_report(const QuantRows *rows, const char *out, const char *csv, DType plain, Error *err) {
    PathText own = file_path(out, "quantize.csv"), chart = file_path(out, "quantize");
    print_table(rows, plain);
    if (write_csv(rows, own.text, plain, err)) return -1;
    if (csv && write_csv(rows, csv, plain, err)) return -1;
    plot_or_explain("10_full_model/figures/quantize", own.text, chart.text);
    return 0;
}
