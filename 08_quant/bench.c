/*
 * Chapter 08's benchmark on the CPU: products with quantised weights beside those with F32, and a
 * whole decoder that decodes with them.
 *
 * Decoding reads every weight once for each token and does two operations with it: what a product
 * takes is the time of its bytes. So the weights are larger than any cache, and the bytes a second
 * stand beside a copy's, on one thread and on all. Weights are random codes: nothing here depends
 * on what they are.
 */
#include "common/program/bench.h"
#include "05_moe/decoder/decoder.h"
#include "08_quant/methods/layer.h"
#include "08_quant/quantised_int8.h"
#include "common/core/cpu_matmul.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How weights are held, and by which products they are multiplied. */
typedef struct Holding {
    const char *name;
    DType dtype; /* F32: as numbers */
    int block_out, block_in;
    const QuantisedProducts *products;
} Holding;

#define PRODUCTS    &quantised_products
#define WEIGHT_ONLY &quantised_weight_only
static const Holding plain = {"F32", F32, 1, 1, NULL}, int8 = {"INT8", U8, 1, 128, PRODUCTS},
                     int8_row = {"INT8 by rows", U8, 1, 0, PRODUCTS},
                     int8_32 = {"INT8 g32", U8, 1, 32, PRODUCTS},
                     int4 = {"INT4", I4, 1, 128, PRODUCTS},
                     int4_32 = {"INT4 g32", I4, 1, 32, PRODUCTS},
                     int8_only = {"INT8 weight-only", U8, 1, 128, WEIGHT_ONLY},
                     int4_only = {"INT4 weight-only", I4, 1, 128, WEIGHT_ONLY},
                     fp8_only = {"FP8 weight-only", F8_E4M3, 128, 128, WEIGHT_ONLY};

static void hold(Params *params, Tensor *t, const Holding *h) {
    int group = h->block_in ? h->block_in : (int)tensor_dim(t, -1);
    if (h->dtype != F32)
        params_set_quantised(params, t, h->dtype, h->block_out, group, h->products);
}

/* Bytes of a weight, its scales included. */
static double bytes_of(const Tensor *t) {
    double scales = t->quantised ? (double)tensor_bytes(&t->quantised->scale) : 0;
    return (double)tensor_bytes(t) + scales;
}

/* Numbers, or codes and scales, of about Normal(0, std). */
static void fill(Params *params, Tensor *t, float std, uint64_t stream) {
    Context *ctx = params->ctx;
    if (!t->quantised) {
        bench_fill(ctx, t, stream);
        for (int64_t i = 0; i < tensor_count(t); i++) ((float *)t->data)[i] *= std;
        return;
    }
    size_t bytes = tensor_bytes(t), scales = (size_t)tensor_count(&t->quantised->scale);
    uint8_t *codes = t->data;
    float *scale = t->quantised->scale.data;
    for (size_t i = 0; i < bytes; i++) /* E4M3: below 2, no NaN */
        codes[i] = (uint8_t)((i * 2654435761u + stream * 40503u) >> 13) &
                   (t->dtype == F8_E4M3 ? 0xbf : 0xff);
    for (size_t i = 0; i < scales; i++)
        scale[i] = std / (t->dtype == U8 ? 74 : t->dtype == I4 ? 4.6f : 0.6f);
}

/* ---- one product ---- */

typedef struct Product {
    Params params;
    Tensor *w, *x;
} Product;

static void multiply(Context *ctx, void *user) {
    const Product *p = user;
    ArenaMark mark = arena_mark(&ctx->data);
    linear(ctx, p->x, p->w, NULL);
    arena_release(&ctx->data, mark);
    arena_reset(&ctx->host);
}

