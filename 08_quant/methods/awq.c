/*
 * Two searches over a grid. What a rounding loses is measured by the inputs' X^T X (inputs.h): for
 * the first search all of it, for the second a group's own block on the diagonal.
 */
#include "08_quant/methods/awq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 20 };

/* (mean |x|)^r, divided by the root of largest x smallest (as the published code does). */
static void scales_of(float *s, const float *mean_abs, int64_t in, double r) {
    float most = 0, least = INFINITY;
    for (int64_t j = 0; j < in; j++) {
        s[j] = fmaxf(powf(mean_abs[j], (float)r), 1e-4f);
        most = fmaxf(most, s[j]);
        least = fminf(least, s[j]);
    }
    for (int64_t j = 0; j < in; j++) s[j] /= sqrtf(most * least);
}

/* ||X (round(W s) / s - W)^T||^2; work [out, in] */
static double loss_of(const InputReader *reader, const float *s, int64_t in,
                      const QuantFormat *format, float *work) {
    Error err = {0};
    for (int64_t i = 0; i < reader->out * in; i++) work[i] = reader->w[i] * s[i % in];
    int status = quant_round_trip(work, NULL, work, reader->out, in, format, &err);
    CHECK(status == 0, "awq_scales: %s", err.text);
    for (int64_t i = 0; i < reader->out * in; i++) work[i] = work[i] / s[i % in] - reader->w[i];
    return input_square(reader->stats, work, reader->out);
}

double awq_scales(float *s, const InputReader *readers, int count, const float *mean_abs,
                  int64_t in, const QuantFormat *format) {
    int64_t most = 0;
    for (int i = 0; i < count; i++) most = readers[i].out > most ? readers[i].out : most;
    float *work = must_realloc(NULL, (size_t)(most * in), sizeof *work);
    double best = INFINITY, chosen = 0;
    for (int step = 0; step < STEPS; step++) {
        double loss = 0, r = (double)step / STEPS;
        scales_of(s, mean_abs, in, r);
        for (int i = 0; i < count; i++) loss += loss_of(&readers[i], s, in, format, work);
        if (loss < best) {
            best = loss;
            chosen = r;
        }
    }
    scales_of(s, mean_abs, in, chosen);
    free(work);
    return chosen;
}

/* d gram d^T for one group: gram points to its block of [in, in]. */
static double group_loss(const float *d, const float *gram, int64_t in, int64_t group) {
    double loss = 0;
    for (int64_t i = 0; i < group; i++) {
        float sum = 0;
        for (int64_t j = 0; j < group; j++) sum += gram[i * in + j] * d[j];
        loss += (double)sum * d[i];
    }
    return loss;
}

/* One group of one row; d [group]. */
static void clip_group(float *w, const float *gram, int64_t in, int64_t group,
                       const QuantFormat *format, float *d) {
    float amax = 0, chosen = 0;
    double best = INFINITY;
    for (int64_t j = 0; j < group; j++) amax = fmaxf(amax, fabsf(w[j]));
    for (int step = 0; step < STEPS / 2; step++) {
        float limit = amax * (1 - (float)step / STEPS), scale = quant_scale(limit, format);
        for (int64_t j = 0; j < group; j++)
            d[j] = scale * quant_round(w[j] / scale, format->dtype) - w[j];
        double loss = group_loss(d, gram, in, group);
        if (loss >= best) continue;
        best = loss;
        chosen = limit;
    }
    for (int64_t j = 0; j < group; j++) w[j] = fminf(fmaxf(w[j], -chosen), chosen);
}

void awq_clip(float *w, int64_t out, const InputStats *stats, const QuantFormat *format) {
    int64_t in = stats->in, group = format->block_in ? format->block_in : in;
    CHECK(format->block_out == 1 && in % group == 0, "awq_clip: groups of %d rows x %d",
          format->block_out, format->block_in);
#pragma omp parallel
    {
        float *d = must_realloc(NULL, (size_t)group, sizeof *d);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < out; r++)
            for (int64_t g = 0; g < in; g += group)
                clip_group(w + r * in + g, stats->gram + g * in + g, in, group, format, d);
        free(d);
    }
}
