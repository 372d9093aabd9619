/*
 * One layer: first what rounding to nearest would lose, then folds, all of them, since they change
 * other weights of the layer; then the weights, each by itself and an expert at a time.
 */
#include "08_quant/methods/quantise_layer.h"

#include "08_quant/methods/awq.h"
#include "08_quant/methods/gptq.h"
#include "08_quant/methods/int8.h"
#include "common/core/cpu_matmul.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void note(QuantisedWeight *q, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void note(QuantisedWeight *q, const char *format, ...) {
    size_t used = strlen(q->note);
    va_list list;
    va_start(list, format);
    if (used) used += (size_t)snprintf(q->note + used, sizeof q->note - used, "; ");
    if (used < sizeof q->note) vsnprintf(q->note + used, sizeof q->note - used, format, list);
    va_end(list);
}

/* ---- one weight ---- */

/* One expert's weight of a linear layer, or all of a dense one's, and what it reads. */
static InputReader reader_of(const LayerWork *k, int input, const Tensor *w, int expert) {
    int64_t out = tensor_dim(w, -2), in = tensor_dim(w, -1);
    return (InputReader){.stats = k->watched ? &k->stats[input][expert] : NULL,
                         .w = (float *)w->data + expert * out * in,
                         .out = out};
}

/* The format with this weight's sizes, and whether it is to be quantised; if not, why. */
static bool fits(const QuantRecipe *r, const Tensor *w, QuantFormat *format, Error *why) {
    int64_t out = tensor_dim(w, -2), in = tensor_dim(w, -1);
    *format = r->format;
    if (!format->block_out) format->block_out = (int)out;
    if (!format->block_in) format->block_in = (int)in;
    if (quant_check(format, out, in, why)) return false;
    bool whole = out % format->block_out == 0 && in % format->block_in == 0;
    if (whole || r->ragged) return true;
    error_set(why, "[%lld, %lld] is not made of whole blocks of %d x %d", (long long)out,
              (long long)in, format->block_out, format->block_in);
    return false;
}

/* ---- errors of outputs ---- */

/* y [rows, out] = x W^T */
static float *product(const float *x, int64_t rows, const float *w, int64_t in, int64_t out) {
    float *y = must_realloc(NULL, (size_t)(rows * out + 1), sizeof *y);
    if (rows)
        cpu_matmul(&(CpuMatmul){
            .c = y, .c_row = out, .a = {x, in, 1}, .b = {w, 1, in}, .m = rows, .n = out, .k = in});
    return y;
}

/* ||Y' - Y||^2 and ||Y||^2 of one reader whose weight was `original` and is reader->w now. With
 * activations, of the sample, rounded to INT8 now; else of all rows. */
typedef struct OutputError {
    double lost, all;
} OutputError;

static void add_output_error(OutputError *sum, const InputReader *now, const InputReader *original,
                             bool activations, float threshold) {
    int64_t in = now->stats->in, out = now->out, n = out * in;
    if (!activations) {
        float *d = must_realloc(NULL, (size_t)n, sizeof *d);
        for (int64_t i = 0; i < n; i++) d[i] = now->w[i] - original->w[i];
        sum->lost += input_square(original->stats, d, out);
        sum->all += input_square(original->stats, original->w, out);
        free(d);
        return;
    }
    int64_t rows = now->stats->samples;
    float *x = must_realloc(NULL, (size_t)(rows * in + 1), sizeof *x);
    int8_activations(x, now->stats->sample, rows, in, threshold);
    float *y = product(x, rows, now->w, in, out);
    float *right = product(original->stats->sample, rows, original->w, in, out);
    for (int64_t i = 0; i < rows * out; i++) {
        sum->lost += ((double)y[i] - right[i]) * ((double)y[i] - right[i]);
        sum->all += (double)right[i] * right[i];
    }
    free(x);
    free(y);
    free(right);
}

static double relative(OutputError e) { return e.all > 0 ? sqrt(e.lost / e.all) : NAN; }

/* ---- before ---- */