static void bench_product(Bench *bench, int64_t rows, int64_t out, int64_t in, int threads) {
    static const Holding *const held[] = {&plain,   &int8,      &int8_row,  &int8_32, &int4,
                                          &int4_32, &int8_only, &int4_only, &fp8_only};
    Context *ctx = bench->ctx;
    double first = 0;
    bench_head("y = x W^T, W %lld x %lld, %lld row%s of x, %d thread%s", (long long)out,
               (long long)in, (long long)rows, rows > 1 ? "s" : "", threads,
               threads > 1 ? "s" : "");
    Tensor x = tensor_view(device_alloc(ctx->gpu, (size_t)(rows * in) * sizeof(float)), "x", F32,
                           CPU, SHAPE(rows, in));
    bench_fill(ctx, &x, 2);
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        Product p = {.x = &x};
        Error err;
        params_init(&p.params, ctx);
        p.w = params_new(&p.params, NULL, "w", SHAPE(out, in));
        hold(&p.params, p.w, held[i]);
        if (params_allocate(&p.params, false, &err)) fatal("%s", err.text);
        fill(&p.params, p.w, 0.02f, 1);
        BenchTime time = bench_row(bench, 2.0 * (double)(rows * out) * (double)in, bytes_of(p.w),
                                   multiply, &p, "  %s", held[i]->name);
        if (i == 0) first = time.min;
        if (i) printf("    %.2fx F32\n", first / time.min);
        bench_save(bench, "product,%s,,%lld,%d,%.2f", held[i]->name, (long long)rows, threads,
                   first / time.min);
        params_free(&p.params);
    }
    device_free(ctx->gpu, x.data);
}

/* ---- the ways of one product, on one core, from a cache ---- */

typedef enum Way { FLOATS, FEW, PANELS, WHOLE_NUMBERS, WAYS } Way;

typedef struct WayWork {
    Way way;
    QuantisedProduct p;
    const float *numbers;
} WayWork;

static void one_way(Context *ctx, void *user) {
    const WayWork *k = user;
    const QuantisedProduct *p = &k->p;
    int64_t in = p->w.in, out = p->w.out;
    ArenaMark mark = arena_mark(&ctx->data);
    if (k->way == FLOATS)
        cpu_matmul(
            &(CpuMatmul){p->y, NULL, out, {p->x, in, 1}, {k->numbers, 1, in}, p->rows, out, in});
    if (k->way == FEW) quantised_few_rows_cpu(p);
    if (k->way == PANELS) quantised_panels_cpu(p);
    if (k->way == WHOLE_NUMBERS)
        quantised_int8_cpu(p, quantised_rows(ctx, p->x, in, p->rows, &p->w));
    arena_release(&ctx->data, mark);
}

/* Where quantised.c's choice comes from. */
static void bench_ways(Bench *bench) {
    enum { OUT = 128, IN = 4096, MOST_ROWS = 256 };
    static const Holding *const held[] = {&int8, &int4, &fp8_only};
    Context *ctx = bench->ctx;
    Tensor *x = bench_tensor(ctx, "x", F32, 1, SHAPE(MOST_ROWS, IN));
    Tensor *y = bench_tensor(ctx, "y", F32, 2, SHAPE(MOST_ROWS, OUT));
    Tensor *numbers = bench_tensor(ctx, "w", F32, 3, SHAPE(OUT, IN));
    omp_set_num_threads(1);
    printf("\nmicroseconds of W %d x %d, one core: numbers in registers, in panels, and x in INT8\n"
           "  rows     F32 |  INT8 g128: few panels    int8 |  INT4 g128: few panels    int8 |"
           "  FP8: few panels\n",
           OUT, IN);
    for (int rows = 1; rows <= MOST_ROWS; rows *= rows == 16 ? 16 : 2) {
        for (int i = 0; i < 3; i++) {
            Params params;
            Error err;
            params_init(&params, ctx);
            Tensor *w = params_new(&params, NULL, "w", SHAPE(OUT, IN));
            hold(&params, w, held[i]);
            if (params_allocate(&params, false, &err)) fatal("%s", err.text);
            fill(&params, w, 0.02f, 1);
            WayWork work = {.numbers = numbers->data,
                            .p = {.y = y->data,
                                  .x = x->data,
                                  .y_row = OUT,
                                  .x_row = IN,
                                  .rows = rows,
                                  .w = quantised_matrix(w, 0),
                                  .count = OUT}};
            for (Way way = i ? FEW : FLOATS; way < WAYS; way++) {
                static const char *const columns[] = {"  %4d %7.1f |", "  %14.1f", " %6.1f",
                                                      " %7.1f |"};
                if (way == WHOLE_NUMBERS && held[i]->dtype == F8_E4M3) continue;
                work.way = way;
                double us = 1e6 * bench_time(ctx, one_way, &work, bench->seconds / 4).min;
                if (way == FLOATS)
                    printf(columns[way], rows, us);
                else
                    printf(columns[way], us);
                fflush(stdout);
            }
            params_free(&params);
        }
        printf("\n");
    }
    context_reset(ctx);
}

