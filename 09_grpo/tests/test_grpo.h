/*
 * What the tests of this chapter share: a small decoder with latent attention and learned places
 * over the tasks' characters, and questions of addition.
 */
#ifndef TEST_GRPO_H
#define TEST_GRPO_H

#include "09_grpo/grpo.h"
#include "09_grpo/rewards/tasks.h"

#include "common/program/testing.h"

#include <string.h>

enum { HIDDEN = 32, LAYERS = 2, PLACES = 24 };

typedef struct Module {
    Params params;
    Decoder decoder;
} Module;

enum { EXPERTS = 8, CHOSEN = 2 };

/* experts: all layers but the first have EXPERTS of them, of which a token goes to CHOSEN. */
static inline void module_with(Module *m, Context *ctx, bool experts) {
    DecoderConfig cfg = {
        .vocab_size = task_vocab_size(), .num_hidden_layers = LAYERS, .places = PLACES};
    cfg.block = (BlockConfig){.hidden_size = HIDDEN,
                              .intermediate_size = 64,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {HIDDEN, 2, 0, 16, 16, 0, 16, false}};
    if (experts) {
        cfg.block.moe = moe_config(HIDDEN, 24, EXPERTS, CHOSEN);
        cfg.block.first_k_dense_replace = 1;
    }
    params_init(&m->params, ctx);
    check_ok(decoder_check(&cfg, &err), &err);
    decoder_register(&m->decoder, &m->params, &cfg);
    check_ok(params_allocate(&m->params, true, &err), &err);
    decoder_randomize(&m->params, &m->decoder, (DecoderStart){0.5f, 0.18f, 0.18f, 0.18f});
}

static inline void module_init(Module *m, Context *ctx) { module_with(m, ctx, false); }

/* self: a TaskConfig */
static inline int task_prompt(void *self, uint64_t index, GrpoPrompt *prompt, Error *error) {
    Problem p;
    (void)error;
    task_problem(self, false, index, &p);
    int count = (int)strlen(p.prompt);
    *prompt = (GrpoPrompt){must_alloc((size_t)count, sizeof(int32_t)), count, must_strdup(p.prompt),
                           must_strdup(p.answer)};
    task_encode(p.prompt, prompt->ids, count);
    return 0;
}

static inline char *task_text(void *self, const int32_t *ids, int count) {
    (void)self;
    char *text = must_alloc((size_t)count + 1, 1);
    for (int i = 0; i < count; i++) text[i] = task_character(ids[i]);
    return text;
}

#endif
