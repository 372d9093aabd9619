/*
 * Chapter 08's benchmark of decoding on CUDA: products of 1 to 64 rows with weights of 16, 8 and 4
 * bits. Of a step's products most time goes into reading the weights, so 4 bits may be four times
 * as fast as 16; how much of that is reached depends on the rows, which are computed with.
 *
 * And attention from a latent cache in eight bits against one in BF16, all heads of a GPU against
 * the same rows: its share of the bandwidth says how much of the fewer bytes' time is gained.
 *
 * Every call meets another copy of the matrix, so that no weight is in the L2 cache. Codes are
 * random. BF16 is the same function on plain weights: the kernels for few rows, from 33 rows on
 * cuBLASLt. Bytes are those of codes and scales.
 */
#include "08_quant/quantised.h"
#include "08_quant/quantised_gpu.h"

#include "04_mla/mla_decode.h"
#include "common/core/ops_kernels.h"
#include "common/program/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef WITH_CUDA

/* How the weights are held; the first is what the others are compared with. */
typedef struct Kind {
    const char *name;
    DType dtype;
    int block_out, block_in; /* block_in 0: a row */
} Kind;
static const Kind kinds[] = {{"bf16", BF16, 0, 0},
                             {"int8", U8, 1, 0},
                             {"int4 g128", I4, 1, 128},
                             {"fp8", F8_E4M3, 128, 128}};
enum { KINDS = sizeof kinds / sizeof *kinds, MOST_COPIES = 64, MOST_ROWS = 64 };

/* As many copies as are larger than any L2 cache. */
typedef struct Product {
    int64_t out, in, rows;
    const Kind *kind;
    int copies, next;
    bool plain; /* the plain rung */
    Tensor w[MOST_COPIES], *x, *y;
    Quantised held;
} Product;

static size_t weight_bytes(const Product *p) {
    size_t numbers = (size_t)p->out * (size_t)p->in;
    return p->kind->dtype == BF16 ? 2 * numbers : p->kind->dtype == I4 ? numbers / 2 : numbers;
}

static void product_init(Product *p, Context *ctx, const Kind *kind, int64_t out, int64_t in) {
    const size_t enough = (size_t)400 << 20;
    *p = (Product){.out = out, .in = in, .kind = kind};
    size_t bytes = weight_bytes(p);
    p->copies = bytes * MOST_COPIES <= enough ? MOST_COPIES : (int)(enough / bytes) + 1;
    p->x = bench_tensor(ctx, "x", BF16, 1, SHAPE(MOST_ROWS, in));
    p->y = tensor_new(ctx, "y", BF16, SHAPE(MOST_ROWS, out));
    if (kind->dtype != BF16) {
        int64_t shape[MAX_DIMS];
        Tensor like = tensor_view(NULL, "w", kind->dtype, CUDA, SHAPE(out, in));
        p->held = (Quantised){.block_out = kind->block_out,
                              .block_in = kind->block_in ? kind->block_in : (int)in,
                              .products = &quantised_products};
        int n = quantised_scale_shape(shape, &like, p->held.block_out, p->held.block_in);
        p->held.scale = *bench_tensor(ctx, "scale", F32, 2, shape, n);
    }
    for (int i = 0; i < p->copies; i++) {
        Tensor *numbers =
            bench_tensor(ctx, "w", BF16, (uint64_t)(3 + i), SHAPE((int64_t)bytes / 2));
        p->w[i] = tensor_view(numbers->data, "w", kind->dtype, CUDA, SHAPE(out, in));
        if (kind->dtype != BF16) p->w[i].quantised = &p->held;
    }
}

static void multiply(Context *ctx, void *user) {
    Product *p = user;
    const Tensor *w = &p->w[p->next++ % p->copies];
    if (p->plain) {
        QuantisedPlain plain = {
            .y = p->y->data, .x = p->x->data, .rows = p->rows, .w = quantised_codes(w)};
        quantised_plain_cuda(ctx->gpu, BF16, &plain);
    } else if (w->quantised) {
        quantised_products.linear(ctx, p->y->data, NULL, p->x->data, w, NULL, p->rows);
    } else {
        linear_forward_cuda(ctx->gpu, BF16, p->y->data, p->x->data, w->data, NULL, p->rows, p->in,
                            p->out);
    }
}

