/*
 * Quantised weights on the GPU: every product against the numbers that the codes mean, a row of few
 * against the same row alone, and a decoder that takes its steps on such weights.
 */
#include "08_quant/quantised_gpu.h"
#include "08_quant/tests/test_quantised.h"

#include "05_moe/decoder/block_decode.h"
#include "05_moe/decoder/decode_graph.h"
#include "05_moe/grouped.h"
#include "common/core/ops_kernels.h"

#include <stdio.h>

#ifdef WITH_CUDA

/* Beside test_quantised.h's: what fits the kernels for few rows, of each kind one that is large
 * (some 400 tiles of 16 rows on 132 processors), the last rows of which are no whole tile. */
static const HeldCase gpu_cases[] = {
    {U8, 1, 64, 0, 16, 64},
    {U8, 1, 192, 0, 40, 192},
    {U8, 1, 32, 0, 70, 96},
    {U8, 1, 512, 0, 1037, 512},
    {U8, 1, 128, 0, 6429, 384},
    {I4, 1, 128, 0, 48, 256},
    {I4, 1, 128, 0, 6429, 384},
    {I4, 1, 64, 0, 57, 192},
    {I4, 1, 32, 0, 6400, 96},
    {F8_E4M3, 128, 128, 0, 16, 64},
    {F8_E4M3, 128, 128, 0, 300, 544},
    {F8_E4M3, 128, 128, 0, 6429, 320},
    {I4, 1, 128, 0, 48, 128},
    {I4, 1, 128, 0, 3000, 2176},
    {I4, 1, 128, 0, 6429, 2048},
    {U8, 1, 1024, 0, 6429, 1024},
    {F8_E4M3, 128, 128, 0, 6429, 1024},
    {I4, 1, 128, 0, 33797, 128},
    /* Large, of spans. The last tile is none: rows of the one before it come again. */
    {I4, 1, 128, 0, 3085, 2048}, /* half of the slots are empty */
    {I4, 1, 128, 0, 1293, 5120}, /* some have one span more */
    {I4, 1, 128, 0, 6365, 2048},
    {U8, 1, 2048, 0, 3085, 2048},
    {U8, 1, 256, 0, 2761, 2304},
    {U8, 1, 1280, 0, 6371, 1280},
    {F8_E4M3, 128, 128, 0, 3085, 2048},
    {F8_E4M3, 128, 128, 0, 6357, 1280},
    {I4, 1, 128, 0, 33803, 512}, /* vocabularies */
    {U8, 1, 256, 0, 33801, 256},
};
enum { GPU_CASES = sizeof gpu_cases / sizeof *gpu_cases };

static const HeldCase *case_of(int i) {
    return i < GPU_CASES ? gpu_cases + i : held_cases + i - GPU_CASES;
}

/* y = base + x W^T + bias in double precision; base and bias may be NULL. */
static float *reference(Context *ctx, Pair *p, const Tensor *x, const Tensor *bias,
                        const Tensor *base) {
    int64_t rows = tensor_rows(x), in = tensor_dim(x, -1), out = tensor_dim(p->held, 0);
    float *w = test_floats(in * out), *y = test_floats(rows * out);
    params_get(&p->params, p->held, w);
    linear_reference_cpu(y, base ? test_values(ctx, base) : NULL, test_values(ctx, x), w,
                         bias ? test_values(ctx, bias) : NULL, rows, in, out);
    free(w);
    return y;
}

/* As of ordinary weights (test_few_rows.c); where many rows are multiplied as numbers, in BF16 each
 * weight is rounded, too. */
static double close_enough(DType dtype, int64_t in, int64_t rows) {
    double rounded = dtype == BF16 && rows > FEW_ROWS ? 0x1p-9 : 0;
    return 3 * tolerance_of(dtype, in) + rounded;
}