/* Adds a weight to the report: does it fit, and what does rounding to nearest lose? */
static int measure_before(LayerWork *k, int input, Tensor *w, Error *err) {
    const LayerInput *x = &k->layer.inputs[input];
    const QuantRecipe *r = k->recipe;
    QuantReport *report = k->report;
    CHECK(w->dtype == F32 && !w->quantised, "%s is %s, not plain numbers", w->name,
          dtype_name(w->dtype));
    report->list =
        grow(report->list, &report->capacity, (size_t)report->count + 1, sizeof *report->list);
    QuantisedWeight *q = &report->list[report->count++];
    *q = (QuantisedWeight){.weight = w, .weight_error = NAN, .before = NAN, .after = NAN};
    Error why = {0};
    if (!fits(r, w, &q->format, &why)) {
        note(q, "stays: %s", why.text);
        return 0;
    }
    int64_t out = tensor_dim(w, -2), in = tensor_dim(w, -1);
    float *rounded = must_realloc(NULL, (size_t)(out * in), sizeof *rounded);
    OutputError output = {0}, weight = {0};
    int status = 0;
    for (int e = 0; e < x->experts && !status; e++) {
        InputReader original = reader_of(k, input, w, e), now = original;
        now.w = rounded;
        status = quant_round_trip(rounded, NULL, original.w, out, in, &q->format, err);
        if (status && x->experts > 1) error_prefix(err, "expert %d: ", e);
        for (int64_t i = 0; i < out * in && !status; i++) {
            weight.lost +=
                ((double)rounded[i] - original.w[i]) * ((double)rounded[i] - original.w[i]);
            weight.all += (double)original.w[i] * original.w[i];
        }
        if (!k->watched || status) continue;
        add_output_error(&output, &now, &original, quant_activations_too(r->method), INFINITY);
        q->short_experts += x->experts > 1 && original.stats->rows < in;
        for (int64_t j = 0; j < in; j++)
            q->outlier_columns += original.stats->max_abs[j] >= r->threshold;
    }
    q->weight_error = relative(weight);
    q->before = relative(output);
    free(rounded);
    return status ? error_prefix(err, "%s: ", w->name) : 0;
}

/* ---- folds ---- */

/* What reads the fold's input; of experts (e >= 0) one expert's alone. */
static int readers_of(const LayerWork *k, const LayerFold *fold, int expert, InputReader *readers) {
    int count = 0;
    for (int i = fold->first; i < fold->first + fold->count; i++) {
        const LayerInput *x = &k->layer.inputs[i];
        for (int l = 0; l < x->count; l++)
            for (int e = 0; e < x->experts; e++)
                if (expert < 0 || expert == e) readers[count++] = reader_of(k, i, x->linears[l], e);
    }
    return count;
}

/* Means and maxima over all rows of the fold's input. The experts' rows and the others' are the
 * same tokens, which then count several times: all of them alike. */
static void channel_sizes(const InputReader *readers, int count, int64_t in, float *mean,
                          float *max_x, float *max_w) {
    double rows = 0;
    memset(mean, 0, sizeof *mean * (size_t)in);
    memset(max_x, 0, sizeof *max_x * (size_t)in);
    memset(max_w, 0, sizeof *max_w * (size_t)in);
    for (int i = 0; i < count; i++) {
        const InputReader *r = &readers[i];
        rows += (double)r->stats->rows;
        for (int64_t j = 0; j < in; j++) {
            mean[j] += r->stats->sum_abs[j];
            max_x[j] = fmaxf(max_x[j], r->stats->max_abs[j]);
        }
        for (int64_t n = 0; n < r->out * in; n++)
            max_w[n % in] = fmaxf(max_w[n % in], fabsf(r->w[n]));
    }
    for (int64_t j = 0; j < in && rows > 0; j++) mean[j] = (float)(mean[j] / rows);
}

static void fold_one(LayerWork *k, const LayerFold *fold, int expert) {
    const LayerInput *x = &k->layer.inputs[fold->first];
    const QuantRecipe *r = k->recipe;
    int64_t in = tensor_dim(x->linears[0], -1);
    QuantFormat format;
    Error why;
    if (!fits(r, x->linears[0], &format, &why)) return; /* then none of its readers does */
    InputReader *readers = must_alloc((size_t)(3 * (x->experts + 1)), sizeof *readers);
    float *sizes = must_alloc((size_t)(4 * in), sizeof *sizes);
    float *mean = sizes + in, *max_x = mean + in, *max_w = max_x + in, *s = sizes;
    int count = readers_of(k, fold, expert, readers);
    channel_sizes(readers, count, in, mean, max_x, max_w);
    if (r->method == QUANT_AWQ)
        awq_scales(s, readers, count, mean, in, &format);
    else
        smoothquant_scales(s, max_x, max_w, in, r->alpha);
    layer_fold(&k->layer, fold, expert, s);
    for (int i = fold->first; i < fold->first + fold->count; i++)
        for (int e = 0; e < k->layer.inputs[i].experts; e++)
            if (expert < 0 || expert == e) input_stats_divide(&k->stats[i][e], s);
    free(readers);
    free(sizes);
}

static void fold_all(LayerWork *k) {
    for (int i = 0; i < k->layer.fold_count; i++) {
        const LayerFold *fold = &k->layer.folds[i];
        int experts = fold->norm ? 1 : k->layer.inputs[fold->first].experts;
        if (k->recipe->method == QUANT_SMOOTHQUANT && !fold->norm) continue;
        for (int e = 0; e < experts; e++) fold_one(k, fold, experts > 1 ? e : -1);
    }
}

/* ---- weights ---- */

/* GPTQ of one weight. An expert that saw fewer tokens than it has inputs knows too little: if all
 * experts read the same tokens it takes what the others saw (`all`), else it is damped so much that
 * what its few tokens say moves the weights little. */
