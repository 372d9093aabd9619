/*
 * Small decoders of each kind of block, with channels that are larger than others, and a text for
 * them: what the tests of the driver work on.
 */
#ifndef TEST_QUANTISE_DECODER_H
#define TEST_QUANTISE_DECODER_H

#include "08_quant/methods/quantise_decoder.h"

#include "07_rope/rope.h"
#include "common/program/testing.h"

enum { VOCAB = 29, HIDDEN = 64, B = 6, T = 40 };

/* Decoders of each kind of block. The hidden size, inner sizes and ranks are multiples of 32. */
typedef enum Kind {
    LATENT_MOE,
    LATENT_NO_Q,
    MULTIHEAD_DENSE,
    GROUPED_QUERIES,
    CENTROIDS,
    EXPERTS_FIRST,
    KINDS
} Kind;

typedef struct Module {
    Params params;
    Decoder model;
    Rope rope;
    const Position *position;
    Calibration text;
} Module;

static inline DecoderConfig config(Kind kind) {
    DecoderConfig cfg = {.vocab_size = VOCAB, .num_hidden_layers = 2};
    cfg.block = (BlockConfig){.hidden_size = HIDDEN,
                              .intermediate_size = 96,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {HIDDEN, 2, kind == LATENT_NO_Q ? 0 : 32, 32, 16, 8, 32, true},
                              .multihead = {HIDDEN, 2, kind == GROUPED_QUERIES ? 1 : 2, 32, true},
                              .first_k_dense_replace = kind == EXPERTS_FIRST ? 0 : 1};
    if (kind == MULTIHEAD_DENSE || kind == GROUPED_QUERIES) {
        cfg.block.attention = ATTENTION_MULTIHEAD;
        cfg.places = T;
        return cfg;
    }
    cfg.block.moe = moe_config(HIDDEN, 32, 4, 2);
    cfg.block.moe.n_shared_experts = kind == LATENT_NO_Q ? 0 : 1;
    if (kind == CENTROIDS) {
        cfg.block.moe.router.gate_kind = GATE_CENTROID;
        cfg.block.moe.router.temperature = 0.3f;
    }
    return cfg;
}

/* Some rows of a linear layer 8 times as large: so are those channels of what reads its output. */
static inline void enlarge_rows(Tensor *w, Tensor *bias) {
    if (!w) return;
    float *numbers = w->data;
    for (int64_t i = 0; i < tensor_count(w); i++)
        if (i / tensor_dim(w, -1) % 13 == 5) numbers[i] *= 8;
    for (int64_t i = 0; bias && i < tensor_count(bias); i++)
        if (i % 13 == 5) ((float *)bias->data)[i] *= 8;
}

/* A text with some order in it; channels 3 and 40 of what both norms make are large, and so are
 * some of the values and of the inner ones. */
static inline void module_init(Module *m, Context *ctx, Kind kind) {
    DecoderConfig cfg = config(kind);
    *m = (Module){0};
    params_init(&m->params, ctx);
    check_ok(decoder_check(&cfg, &err), &err);
    decoder_register(&m->model, &m->params, &cfg);
    test_params(&m->params, 0);
    for (int i = 0; i < cfg.num_hidden_layers; i++) {
        Tensor *norms[] = {m->model.layers[i].input_layernorm,
                           m->model.layers[i].post_attention_layernorm};
        for (int n = 0; n < 2; n++)
            ((float *)norms[n]->data)[3] = 12, ((float *)norms[n]->data)[40] = -20;
        Block *b = &m->model.layers[i];
        enlarge_rows(b->mla.kv_b_proj, NULL),
            enlarge_rows(b->multihead.v_proj, b->multihead.v_bias);
        enlarge_rows(b->mlp.up_proj, NULL), enlarge_rows(b->moe.up_proj, NULL);
        enlarge_rows(b->moe.shared.up_proj, NULL);
    }
    if (cfg.block.attention == ATTENTION_MLA) {
        RopeConfig rope = {.dim = 8, .max_position_embeddings = T, .rope_theta = 10000};
        check_ok(rope_init(&m->rope, ctx, &rope, &err), &err);
        m->position = &m->rope.position;
    }
    int32_t ids[2000];
    for (int i = 0; i < 2000; i++) ids[i] = (i * i + i / 7) % VOCAB;
    check_ok(calibration_init(&m->text, ids, 2000, B, T, &err), &err);
    m->text.position = m->position;
}

static inline float *logits_of(Context *ctx, const Module *m) {
    Tensor *ids = tensor_copy_in(ctx, "ids", I32, m->text.ids, SHAPE(B, T));
    Tensor *x = decoder_states(ctx, &m->model, ids, &(DecoderRun){.position = m->position});
    return test_values(ctx, decoder_logits(ctx, &m->model, x));
}

static inline double difference(const float *a, const float *b) {
    return quant_error(a, b, B * T * VOCAB);
}

static const QuantFormat int4 = {I4, 1, 32, false}, int8 = {U8, 1, 0, false},
                         fine = {U8, 1, 8, false};

static inline QuantReport quantise_module(Context *ctx, Module *m, QuantMethod method,
                                          QuantFormat f, bool with_text) {
    QuantReport report = {0};
    QuantRecipe recipe = quant_recipe(method, f);
    check_ok(quantise_decoder(ctx, &m->model, &recipe, with_text ? &m->text : NULL, &report, &err),
             &err);
    return report;
}

#endif