CUDA_TEST(quantised_gpu, linear_is_that_of_the_numbers) {
    static const int64_t rows[] = {1, 3, 8, 9, 17, 2 * FEW_ROWS + 1, FEW_ROWS + 1};
    for (int i = 0; i < GPU_CASES + HELD_CASES; i++) {
        Pair p;
        const HeldCase *c = case_of(i);
        if (c->in < 8) continue; /* BF16: cuBLAS has no product of a column */
        Context ctx = test_context(CUDA, dtype);
        pair_init(&p, &ctx, c, i % 2 ? &quantised_products : &quantised_weight_only);
        Tensor *bias = test_normal(&ctx, "bias", 3, SHAPE(c->out));
        Tensor *norm = test_normal(&ctx, "norm", 4, SHAPE(c->in));
        for (int r = 0; r < 7; r += 1 + (c->out > 2000)) {
            Tensor *x = test_normal(&ctx, "x", 5, SHAPE(rows[r], c->in));
            Tensor *base = test_normal(&ctx, "base", 6, SHAPE(rows[r], c->out));
            Tensor *normed = rmsnorm(&ctx, x, norm, 1e-6f);
            double close = close_enough(dtype, c->in, rows[r]);
            char what[64];
            snprintf(what, sizeof what, "case %d, %lld rows", i, (long long)rows[r]);
            check_tensor(&ctx, what, linear(&ctx, x, p.held, NULL),
                         reference(&ctx, &p, x, NULL, NULL), close);
            check_tensor(&ctx, what, linear_residual(&ctx, x, p.held, bias, (Residual){.x = base}),
                         reference(&ctx, &p, x, bias, base), close);
            check_tensor(&ctx, what, rmsnorm_linear(&ctx, x, norm, 1e-6f, p.held),
                         reference(&ctx, &p, normed, NULL, NULL), close);
            if (rows[r] > FEW_ROWS) continue;
            Tensor *y = tensor_new(&ctx, "y", dtype, base->shape, base->ndim);
            test_poison(&ctx, y);
            QuantisedPlain plain = {.y = y->data,
                                    .base = base->data,
                                    .x = x->data,
                                    .bias = bias->data,
                                    .rows = rows[r],
                                    .w = quantised_codes(p.held)};
            quantised_plain_cuda(ctx.gpu, dtype, &plain);
            check_tensor(&ctx, what, y, reference(&ctx, &p, x, bias, base), close);
        }
        params_free(&p.params);
        context_free(&ctx);
    }
}

/* Chapter 06 looks at several rows where plain decoding looks at one. */
CUDA_TEST(quantised_gpu, a_row_of_few_is_that_of_one_alone) {
    static const int64_t rows[] = {2, 3, 8, 9, 16, 17, 32};
    for (int i = 0; i < GPU_CASES; i++) {
        Pair p;
        const HeldCase *c = gpu_cases + i;
        Context ctx = test_context(CUDA, dtype);
        pair_init(&p, &ctx, c, &quantised_products);
        Tensor *x = test_normal(&ctx, "x", 5, SHAPE(32, c->in));
        float *alone = test_floats(32 * c->out);
        for (int n = 0; n < 32; n++) {
            Tensor one = *x;
            one.shape[0] = 1;
            one.data = (char *)x->data + (size_t)(n * c->in) * dtype_size(dtype);
            if ((uintptr_t)one.data % 16) continue; /* not among the kernels' addresses */
            tensor_download(&ctx, alone + n * c->out, linear(&ctx, &one, p.held, NULL));
        }
        for (int r = 0; r < 7; r++) {
            Tensor some = *x;
            some.shape[0] = rows[r];
            float *y = test_values(&ctx, linear(&ctx, &some, p.held, NULL));
            check_close("rows", y, alone, rows[r] * c->out, 0);
        }
        params_free(&p.params);
        context_free(&ctx);
    }
}

