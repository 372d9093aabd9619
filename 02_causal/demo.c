/*
 * Chapter 02's demo: the online softmax in numbers that a reader can check, the mask as work that
 * is not done, decoding from a cache, and what tiles save in time and memory.
 */
#include "02_causal/causal.h"
#include "common/program/options.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- 1. the online softmax ---- */

static const float weights[6] = {1, 2, 4, 1, 2, 8}; /* exp of the scores: kind numbers */
static const float values[6] = {2, 5, 1, 4, 2, 6};

static void online_by_hand(void) {
    printf("1. A softmax that never sees all its scores. Six keys arrive two at a time.\n"
           "   Scores log 1, log 2 | log 4, log 1 | log 2, log 8; values 2, 5 | 1, 4 | 2, 6.\n\n"
           "   tile      m = max s  e^(old m - m)  l = sum e^(s-m)  o = sum e^(s-m) v  o / l\n");
    OnlineSoftmax state = {-INFINITY, 0};
    float o = 0;
    for (int tile = 0; tile < 3; tile++) {
        float s[2] = {logf(weights[2 * tile]), logf(weights[2 * tile + 1])}, old = state.m;
        online_softmax(&state, &o, s, 2, values + 2 * tile, 1, 1);
        printf("   %d    %.4f = log %.0f %14.2f %16.2f %18.2f %6.2f\n", tile + 1, state.m,
               exp(state.m), expf(old - state.m), state.l, o, o / state.l);
    }
    float all = 0, weighted = 0, lse = state.m + logf(state.l);
    for (int j = 0; j < 6; j++) {
        all += weights[j];
        weighted += weights[j] * values[j];
    }
    printf("\n   All at once: (1*2 + 2*5 + 4*1 + 1*4 + 2*2 + 8*6) / (1+2+4+1+2+8)\n"
           "   = %.0f / %.0f = %.2f. Backward needs only lse = m + log l = %.4f = log %.0f.\n"
           "   It brings every probability back: e^(s - lse) =\n  ",
           weighted, all, weighted / all, lse, exp(lse));
    for (int j = 0; j < 6; j++) printf(" %.3f", expf(logf(weights[j]) - lse));
    printf(",\n   which are 1, 2, 4, 1, 2, 8 of 18.\n\n");
}

/* ---- 2. the mask ---- */

static void mask_as_skipped_work(void) {
    enum { T = 256, QUERIES = 32, CELL = 8 };
    printf("2. The mask is work that is not done. %d queries (down, %d a tile) meet keys\n"
           "   (across, %d a letter):\n"
           "   # computed   / computed, then half of it masked   . never visited\n\n",
           T, QUERIES, CELL);
    long computed = 0;
    for (int first = 0; first < T; first += QUERIES) {
        char row[T / CELL + 1] = {0};
        for (int key = 0; key < T; key += CELL)
            row[key / CELL] = key < first ? '#' : key < first + QUERIES ? '/' : '.';
        computed += (long)QUERIES * (first + QUERIES);
        printf("   %s\n", row);
    }
    printf("\n   %d scores in the square, %d that anybody may see, %ld computed.\n\n", T * T,
           T * (T + 1) / 2, computed);
}

/* ---- 3. a real layer ---- */

typedef struct Layer {
    Tensor *q, *k, *v, *o;
} Layer;

static void fill_normal(Context *ctx, Tensor *t, uint64_t stream) {
    float *x = must_alloc((size_t)tensor_count(t), sizeof(float));
    for (int64_t i = 0; i < tensor_count(t); i++)
        x[i] = rng_normal(ctx->rng.seed, stream, (uint64_t)i);
    tensor_upload(ctx, t, x);
    free(x);
}

static Layer layer_new(Context *ctx, int T, int H, int D) {
    Layer layer = {.q = tensor_new(ctx, "q", ctx->dtype, SHAPE(1, T, H, D)),
                   .k = tensor_new(ctx, "k", ctx->dtype, SHAPE(1, T, H, D)),
                   .v = tensor_new(ctx, "v", ctx->dtype, SHAPE(1, T, H, D))};
    fill_normal(ctx, layer.q, 1);
    fill_normal(ctx, layer.k, 2);
    fill_normal(ctx, layer.v, 3);
    return layer;
}

