/*
 * Sparse attention's benchmark: prompts and training, the rungs side by side.
 *
 * T queries of H heads at the end of S tokens, k listed latents of 512 + 64 numbers for each.
 * Operations as FlashMLA counts them: 2 T H k (576 + 512) forward, and 2 T H k (3 * 576 + 2 * 512)
 * for the five products of backward. Lists are k places at random, in order.
 */
#include "04_mla/mla.h"
#include "common/program/bench.h"

#include <stdlib.h>

enum { RANK = 512, WIDTH = 576 };

typedef struct Sparse {
    SelectedShape shape;
    Tensor *q, *latent, *o, *d_o, *dq, *d_latent, *selected;
    void *work, *scratch;
    float *lse;
} Sparse;

#define FORWARD(s)                                                              \
    (s)->o->data, (s)->lse, (s)->q->data, (s)->latent->data, (s)->latent->data, \
        (s)->selected->data, (s)->work, (s)->shape
#define BACKWARD(s)                                                                                \
    (s)->dq->data, 0, (s)->d_latent->data, 0, NULL, 0, (s)->scratch, (s)->d_o->data, (s)->q->data, \
        (s)->latent->data, (s)->latent->data, (s)->o->data, (s)->lse, (s)->work, (s)->shape

static void run_forward(Context *ctx, void *user) {
    ON(ctx, selected_forward, FORWARD((Sparse *)user));
}
static void run_backward(Context *ctx, void *user) {
    ON(ctx, selected_backward, BACKWARD((Sparse *)user));
}
#ifdef WITH_CUDA
static void run_forward_plain(Context *ctx, void *user) {
    selected_forward_plain_cuda(ctx->gpu, ctx->dtype, FORWARD((Sparse *)user));
}
static void run_backward_plain(Context *ctx, void *user) {
    selected_backward_plain_cuda(ctx->gpu, ctx->dtype, BACKWARD((Sparse *)user));
}
#endif

/* The plain rungs read a row for each head again: above this many operations they are left out. */
#define MOST_PLAIN_FLOP 3e11

static const BenchRung forward[] = {{"in use", CPU, 1e11, run_forward, NULL},
#ifdef WITH_CUDA
                                    {"plain", CUDA, MOST_PLAIN_FLOP, run_forward_plain, NULL},
                                    {"in use", CUDA, INFINITY, run_forward, NULL},
#endif
                                    {0}};
static const BenchRung backward[] = {{"in use", CPU, 1e11, run_backward, NULL},
#ifdef WITH_CUDA
                                     {"plain", CUDA, MOST_PLAIN_FLOP, run_backward_plain, NULL},
                                     {"in use", CUDA, INFINITY, run_backward, NULL},
#endif
                                     {0}};

static int by_place(const void *a, const void *b) {
    return *(const int32_t *)a - *(const int32_t *)b;
}

/* k different places of those that each query sees, or all of them. */
static Tensor *random_lists(Context *ctx, int T, int S, int k) {
    int32_t *lists = must_alloc((size_t)T * (size_t)k, sizeof *lists);
    char *taken = must_alloc((size_t)S, 1);
    for (int t = 0; t < T; t++) {
        int32_t *list = lists + (int64_t)t * k;
        int seen = S - T + t + 1, n = 0;
        memset(taken, 0, (size_t)S);
        for (uint64_t i = 0; n < k && n < seen; i++) {
            uint64_t r = philox(ctx->rng.seed, 9 + (uint64_t)t, i).word[0];
            int32_t j = seen <= k ? n : (int32_t)(r % (uint64_t)seen);
            if (!taken[j]) taken[j] = 1, list[n++] = j;
        }
        qsort(list, (size_t)n, sizeof *list, by_place);
        while (n < k) list[n++] = -1;
    }
    Tensor *t = tensor_copy_in(ctx, "selected", I32, lists, SHAPE(1, T, k));
    free(lists), free(taken);
    return t;
}

static void bench_sparse(Bench *bench, int T, int S, int H, int k) {
    Context *ctx = bench->ctx;
    Sparse s = {.shape = {.attention = attention_shape(1, H, 1, T, S, WIDTH, RANK, 1),
                          .count = k,
                          .latent = true}};
    s.shape.attention.v = s.shape.attention.k;
    s.shape.attention.scale = 0.0722f; /* of the 192 numbers that a head of V3 has */
    s.q = bench_tensor(ctx, "q", ctx->dtype, 1, SHAPE(1, T, H, WIDTH));
    s.latent = bench_tensor(ctx, "latent", ctx->dtype, 2, SHAPE(1, S, WIDTH));
    s.d_o = bench_tensor(ctx, "d_o", ctx->dtype, 3, SHAPE(1, T, H, RANK));
    s.o = tensor_new(ctx, "o", ctx->dtype, SHAPE(1, T, H, RANK));
    s.dq = tensor_new(ctx, "dq", ctx->dtype, SHAPE(1, T, H, WIDTH));
    s.d_latent = tensor_new(ctx, "d_latent", ctx->dtype, SHAPE(1, S, WIDTH));
    s.selected = random_lists(ctx, T, S, k);
    s.lse = arena_alloc(&ctx->data, sizeof(float) * (size_t)T * (size_t)H);
    s.work = arena_alloc(&ctx->data, ON(ctx, selected_work, s.shape));
    s.scratch = arena_alloc(&ctx->data, ON(ctx, selected_backward_scratch, s.shape) + 1);
    double pairs = 0, flop;
    for (int t = 0; t < T; t++) pairs += (double)H * (S - T + t + 1 < k ? S - T + t + 1 : k);
    flop = 2 * pairs * (WIDTH + RANK);
    for (const BenchRung *r = forward; (r = bench_rung(bench, r, flop, &s)); r++) {
        bench_row(bench, flop, 0, r->run, &s, "T %d, S %d, H %d, k %d  forward %s", T, S, H, k,
                  r->name);
        bench_save(bench, "forward,%s,%d,%d,%d,%d", r->name, T, S, H, k);
    }
    flop = 2 * pairs * (3 * WIDTH + 2 * RANK);
    for (const BenchRung *r = backward; (r = bench_rung(bench, r, flop, &s)); r++) {
        bench_row(bench, flop, 0, r->run, &s, "T %d, S %d, H %d, k %d  backward %s", T, S, H, k,
                  r->name);
        bench_save(bench, "backward,%s,%d,%d,%d,%d", r->name, T, S, H, k);
    }
    context_reset(ctx);
}

int main(int argc, char **argv) {
    Bench bench = {.microseconds = true};
    bench_open(&bench, argc, argv, "Attention to listed latents: prompts and training.", NULL,
               "04_mla/figures/out/selection.csv", "pass,rung,T,S,H,k");
    bench_ceilings(&bench);
    bench_head("sparse attention, latents of 512 + 64");
    if (bench.ctx->device == CPU) {
        bench_sparse(&bench, 64, 1024, 8, 256);
    } else {
        bench_sparse(&bench, 128, 8192, 128, 512);
        bench_sparse(&bench, 4096, 8192, 128, 2048);
        bench_sparse(&bench, 4096, 65536, 128, 2048);
        bench_sparse(&bench, 4096, 4096, 128, 2048);
        bench_sparse(&bench, 4096, 65536, 64, 2048);
    }
    bench_close(&bench);
    return 0;
}
