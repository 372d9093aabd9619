/*
 * What the tests of this chapter share: a small decoder with modules behind it. Latent attention
 * without positions, so that there are caches; the first layer dense, then experts.
 */
#ifndef TEST_MTP_H
#define TEST_MTP_H

#include "06_mtp/mtp.h"

#include "common/program/testing.h"

enum { VOCAB = 11, LAYERS = 2, HIDDEN = 32 };

typedef struct Module {
    Params params;
    Decoder decoder;
    Mtp mtp;
} Module;

static inline DecoderConfig small_config(void) {
    DecoderConfig cfg = {.vocab_size = VOCAB, .num_hidden_layers = LAYERS};
    cfg.block = (BlockConfig){.hidden_size = HIDDEN,
                              .intermediate_size = 64,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {HIDDEN, 2, 0, 16, 16, 0, 16, false},
                              .first_k_dense_replace = 1,
                              .moe = moe_config(HIDDEN, 16, 4, 2)};
    return cfg;
}

/* The same first numbers whatever depth is. Its address must not change. */
static inline void module_init(Module *m, Context *ctx, DecoderConfig cfg, int depth) {
    Error err = {0};
    params_init(&m->params, ctx);
    check_ok(decoder_check(&cfg, &err), &err);
    decoder_register(&m->decoder, &m->params, &cfg);
    mtp_register(&m->mtp, &m->params, &m->decoder, depth);
    check_ok(params_allocate(&m->params, true, &err), &err);
    DecoderStart start = {0.5f, 0.18f, 0.18f, 0.18f};
    decoder_randomize(&m->params, &m->decoder, start);
    mtp_randomize(&m->params, &m->mtp, start);
}

/* ids[i] = (i + shift)^2 mod 11: the next one follows from the last two. [B, T] */
static inline Tensor *squares(Context *ctx, int B, int T, int shift) {
    int32_t ids[512];
    for (int i = 0; i < B * T; i++) ids[i] = (i + shift) * (i + shift) % VOCAB;
    return tensor_copy_in(ctx, "ids", I32, ids, SHAPE(B, T));
}

#endif