static float *downloaded(Context *ctx, const Tensor *t) {
    float *x = must_alloc((size_t)tensor_count(t), sizeof(float));
    tensor_download(ctx, x, t);
    return x;
}

/* Changes the last key and value, and counts the outputs that notice. */
static void future_changes_nothing(Context *ctx, int T, int H, int D) {
    Layer layer = layer_new(ctx, T, H, D);
    float *before = downloaded(ctx, causal_attention(ctx, layer.q, layer.k, layer.v, 0));
    float *k = downloaded(ctx, layer.k);
    for (int i = 0; i < H * D; i++) k[(T - 1) * H * D + i] += 1;
    tensor_upload(ctx, layer.k, k);
    layer.o = causal_attention(ctx, layer.q, layer.k, layer.v, 0);
    float *after = downloaded(ctx, layer.o);
    long earlier = 0, last = 0;
    for (int i = 0; i < T * H * D; i++)
        *(i < (T - 1) * H * D ? &earlier : &last) += before[i] != after[i];
    printf("3. q, k, v %s -> o %s. Change the last token's\n"
           "   key: of the outputs of tokens before it %ld numbers change, not one bit;\n"
           "   of its own %d, %ld.\n",
           shape_text(layer.q).text, shape_text(layer.o).text, earlier, H * D, last);
    free(before), free(k), free(after);
    context_reset(ctx);
}

/* One query at a time against the cache of all keys so far; shape.kv_len grows. */
static void decode_from_cache(Context *ctx, int T, int H, int D) {
    Layer layer = layer_new(ctx, T, H, D);
    Tensor *step = tensor_new(ctx, "o", ctx->dtype, SHAPE(1, T, H, D));
    Tensor *lse = tensor_new(ctx, "lse", F32, SHAPE(H));
    float *whole = downloaded(ctx, causal_attention(ctx, layer.q, layer.k, layer.v, 0));
    double start = seconds_now();
    for (int t = 0; t < T; t++) {
        AttentionShape shape = attention_shape(1, H, H, 1, t + 1, D, D, 1);
        size_t row = (size_t)t * H * D * dtype_size(ctx->dtype);
        void *o = (char *)step->data + row, *q = (char *)layer.q->data + row;
        ON(ctx, causal_forward, o, lse->data, q, layer.k->data, layer.v->data, shape);
    }
    float *cached = downloaded(ctx, step), largest = 0;
    double cache_us = (seconds_now() - start) / T * 1e6;
    for (int i = 0; i < T * H * D; i++) largest = fmaxf(largest, fabsf(cached[i] - whole[i]));
    printf("   Decode token by token from the cache of keys and values (%.0f us each): the\n"
           "   same as all %d at once; the largest difference is %.1e (%s: %.1e).\n\n",
           cache_us, T, largest, dtype_name(ctx->dtype), ctx->dtype == F32 ? 0x1p-24 : 0x1p-9);
    free(whole), free(cached);
    context_reset(ctx);
}

/* ---- 4. time and memory ---- */

enum { HEADS = 4, DIM = 64 };

typedef struct Scaling {
    AttentionShape shape;
    float *q, *k, *v, *d_o, *o, *lse, *dq, *dk, *dv, *p, *scratch;
} Scaling;

static void materialised_step(const Scaling *s) {
    causal_materialised_cpu(s->o, s->p, s->q, s->k, s->v, s->shape);
    causal_materialised_backward_cpu(s->dq, 0, s->dk, 0, s->dv, 0, s->scratch, s->d_o, s->q, s->k,
                                     s->v, s->p, s->shape);
}

static void tiled_step(const Scaling *s) {
    causal_forward_cpu(s->o, s->lse, s->q, s->k, s->v, s->shape);
    causal_backward_cpu(s->dq, 0, s->dk, 0, s->dv, 0, s->scratch, s->d_o, s->q, s->k, s->v, s->o,
                        s->lse, s->shape);
}

/* Milliseconds of forward and backward: the best of a few, for a tenth of a second at least. */
static double best_of(void (*step)(const Scaling *), const Scaling *s) {
    double best = INFINITY, begun = seconds_now();
    step(s);
    for (int i = 0; i < 3 || (seconds_now() - begun < 0.1 && i < 200); i++) {
        double start = seconds_now();
        step(s);
        best = fmin(best, seconds_now() - start);
    }
    return best * 1e3;
}