static void save(Bench *bench, const Product *p, BenchTime t) {
    double scales = p->kind->dtype == BF16 ? 0 : 4 * (double)tensor_count(&p->held.scale);
    double bytes = (double)weight_bytes(p) + scales;
    bench->row = (BenchRow){.time = t,
                            .flops = 2 * (double)(p->rows * p->out * p->in) / t.min,
                            .of_peak = NAN,
                            .of_copy = 100 * bytes / t.min / bench->copy_bytes};
    bench_save(bench, "%lld,%lld,%lld,%s,%s", (long long)p->out, (long long)p->in,
               (long long)p->rows, p->kind->name, p->plain ? "plain" : "in use");
}

/* A line for each number of rows: microseconds, the share of the copy's bandwidth, and how many
 * times as fast as BF16. */
static void shape(Bench *bench, int64_t out, int64_t in) {
    static const int64_t rows[] = {1, 2, 4, 8, 16, 32, 33, MOST_ROWS};
    enum { ROWS = sizeof rows / sizeof *rows };
    BenchTime times[KINDS][ROWS], plain[KINDS];
    Context *ctx = bench->ctx;
    for (int k = 0; k < KINDS; k++) {
        Product *p = must_alloc(1, sizeof *p);
        product_init(p, ctx, &kinds[k], out, in);
        double share = 100 * (double)weight_bytes(p) / bench->copy_bytes;
        for (int r = 0; r < ROWS; r++) {
            p->rows = rows[r];
            times[k][r] = bench_time(ctx, multiply, p, bench->seconds);
            save(bench, p, times[k][r]);
        }
        p->plain = k > 0, p->rows = 1;
        plain[k] = bench_time(ctx, multiply, p, bench->seconds / 4);
        if (k) save(bench, p, plain[k]);
        printf("  %lld x %lld %-9s plain rung, 1 row: %.1f us; in use: %.0f %% of copy bandwidth\n",
               (long long)out, (long long)in, kinds[k].name, 1e6 * plain[k].min,
               share / times[k][0].min);
        free(p);
        context_reset(ctx);
    }
    printf("  rows");
    for (int k = 0; k < KINDS; k++) printf("  %9s us%s", kinds[k].name, k ? "      x" : "");
    for (int r = 0; r < ROWS; r++) {
        printf("\n  %4lld", (long long)rows[r]);
        for (int k = 0; k < KINDS; k++) {
            printf("  %12.2f", 1e6 * times[k][r].min);
            if (k) printf(" %6.2f", times[0][r].min / times[k][r].min);
        }
    }
    printf("\n");
    fflush(stdout);
}

/* ---- attention ---- */

typedef struct Attention {
    MlaDecodeShape shape;
    Tensor *q, *latent, *table, *lengths, *o, *scratch;
} Attention;

static void attend(Context *ctx, void *user) {
    Attention *a = user;
    mla_decode_cuda(ctx->gpu, BF16, a->o->data, a->scratch->data, a->q->data, a->latent->data,
                    a->table->data, a->lengths->data, a->shape);
}