/* Numbers: all codes of each kind, exactly in F32 and rounded in BF16. */
CUDA_TEST(quantised_gpu, numbers_of_every_code) {
    static const HeldCase cases[] = {{U8, 1, 256, 0, 3, 256},      {U8, 1, 32, 0, 3, 256},
                                     {I4, 1, 64, 0, 3, 256},       {I4, 1, 128, 0, 3, 256},
                                     {F8_E4M3, 2, 100, 0, 3, 256}, {F8_E4M3, 128, 128, 0, 3, 256}};
    for (int i = 0; i < 6; i++) {
        Pair p;
        const HeldCase *c = cases + i;
        uint8_t codes[3 * 256];
        float scales[24];
        for (int j = 0; j < 24; j++) scales[j] = 0.37f * (float)(j + 1);
        Context ctx = test_context(CUDA, dtype);
        pair_init(&p, &ctx, c, &quantised_products);
        for (int j = 0; j < 3 * 256; j++) codes[j] = (uint8_t)(j * 7 + j / 256);
        for (int j = 0; j < 3 * 256 && c->dtype == F8_E4M3; j++)
            if ((codes[j] & 0x7f) == 0x7f) codes[j] = 0;
        params_set_codes(&p.params, p.held, codes, scales);
        float *want = test_floats(3 * 256);
        params_get(&p.params, p.held, want);
        for (int j = 0; j < 3 * 256; j++)
            if (dtype == BF16) want[j] = bf16_to_float(bf16_from_float(want[j]));
        Tensor *numbers = tensor_new(&ctx, "numbers", dtype, SHAPE(2, 256));
        p.held->quantised->products->dequantise(&ctx, numbers->data, p.held, 1, 2);
        check_tensor(&ctx, "numbers", numbers, want + 256, 0);

        /* And inside the products: rows of the unit matrix pick a column of W each. */
        float unit[32 * 256];
        for (int first = 0; first < 256; first += 32) {
            for (int j = 0; j < 32 * 256; j++) unit[j] = j % 256 == first + j / 256;
            Tensor *x = tensor_copy_in(&ctx, "x", dtype, unit, SHAPE(32, 256));
            float *y = test_values(&ctx, linear(&ctx, x, p.held, NULL));
            for (int j = 0; j < 32 * 3; j++)
                cr_assert(y[j] == want[j % 3 * 256 + first + j / 3], "%s, column %d: %g, not %g",
                          dtype_name(c->dtype), first + j / 3, y[j],
                          want[j % 3 * 256 + first + j / 3]);
        }
        params_free(&p.params);
        context_free(&ctx);
    }
}

CUDA_TEST(quantised_gpu, experts_are_those_of_the_numbers) {
    static const HeldCase cases[] = {
        {U8, 1, 64, 4, 70, 64}, {I4, 1, 32, 4, 33, 96}, {F8_E4M3, 128, 128, 4, 160, 48}};
    static const int32_t begins[][5] = {{0, 1, 1, 3, 4}, {0, 20, 20, 21, 70}, {0, 0, 0, 0, 0}};
    for (int i = 0; i < 9; i++) {
        Pair p;
        const HeldCase *c = cases + i % 3;
        const int32_t *begin = begins[i / 3];
        Context ctx = test_context(CUDA, dtype);
        pair_init(&p, &ctx, c, &quantised_products);
        int64_t used = begin[4];
        Tensor *offsets = tensor_copy_in(&ctx, "offsets", I32, begin, SHAPE(5));
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(used + 2, c->in)); /* two belong to nobody */
        float *is = test_values(&ctx, grouped_linear(&ctx, x, p.held, offsets));
        float *should = test_values(&ctx, grouped_linear(&ctx, x, p.plain, offsets));
        /* the plain weight is rounded in BF16, and so is the held one where rows are many */
        check_close("grouped", is, should, used * c->out,
                    3 * tolerance_of(dtype, c->in) + (dtype == BF16 ? 0x1p-8 : 0));
        params_free(&p.params);
        context_free(&ctx);
    }
}

/* ---- a decoder ---- */