/* ---- a whole decoder ---- */

enum { CONTEXT = 64 }; /* tokens that the new one sees */

/* 10_full_model's preset "large", with a head of its own. */
static DecoderConfig config_large(void) {
    DecoderConfig cfg = {.vocab_size = 50257, .num_hidden_layers = 16};
    cfg.block = (BlockConfig){.hidden_size = 1024,
                              .intermediate_size = 3072,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {1024, 16, 384, 256, 64, 32, 64, false},
                              .first_k_dense_replace = 1,
                              .moe = moe_config(1024, 512, 32, 4)};
    cfg.block.moe.n_shared_experts = 1;
    return cfg;
}

typedef struct Model {
    Params params;
    Decoder decoder;
    DecoderCache cache;
    int32_t step;
} Model;

/* One token behind CONTEXT others: another one each time, for it must choose experts of its own. */
static void decode(Context *ctx, void *user) {
    Model *m = user;
    Error err;
    int vocab = m->decoder.cfg.vocab_size;
    int32_t id = (int32_t)(philox(4, 0, (uint64_t)m->step++).word[0] % (uint32_t)vocab);
    decoder_cache_truncate(&m->cache, -1, CONTEXT);
    if (decoder_cache_reserve(&m->cache, NULL, 1, &err)) fatal("%s", err.text);
    Tensor *ids = tensor_copy_in(ctx, "ids", I32, &id, SHAPE(1, 1));
    DecoderRun run = {.cache = &m->cache};
    decoder_logits(ctx, &m->decoder, decoder_decode(ctx, &m->decoder, ids, &run));
    context_reset(ctx);
}

static void prompt(Context *ctx, Model *m) {
    int32_t ids[CONTEXT];
    Error err;
    for (int i = 0; i < CONTEXT; i++) ids[i] = i * 97;
    if (decoder_cache_init(&m->cache, ctx, &m->decoder.cfg.block, m->decoder.cfg.num_hidden_layers,
                           1, 2 * CONTEXT, &err) ||
        decoder_cache_reserve(&m->cache, NULL, CONTEXT, &err))
        fatal("%s", err.text);
    DecoderRun run = {.cache = &m->cache};
    decoder_states(ctx, &m->decoder, tensor_copy_in(ctx, "ids", I32, ids, SHAPE(1, CONTEXT)), &run);
    context_reset(ctx);
}

