/*
 * What the tests of speculative decoding share: a decoder with modules, of sizes that the GPU's
 * kernels for a few rows take.
 */
#ifndef TEST_SPECULATE_H
#define TEST_SPECULATE_H

#include "06_mtp/mtp.h"

#include "common/core/cpu_matmul.h"
#include "common/program/testing.h"

#include <stdlib.h>

enum { SPECULATE_VOCAB = 48, LAYERS = 2, TEXTS = 4, CAPACITY = PAGE_TOKENS + 3 + 38 };

typedef struct SpeculateModel {
    Params params;
    Decoder decoder;
    Mtp mtp;
} SpeculateModel;

static inline DecoderConfig speculate_config(void) {
    DecoderConfig cfg = {.vocab_size = SPECULATE_VOCAB, .num_hidden_layers = LAYERS};
    cfg.block = (BlockConfig){.hidden_size = 64,
                              .intermediate_size = 96,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {64, 4, 32, 32, 16, 16, 16, false},
                              .first_k_dense_replace = 1,
                              .moe = moe_config(64, 32, 8, 2)};
    return cfg;
}

/* Its address must not change. */
static inline void speculate_model_init(SpeculateModel *m, Context *ctx, DecoderConfig cfg,
                                        int depth) {
    Error err = {0};
    params_init(&m->params, ctx);
    check_ok(decoder_check(&cfg, &err), &err);
    decoder_register(&m->decoder, &m->params, &cfg);
    mtp_register(&m->mtp, &m->params, &m->decoder, depth);
    check_ok(params_allocate(&m->params, false, &err), &err);
    DecoderStart start = {0.5f, 0.18f, 0.18f, 0.18f};
    decoder_randomize(&m->params, &m->decoder, start);
    mtp_randomize(&m->params, &m->mtp, start);
}

static inline void speculate_model_free(SpeculateModel *m) {
    mtp_free(&m->mtp);
    decoder_free(&m->decoder);
    params_free(&m->params);
}

#endif