enum { VOCAB = 131, PLACES = 96, LAYERS = 2 };

typedef struct Held {
    Params params;
    Decoder decoder;
} Held;

/* Sizes that the fused kernels take. A layer with a dense half, one with experts, of which a token
 * chooses `chosen`. */
static DecoderConfig decoder_config(int chosen) {
    DecoderConfig cfg = {.vocab_size = VOCAB, .num_hidden_layers = LAYERS};
    cfg.block = (BlockConfig){.hidden_size = 128,
                              .intermediate_size = 160,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {128, 4, 96, 64, 32, 16, 32, false},
                              .first_k_dense_replace = 1,
                              .moe = moe_config(128, 96, 8, chosen)};
    cfg.block.moe.n_shared_experts = 1;
    return cfg;
}

/* Every linear of attention and experts, in a format that its columns allow; what NONE of them is
 * stays as it is. Kinds: 0 to 2 one format for all, 3 one after the other. */
static void hold(Held *h, int kind) {
    for (int i = 0, n = 0; i < h->params.count; i++) {
        Tensor *t = h->params.list[i];
        if (!strstr(t->name, "_proj")) continue;
        int which = kind < 3 ? kind : n++ % 4;
        if (which == 0) params_set_quantised(&h->params, t, I4, 1, 32, &quantised_products);
        if (which == 1)
            params_set_quantised(&h->params, t, U8, 1, (int)tensor_dim(t, -1), &quantised_products);
        if (which == 2) params_set_quantised(&h->params, t, F8_E4M3, 128, 128, &quantised_products);
    }
}

static void held_init(Held *h, Context *ctx, const DecoderConfig *cfg, int kind) {
    params_init(&h->params, ctx);
    decoder_register(&h->decoder, &h->params, cfg);
    if (kind >= 0) hold(h, kind);
    check_ok(params_allocate(&h->params, false, &err), &err);
    for (int i = 0; i < h->params.count; i++) {
        Tensor *t = h->params.list[i];
        if (t->quantised)
            held_fill(&h->params, t, (uint64_t)i);
        else if (t->ndim == 1)
            params_fill(&h->params, t, 1);
        else
            params_normal(&h->params, t, t == h->decoder.lm_head ? 0.3f : 0.08f);
    }
}

/* The same decoder with numbers. */
static void numbers_init(Held *to, Context *ctx, const DecoderConfig *cfg, Held *from) {
    held_init(to, ctx, cfg, -1);
    for (int i = 0; i < to->params.count; i++) {
        float *numbers = test_floats(tensor_count(to->params.list[i]));
        params_get(&from->params, from->params.list[i], numbers);
        params_set(&to->params, to->params.list[i], numbers);
        free(numbers);
    }
}

static int32_t id_at(int b, int t) { return (17 * t + t * t + 31 * b) % VOCAB; }

/* The logits of `tokens` more in each of `batch` sequences, from place `from` on. */
static float *step_logits(Context *ctx, const Held *h, DecoderCache *cache, int from, int tokens) {
    int32_t ids[512];
    for (int i = 0; i < cache->batch * tokens; i++) ids[i] = id_at(i / tokens, from + i % tokens);
    const DecoderRun run = {.cache = cache};
    Tensor *t = tensor_copy_in(ctx, "ids", I32, ids, SHAPE(cache->batch, tokens));
    float *logits = test_values(
        ctx, decoder_logits(ctx, &h->decoder, decoder_decode(ctx, &h->decoder, t, &run)));
    context_reset(ctx);
    return logits;
}

static void cache_for(DecoderCache *cache, Context *ctx, const Held *h, int batch) {
    check_ok(decoder_cache_init(cache, ctx, &h->decoder.cfg.block, LAYERS, batch, PLACES, &err),
             &err);
}

/* All experts are chosen: rounding cannot change the choice. Prompts of more than FEW_ROWS rows,
 * then steps of few, which the fused kernels take on all these weights. */