/* Registers, holds and fills the model; returns the bytes that a token reads. */
static double model_init(Model *m, Context *ctx, const Holding *layers, const Holding *head) {
    DecoderConfig cfg = config_large();
    const RouterConfig *router = &cfg.block.moe.router;
    double bytes = 0;
    Error err;
    params_init(&m->params, ctx);
    decoder_register(&m->decoder, &m->params, &cfg);
    for (int i = 0; i < cfg.num_hidden_layers; i++) {
        Tensor **places[BLOCK_LINEARS];
        int count = block_linears(&m->decoder.layers[i], places);
        for (int j = 0; j < count; j++) hold(&m->params, *places[j], layers);
    }
    hold(&m->params, m->decoder.lm_head, head);
    if (params_allocate(&m->params, false, &err)) fatal("%s", err.text);
    for (int i = 0; i < m->params.count; i++) {
        Tensor *t = m->params.list[i];
        double share =
            t->ndim == 3 ? 1.0 * router->num_experts_per_tok / router->n_routed_experts : 1;
        if (t->ndim == 1)
            params_fill(&m->params, t, 1);
        else
            fill(&m->params, t, 2 / sqrtf((float)tensor_dim(t, -1)), (uint64_t)i);
        if (t != m->decoder.embed_tokens) bytes += share * bytes_of(t);
    }
    prompt(ctx, m);
    return bytes;
}

static void bench_decoder(Bench *bench, int threads) {
    static const struct {
        const Holding *layers, *head;
    } held[] = {{&plain, &plain}, {&int8, &plain}, {&int8, &int8},          {&int4, &plain},
                {&int4, &int8},   {&int4, &int4},  {&int8_only, &int8_only}};
    double first = 0;
    bench_head("a token of a decoder of the size of `large` behind %d, %d thread%s", CONTEXT,
               threads, threads > 1 ? "s" : "");
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        Model m = {0};
        double bytes = model_init(&m, bench->ctx, held[i].layers, held[i].head);
        BenchTime time = bench_row(bench, 0, bytes, decode, &m, "  %s, head %s",
                                   held[i].layers->name, held[i].head->name);
        if (i == 0) first = time.min;
        printf("    %.1f tokens/s, %.2fx F32\n", 1 / time.min, first / time.min);
        bench_save(bench, "decoder,%s,%s,1,%d,%.2f", held[i].layers->name, held[i].head->name,
                   threads, first / time.min);
        decoder_cache_free(&m.cache);
        decoder_free(&m.decoder);
        params_free(&m.params);
    }
}

int main(int argc, char **argv) {
    enum { PRODUCTS_PART, DECODER_PART, WAYS_PART, ALL_PARTS };
    static const char *const parts[] = {"products", "decoder", "ways", "all", NULL};
    Bench bench = {0};
    int rows = 0, out = 32768, in = 4096, part = ALL_PARTS;
    const Option flags[] = {
        OPT_CHOICE("what", 0, "PART", &part, parts, "products, decoder, ways or all (default)"),
        OPT_INT("rows", 0, "N", &rows, 1, 4096, "Rows of x (default: 1, 4 and 16)"),
        OPT_INT("out", 0, "N", &out, 1, 1 << 20, "Rows of W"),
        OPT_INT("in", 0, "N", &in, 128, 1 << 16, "Columns of W: a multiple of 128"), OPT_END};
    bench_open(&bench, argc, argv, "Products with quantised weights, and a decoder, on the CPU.",
               flags, "08_quant/figures/out/products.csv", "what,held,head,rows,threads,times_f32");
    int all = omp_get_max_threads(); /* as --threads says */
    if (bench.ctx->device != CPU) fatal("these are the CPU's kernels: --device cpu");
    if (in % 128) fatal("--in %d: groups of 128 do not divide it", in);
    bool products = part == PRODUCTS_PART || part == ALL_PARTS;
    bool decoder = part == DECODER_PART || part == ALL_PARTS;
    for (int threads = 1; threads <= all && (products || decoder);
         threads += all > 1 ? all - 1 : 1) {
        static const int few[] = {1, 4, 16};
        omp_set_num_threads(threads);
        bench_ceilings(&bench);
        for (int i = 0; i < (rows ? 1 : 3) && products; i++)
            bench_product(&bench, rows ? rows : few[i], out, in, threads);
        if (decoder) bench_decoder(&bench, threads);
    }
    if (part == WAYS_PART || part == ALL_PARTS) bench_ways(&bench);
    bench_close(&bench);
    return 0;
}