static int round_by_gptq(const LayerWork *k, QuantisedWeight *q, const InputReader *reader,
                         const InputStats *all, float *scales, Error *err) {
    int64_t in = tensor_dim(q->weight, -1);
    GptqSettings settings = {k->recipe->damp, k->recipe->act_order};
    const InputStats *stats = reader->stats;
    if (stats->rows < in && all) stats = all;
    if (stats->rows < in) settings.damp = fmaxf(settings.damp, 1);
    return gptq(reader->w, scales, stats->gram, reader->out, in, &q->format, settings, err);
}

/* Codes and scales of one weight, by the recipe's method; then it is worth what they are. */
static int round_one(const LayerWork *k, QuantisedWeight *q, const LayerInput *x,
                     const InputReader *reader, const InputStats *all, uint8_t *codes,
                     float *scales, Error *err) {
    int64_t out = reader->out, in = tensor_dim(q->weight, -1);
    int status;
    if (k->recipe->method == QUANT_GPTQ) {
        status = round_by_gptq(k, q, reader, all, scales, err);
        if (!status) status = quantise_with(codes, scales, reader->w, out, in, &q->format, err);
    } else {
        if (k->recipe->method == QUANT_AWQ && !x->makes_keys)
            awq_clip(reader->w, out, reader->stats, &q->format);
        status = quantise(codes, scales, reader->w, out, in, &q->format, err);
    }
    if (!status) dequantise(reader->w, codes, scales, out, in, &q->format);
    return status;
}

/* What all experts of an input saw together. */
static InputStats *joined(const LayerWork *k, int input) {
    const LayerInput *x = &k->layer.inputs[input];
    InputStats *all = must_alloc(1, sizeof *all);
    input_stats_init(all, tensor_dim(x->linears[0], -1), 0);
    for (int e = 0; e < x->experts; e++) input_stats_join(all, &k->stats[input][e]);
    return all;
}

static int quantise_weight(LayerWork *k, int input, QuantisedWeight *q, Error *err) {
    const LayerInput *x = &k->layer.inputs[input];
    const QuantRecipe *r = k->recipe;
    Tensor *w = q->weight;
    int64_t out = tensor_dim(w, -2), in = tensor_dim(w, -1);
    size_t bytes = quant_code_bytes(&q->format, out, in);
    size_t scales = (size_t)quant_scale_count(&q->format, out, in);
    q->codes = must_alloc((size_t)x->experts, bytes);
    q->scales = must_alloc((size_t)x->experts * scales, sizeof *q->scales);
    /* Of experts all of which read the block's tokens; inner numbers are each expert's own. */
    bool share = r->method == QUANT_GPTQ && x->experts > 1 && x->count > 1 && q->short_experts;
    InputStats *all = share ? joined(k, input) : NULL;
    float *original = must_realloc(NULL, (size_t)(out * in), sizeof *original);
    OutputError error = {0};
    int status = 0;
    for (int e = 0; e < x->experts && !status; e++) {
        InputReader now = reader_of(k, input, w, e), before = now;
        before.w = original;
        memcpy(original, now.w, sizeof *original * (size_t)(out * in));
        status = round_one(k, q, x, &now, all, q->codes + (size_t)e * bytes,
                           q->scales + (size_t)e * scales, err);
        if (status && x->experts > 1) error_prefix(err, "expert %d: ", e);
        if (k->watched && !status)
            add_output_error(&error, &now, &before, quant_activations_too(r->method),
                             r->method == QUANT_LLMINT8 ? r->threshold : INFINITY);
    }
    q->after = relative(error);
    if (q->short_experts && r->method == QUANT_GPTQ)
        note(q, "%lld of %d experts had fewer than %lld tokens: %s", (long long)q->short_experts,
             x->experts, (long long)in, all ? "all experts' were used" : "strongly damped");
    if (all) input_stats_free(all);
    free(all);
    free(original);
    return status ? error_prefix(err, "%s: ", w->name) : 0;
}

/* All of a block, whose stats are there if there is a text. */
int quantise_layer(LayerWork *k, Error *err) {
    int first = k->report->count, status = 0;
    for (int i = 0; i < k->layer.input_count && !status; i++)
        for (int l = 0; l < k->layer.inputs[i].count && !status; l++)
            status = measure_before(k, i, k->layer.inputs[i].linears[l], err);
    if (!status && (k->recipe->method == QUANT_AWQ || k->recipe->method == QUANT_SMOOTHQUANT))
        fold_all(k);
    for (int i = 0, n = first; i < k->layer.input_count && !status; i++)
        for (int l = 0; l < k->layer.inputs[i].count && !status; l++, n++)
            if (!k->report->list[n].note[0])
                status = quantise_weight(k, i, &k->report->list[n], err);
    return status;
}