CUDA_TEST(quantised_gpu, a_decoder_is_that_of_the_numbers) {
    const DecoderConfig cfg = decoder_config(8);
    for (int kind = 0; kind < 4; kind++) {
        Context ctx = test_context(CUDA, dtype);
        Held held, plain;
        DecoderCache of_held, of_plain;
        held_init(&held, &ctx, &cfg, kind), numbers_init(&plain, &ctx, &cfg, &held);
        cache_for(&of_held, &ctx, &held, 3), cache_for(&of_plain, &ctx, &plain, 3);
        static const int steps[] = {20, 1, 1, 5, 10, 1};
        for (int i = 0, from = 0; i < 6; from += steps[i++]) {
            float *is = step_logits(&ctx, &held, &of_held, from, steps[i]);
            float *should = step_logits(&ctx, &plain, &of_plain, from, steps[i]);
            char what[48];
            snprintf(what, sizeof what, "kind %d, step %d", kind, i);
            /* BF16 rounds the plain weights, and all that goes from kernel to kernel */
            check_close(what, is, should, 3 * steps[i] * VOCAB,
                        dtype == BF16 ? 16 * 0x1p-9 : 64 * tolerance_of(F32, 128));
        }
        BlockRun run = {.cache = &of_held.layers[1]};
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(3, 1, 128));
        BlockFused fused = block_fused(&ctx, x, &held.decoder.layers[1], &cfg.block, &run);
        bool one_kind = dtype == BF16 && kind < 3; /* else the halves are made of products */
        check_all(fused.attention == one_kind, fused.feed_forward == one_kind);
        context_free(&ctx);
    }
}

/* Two of eight experts for each token: with few rows the kernels go by choice, with more by
 * expert. */
CUDA_TEST(quantised_gpu, tokens_together_have_the_bits_of_single_steps) {
    const DecoderConfig cfg = decoder_config(2);
    for (int kind = 0; kind < 3; kind++) {
        Context ctx = test_context(CUDA, dtype);
        Held held;
        DecoderCache single, together;
        held_init(&held, &ctx, &cfg, kind);
        cache_for(&single, &ctx, &held, 1), cache_for(&together, &ctx, &held, 1);
        static const int steps[] = {1, 2, 3, 9, 17, 32};
        for (int i = 0, from = 0; i < 6; from += steps[i++]) {
            float *all = step_logits(&ctx, &held, &together, from, steps[i]);
            for (int t = 0; t < steps[i] && dtype == BF16; t++) /* F32: cuBLAS sums as it likes */
                check_close(dtype_name(kind == 0   ? I4
                                       : kind == 1 ? U8
                                                   : F8_E4M3),
                            all + t * VOCAB, step_logits(&ctx, &held, &single, from + t, 1), VOCAB,
                            0);
        }
        context_free(&ctx);
    }
}

CUDA_TEST(quantised_gpu, a_captured_step_is_a_single_one) {
    const DecoderConfig cfg = decoder_config(2);
    for (int kind = 0; kind < 4; kind++) {
        Context ctx = test_context(CUDA, dtype);
        Held held;
        DecoderCache single, captured;
        DecodeGraph graph;
        held_init(&held, &ctx, &cfg, kind);
        cache_for(&single, &ctx, &held, 2), cache_for(&captured, &ctx, &held, 2);
        check_ok(decode_graph_init(&graph, &ctx, &held.decoder, NULL, &captured, &err), &err);
        float *got = test_floats(2 * VOCAB);
        for (int t = 0; t < 70; t++) {
            const int32_t ids[2] = {id_at(0, t), id_at(1, t)};
            decode_logits(&graph, ids, got);
            check_close("step", got, step_logits(&ctx, &held, &single, t, 1), 2 * VOCAB,
                        dtype == BF16 ? 0 : 64 * tolerance_of(F32, 128));
        }
        decode_graph_free(&graph);
        context_free(&ctx);
    }
}

#endif