/* Sequences of one length, pages in order. Random rows: those in eight bits are appended. */
static void attention_init(Attention *a, Context *ctx, int batch, int heads, int length,
                           bool e4m3) {
    enum { C = 512, K = 64, ROWS = 4096 };
    int pages = length / PAGE_TOKENS;
    int64_t all = (int64_t)batch * pages;
    *a = (Attention){.shape = {.batch = batch,
                               .q_len = 1,
                               .heads = heads,
                               .kv_lora_rank = C,
                               .rope_dim = K,
                               .pages = (int)all,
                               .max_pages = pages,
                               .max_length = length,
                               .e4m3 = e4m3,
                               .scale = 0.07f}};
    int32_t *ids = must_alloc((size_t)all, sizeof *ids), *lengths = must_alloc((size_t)batch, 4);
    for (int64_t i = 0; i < all; i++) ids[i] = (int32_t)i;
    for (int b = 0; b < batch; b++) lengths[b] = length;
    a->table = tensor_copy_in(ctx, "table", I32, ids, SHAPE(batch, pages));
    a->lengths = tensor_copy_in(ctx, "lengths", I32, lengths, SHAPE(batch));
    a->q = bench_tensor(ctx, "q", BF16, 1, SHAPE(batch, heads, C + K));
    a->o = tensor_new(ctx, "o", BF16, SHAPE(batch, heads, C));
    size_t scratch = mla_decode_scratch_cuda(ctx->gpu, BF16, a->shape);
    a->scratch = tensor_new(ctx, "scratch", F32, SHAPE((int64_t)(scratch / 4) + 1));
    if (!e4m3) {
        a->latent = bench_tensor(ctx, "latent", BF16, 2, SHAPE(all, PAGE_TOKENS, C + K));
    } else {
        a->latent =
            tensor_new(ctx, "latent", F8_E4M3, SHAPE(all, PAGE_TOKENS, latent_row_bytes(C, K)));
        Tensor *c = bench_tensor(ctx, "c", BF16, 2, SHAPE(ROWS, C));
        Tensor *k = bench_tensor(ctx, "k", BF16, 3, SHAPE(ROWS, K));
        Tensor *here = tensor_copy_in(ctx, "rows", I32, &(int32_t){ROWS}, SHAPE(1));
        for (int64_t page = 0; page < all; page += ROWS / PAGE_TOKENS) /* so many pages at once */
            latent_append_e4m3_cuda(ctx->gpu, BF16, a->latent->data,
                                    (int32_t *)a->table->data + page, here->data, c->data, k->data,
                                    1, ROWS, C, K, ROWS / PAGE_TOKENS);
    }
    free(ids), free(lengths);
}

static void attention(Bench *bench, int batch, int heads, int length) {
    double share[2], us[2];
    for (int e4m3 = 0; e4m3 < 2; e4m3++) {
        Attention a;
        attention_init(&a, bench->ctx, batch, heads, length, e4m3);
        BenchTime t = bench_time(bench->ctx, attend, &a, bench->seconds);
        double bytes = mla_decode_bytes(a.shape, length, BF16);
        us[e4m3] = 1e6 * t.min, share[e4m3] = 100 * bytes / t.min / bench->copy_bytes;
        bench->row = (BenchRow){.time = t,
                                .flops = mla_decode_flop(a.shape, length) / t.min,
                                .of_peak = NAN,
                                .of_copy = share[e4m3]};
        bench_save(bench, "%d,%d,%d,%s cache,in use", batch, heads, length, e4m3 ? "fp8" : "bf16");
        context_reset(bench->ctx);
    }
    printf("  batch %3d, %3d heads, %5d tokens   bf16 %8.1f us (%4.1f %%)   fp8 %8.1f us (%4.1f %%)"
           "   %.2fx\n",
           batch, heads, length, us[0], share[0], us[1], share[1], us[0] / us[1]);
    fflush(stdout);
}

#endif

int main(int argc, char **argv) {
    Bench bench = {.seconds = 0.1, .microseconds = true};
    bool all = false;
    const Option flags[] = {OPT_FLAG("all", 'a', &all, "Smaller matrices, too"), OPT_END};
    bench_open(&bench, argc, argv, "Times decoding with quantised weights (CUDA, BF16).", flags,
               NULL, "out,in,rows,weights,rung");
#ifdef WITH_CUDA
    if (bench.ctx->device != CUDA || bench.ctx->dtype != BF16)
        fatal("this benchmark is for a GPU: add --device cuda --dtype bf16");
    bench_ceilings(&bench);
    bench_head("products of few rows, best of many calls on cold weights");
    shape(&bench, 8192, 8192);
    shape(&bench, 7168, 16384);
    bench_head("attention from a cache, 512 + 64 numbers a token; in brackets of copy bandwidth");
    attention(&bench, 128, 16, 8192);
    attention(&bench, 8, 16, 8192);
    attention(&bench, 1, 16, 65536);
    attention(&bench, 128, 32, 8192);
    attention(&bench, 128, 128, 8192);
    if (all) shape(&bench, 4096, 4096), shape(&bench, 50257, 512), shape(&bench, 512, 512);
#else
    (void)all;
    fatal("this benchmark is for a GPU, and the program was built without CUDA");
#endif
    bench_close(&bench);
    return 0;
}