static float *numbers(Context *ctx, size_t count) {
    float *x = arena_alloc(&ctx->data, count * sizeof(float));
    for (size_t i = 0; i < count; i++) x[i] = rng_normal(ctx->rng.seed, 9, i);
    return x;
}

typedef struct ScalingRow {
    double ms[2], mib[2]; /* materialised, tiled */
} ScalingRow;

/* Memory: what attention needs beside q, k, v, o and their gradients, to keep and as scratch. */
static ScalingRow measure(Context *ctx, int T) {
    AttentionShape shape = attention_shape(1, HEADS, HEADS, T, T, DIM, DIM, 1);
    size_t n = (size_t)T * HEADS * DIM, matrix = (size_t)T * (size_t)T * HEADS * sizeof(float);
    Scaling s = {.shape = shape};
    float **arrays[] = {&s.q, &s.k, &s.v, &s.d_o, &s.o, &s.dq, &s.dk, &s.dv};
    for (int i = 0; i < 8; i++) *arrays[i] = numbers(ctx, n);
    size_t kept = (size_t)T * HEADS * sizeof(float), scratch = causal_backward_scratch_cpu(shape);
    s.lse = arena_alloc(&ctx->data, kept);
    s.scratch = arena_alloc(&ctx->data, scratch + 1);
    ScalingRow row = {
        .mib = {(double)(2 * matrix) / (1 << 20), (double)(kept + scratch) / (1 << 20)}};
    row.ms[1] = best_of(tiled_step, &s);
    s.p = arena_alloc(&ctx->data, matrix);
    s.scratch = arena_alloc(&ctx->data, matrix);
    row.ms[0] = best_of(materialised_step, &s);
    context_reset(ctx);
    return row;
}

static void time_and_memory(Context *ctx, int max_tokens, const char *path) {
    Csv csv = figure_open(ctx, path, "T,materialised_ms,tiled_ms,materialised_mib,tiled_mib");
    printf("4. Forward and backward of %d heads of %d columns, with the T x T matrix in\n"
           "   memory, and in tiles:\n\n"
           "        T       time, T x T        tiles     memory, T x T        tiles\n",
           HEADS, DIM);
    ScalingRow row = {0};
    for (int T = 128; T <= max_tokens; T *= 2) {
        row = measure(ctx, T);
        printf("   %6d %15.2f ms %9.2f ms %13.2f MiB %8.2f MiB\n", T, row.ms[0], row.ms[1],
               row.mib[0], row.mib[1]);
        csv_row(&csv, "%d,%.4f,%.4f,%.5f,%.5f", T, row.ms[0], row.ms[1], row.mib[0], row.mib[1]);
    }
    printf("\n");
    text_bars((const char *const[]){"time, T x T", "time, tiles"}, row.ms, 2, "ms");
    text_bars((const char *const[]){"MiB,  T x T", "MiB,  tiles"}, row.mib, 2, "MiB");
    figure_close(&csv, "02_causal/figures/scaling");
}

int main(int argc, char **argv) {
    CommonOptions common = {.csv = "02_causal/figures/out/scaling.csv"};
    int max_tokens = 2048;
    const Option flags[] = {
        OPT_INT("max", 'm', "T", &max_tokens, 128, 16384, "Longest sequence that is timed"),
        OPT_CSV(&common), OPT_COMMON(&common), OPT_END};
    options_parse(
        argc, argv,
        "Causal attention in tiles: the online softmax by hand, the mask as skipped work, "
        "decoding from a cache, and time and memory against the length of the text.",
        flags);
    Context ctx;
    options_open(&common, &ctx);
    online_by_hand();
    mask_as_skipped_work();
    future_changes_nothing(&ctx, 200, 4, 64);
    decode_from_cache(&ctx, 200, 4, 64);
    context_free(&ctx);

    /* section 4 times the CPU's kernels, whatever --device says; `bench` has the GPU's */
    Error err;
    if (context_init(&ctx, CPU, F32, common.seed, &err)) fatal("%s", err.text);
    time_and_memory(&ctx, max_tokens, common.csv);
    context_free(&ctx);
    printf("Try next: --max 8192, --threads 1, ./02_causal/bench, make learn CH=02_causal\n");
    return 0;
}
