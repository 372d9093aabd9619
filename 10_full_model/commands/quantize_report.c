/*
 * Errors are relative norms, and a layer's is the root of the mean of their squares over its
 * matrices.
 */
#include "10_full_model/commands/quantize_report.h"

#include "10_full_model/checkpoint/stored.h"

#include "common/files/csv.h"
#include "common/files/files.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Bits that a number of this matrix takes, its share of the scales included. q: NULL if plain. */
static double bits_of(const QuantOutcome *o, const Tensor *w, const QuantisedWeight *q) {
    return q && q->codes ? quant_bits(&q->format, tensor_dim(w, -2), tensor_dim(w, -1))
                         : 8 * (double)dtype_size(o->plain);
}

/* ---- the table ---- */

typedef struct Mean {
    double sum;
    int count;
} Mean;

static void mean_add(Mean *mean, double error) {
    if (isnan(error)) return;
    mean->sum += error * error;
    mean->count++;
}

/* "   0.00638", or as many blanks. */
static void mean_print(const Mean *mean) {
    if (mean->count)
        printf(" %9.5f", sqrt(mean->sum / mean->count));
    else
        printf(" %9s", "-");
}

/* "kv_b_proj" of "model.layers.0.self_attn.kv_b_proj.weight", with its sizes. */
static int print_plain(const Tensor *w, int column, const char *before) {
    char text[120];
    ModuleName module = stored_module(w->name);
    const char *dot = strrchr(module.text, '.');
    int length = snprintf(text, sizeof text, "%s %lld x %lld", dot ? dot + 1 : module.text,
                          (long long)tensor_dim(w, -2), (long long)tensor_dim(w, -1));
    if (*before && column + length + 2 > 79)
        column = printf(",\n%38s", "") - 2;
    else
        column += printf("%s", before);
    return column + printf("%s", text);
}

/* layer -1: what is in none, the head. */
static void print_layer(const QuantReport *r, int layer) {
    Mean weights = {0}, before = {0}, after = {0};
    bool any = false;
    for (int i = 0; i < r->count; i++) {
        const QuantisedWeight *q = &r->list[i];
        if (weight_layer(q->weight->name) != layer) continue;
        mean_add(&weights, q->weight_error);
        mean_add(&before, q->before);
        mean_add(&after, q->after);
    }
    if (layer < 0)
        printf("%5s", "head");
    else
        printf("%5d", layer);
    mean_print(&weights), mean_print(&before), mean_print(&after);
    for (int i = 0, column = 38; i < r->count; i++) {
        const QuantisedWeight *q = &r->list[i];
        if (weight_layer(q->weight->name) != layer || q->codes) continue;
        if (!any) printf("   ");
        column = print_plain(q->weight, column, any ? ", " : "");
        any = true;
    }
    printf("\n");
}

static void print_table(const QuantOutcome *o) {
    const QuantReport *r = o->report;
    int layers = 0, noted = 0;
    bool head = false;
    const QuantFormat *plain = NULL;
    for (int i = 0; i < r->count; i++)
        if (weight_layer(r->list[i].weight->name) >= layers)
            layers = weight_layer(r->list[i].weight->name) + 1;
    printf("\n%5s %9s %19s\n%5s %9s %9s %9s   %s\n", "", "weights", "their outputs", "layer",
           "rounded", "rounded", "now", "plain");
    for (int layer = 0; layer < layers; layer++) print_layer(r, layer);
    for (int i = 0; i < r->count; i++) head |= weight_layer(r->list[i].weight->name) < 0;
    if (head) print_layer(r, -1);
    for (int i = 0; i < r->count; i++) {
        if (!r->list[i].codes) plain = &r->list[i].format;
        noted += r->list[i].codes && *r->list[i].note;
    }
    if (plain && plain->dtype == F8_E4M3)
        printf("plain: what tiles of %d x %d cut (--ragged quantises it)\n", plain->block_out,
               plain->block_in);
    else if (plain)
        printf("plain: rows that groups of %d do not divide\n", plain->block_in);
    if (noted) printf("%d of the matrices have a note in the CSV\n", noted);
}

static void print_sizes(const QuantOutcome *o) {
    char now[32], left[32], before[32];
    double all = 0, plain = 0, were = 0;
    for (int i = 0; i < o->params->count; i++) {
        const Tensor *w = o->params->list[i];
        const QuantisedWeight *q = quant_report_find(o->report, w);
        if (w->ndim < 2) continue;
        double bytes = (double)tensor_count(w) * bits_of(o, w, q) / 8;
        all += bytes;
        were += 4 * (double)tensor_count(w);
        if (!q || !q->codes) plain += bytes;
    }
    printf("all matrices: %s bytes, of which %s are plain (%s); as F32 %s\n",
           format_count(now, sizeof now, (int64_t)all),
           format_count(left, sizeof left, (int64_t)plain), dtype_name(o->plain),
           format_count(before, sizeof before, (int64_t)were));
}

/* ---- the CSV ---- */

static char *error_text(char *buffer, size_t size, double error) {
    snprintf(buffer, size, isnan(error) ? "" : "%.6f", error);
    return buffer;
}

static int write_csv(const QuantOutcome *o, const char *path, Error *err) {
    Csv csv;
    if (csv_open(&csv, path,
                 "weight,layer,numbers,bits,weight_rounded,output_rounded,output_now,"
                 "outlier_columns,short_experts,note",
                 "cpu", 0, err))
        return -1;
    for (int i = 0; i < o->params->count; i++) {
        const Tensor *w = o->params->list[i];
        const QuantisedWeight *q = quant_report_find(o->report, w);
        char layer[16] = "", weight[24] = "", before[24] = "", after[24] = "";
        if (w->ndim < 2) continue;
        if (weight_layer(w->name) >= 0) snprintf(layer, sizeof layer, "%d", weight_layer(w->name));
        if (q) {
            error_text(weight, sizeof weight, q->weight_error);
            error_text(before, sizeof before, q->before);
            error_text(after, sizeof after, q->after);
        }
        csv_row(&csv, "%s,%s,%lld,%.4f,%s,%s,%s,%lld,%lld,\"%s\"", stored_module(w->name).text,
                layer, (long long)tensor_count(w), bits_of(o, w, q), weight, before, after,
                q ? (long long)q->outlier_columns : 0, q ? (long long)q->short_experts : 0,
                q ? q->note : "never quantised");
    }
    return csv_close(&csv, err);
}

int quantize_report(const QuantOutcome *o, const char *out, const char *csv, Error *err) {
    PathText own = file_path(out, "quantize.csv"), chart = file_path(out, "quantize");
    print_table(o);
    print_sizes(o);
    if (write_csv(o, own.text, err) || (csv && write_csv(o, csv, err))) return -1;
    plot_or_explain("10_full_model/figures/quantize", own.text, chart.text);
    return 0;
}
