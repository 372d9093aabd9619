/*
 * Figures of chapter 05 for the book: what a router does with one token's scores, and two models
 * that train side by side in the page, one left alone and one with V3's bias.
 *
 * Both models begin with the same weights and read the same stretches of the page's own text,
 * character by character. They are kept between calls; step 0 begins anew.
 */
#include "05_moe/decoder/decoder.h"
#include "common/core/optimizer.h"
#include "common/program/web.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- one token's router ---- */

enum { CHOICES = 8, TOKENS = 6 };

/* scoring, top_k, groups (1, 2, 4), topk_group, bias (on expert 0) -> scores [6, 8], chosen [6, 8]
 * (the weight of a chosen expert, else 0), counts [8] */
WEB(router) {
    Context ctx;
    RouterConfig cfg = {.hidden_size = 8,
                        .n_routed_experts = CHOICES,
                        .num_experts_per_tok = web_int("top_k", 1, 4),
                        .scoring_func =
                            web_int("scoring", 0, 1) ? SCORING_SIGMOID : SCORING_SOFTMAX,
                        .topk_method = TOPK_NOAUX_TC,
                        .n_group = 1 << web_int("groups", 0, 2),
                        .norm_topk_prob = true,
                        .routed_scaling_factor = 1};
    cfg.topk_group = web_int("topk_group", 1, cfg.n_group);
    while (cfg.topk_group * (CHOICES / cfg.n_group) < cfg.num_experts_per_tok) cfg.topk_group++;
    float bias[CHOICES] = {(float)web_number("bias", -1, 1)}, chosen[TOKENS * CHOICES] = {0};
    int32_t counts[CHOICES] = {0};
    web_context(&ctx, 1);
    Tensor *logits = tensor_new(&ctx, "logits", F32, SHAPE(TOKENS, CHOICES));
    for (int i = 0; i < TOKENS * CHOICES; i++)
        ((float *)logits->data)[i] = 1.2f * rng_normal(5, 1, (uint64_t)i);
    Tensor *b = tensor_copy_in(&ctx, "bias", F32, bias, SHAPE(CHOICES));
    Routing r = router_choose(&ctx, logits, b, NULL, &cfg);
    for (int i = 0; i < TOKENS * cfg.num_experts_per_tok; i++) {
        int e = ((int32_t *)r.indices->data)[i];
        chosen[i / cfg.num_experts_per_tok * CHOICES + e] = ((float *)r.weights->data)[i];
        counts[e]++;
    }
    web_tensor(&ctx, "scores", r.scores);
    web_floats("chosen", chosen, TOKENS * CHOICES);
    web_ints("counts", counts, CHOICES);
    web_value("topk_group", cfg.topk_group);
    context_free(&ctx);
}

/* ---- two models that train ---- */

enum { EXPERTS = 8, TOP_K = 2, HIDDEN = 32, INNER = 24, CONTEXT = 32, BATCH = 8, LAYERS = 2 };
enum { STEPS = 200, STEPS_A_CALL = 4, MOST_TEXT = 1 << 15 };

typedef struct Trainee {
    Context ctx;
    Params params;
    Decoder model;
    AdamW adamw;
} Trainee;

static Trainee trainee[2]; /* left alone; balanced */
static int32_t text[MOST_TEXT];
static int letters, alphabet;

static void read_text(void) {
    char *bytes = must_alloc(MOST_TEXT, 1);
    int id[256];
    memset(id, -1, sizeof id);
    web_text(bytes, MOST_TEXT, "text");
    letters = (int)strlen(bytes);
    alphabet = 0;
    for (int i = 0; i < letters; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (id[c] < 0) id[c] = alphabet++;
        text[i] = id[c];
    }
    free(bytes);
    if (letters < 4 * CONTEXT) fatal("the text to learn from is too short");
}

static void begin(Trainee *t, bool balanced) {
    Error err;
    MoeConfig moe = moe_config(HIDDEN, INNER, EXPERTS, TOP_K);
    moe.router.topk_method = balanced ? TOPK_NOAUX_TC : TOPK_GREEDY;
    moe.n_shared_experts = 1;
    DecoderConfig cfg = {.vocab_size = alphabet,
                         .num_hidden_layers = LAYERS,
                         .places = CONTEXT,
                         .block = {.hidden_size = HIDDEN,
                                   .intermediate_size = 2 * HIDDEN,
                                   .rms_norm_eps = 1e-6f,
                                   .multihead = {HIDDEN, 2, 2, HIDDEN / 2, false},
                                   .first_k_dense_replace = 1,
                                   .moe = moe}};
    decoder_free(&t->model);
    params_free(&t->params);
    context_free(&t->ctx);
    web_context(&t->ctx, 1);
    params_init(&t->params, &t->ctx);
    if (decoder_check(&cfg, &err)) fatal("%s", err.text);
    decoder_register(&t->model, &t->params, &cfg);
    if (params_allocate(&t->params, true, &err)) fatal("%s", err.text);
    float std = 1 / sqrtf(HIDDEN);
    decoder_randomize(&t->params, &t->model, (DecoderStart){0.5f, std, std, std});
    t->adamw = adamw_defaults();
}

/* One step on the stretches that (step, row) draws; adds the last layer's load to counts. Returns
 * the loss. */
static float train(Trainee *t, int step, float gamma, int32_t *counts) {
    int32_t ids[BATCH * CONTEXT], targets[BATCH * CONTEXT], load[EXPERTS];
    Schedule schedule = {STEPS, 20, 0, 1e-2f, 2e-3f};
    for (int b = 0; b < BATCH; b++) {
        int places = letters - CONTEXT - 1;
        int from = (int)((float)places * rng_uniform(2, (uint64_t)step, (uint64_t)b));
        memcpy(ids + b * CONTEXT, text + from, CONTEXT * sizeof *ids);
        memcpy(targets + b * CONTEXT, text + from + 1, CONTEXT * sizeof *targets);
    }
    Tensor *x = tensor_copy_in(&t->ctx, "ids", I32, ids, SHAPE(BATCH, CONTEXT)), *loss;
    Tensor *y = tensor_copy_in(&t->ctx, "targets", I32, targets, SHAPE(BATCH, CONTEXT));
    float value;
    params_zero_grad(&t->params);
    t->ctx.recording = true;
    Tensor *all = decoder_training_loss(&t->ctx, &t->model, x, y,
                                        &(DecoderRun){.training = &(BlockTraining){0}}, &loss);
    tape_backward(&t->ctx, all);
    tensor_download(&t->ctx, &value, loss);
    adamw_step(&t->adamw, &t->params, schedule_rate(&schedule, step), 1);
    tensor_download_ints(&t->ctx, load, t->model.records[LAYERS - 1].dispatch.counts);
    for (int e = 0; e < EXPERTS; e++) counts[e] += load[e];
    decoder_rebalance(&t->ctx, &t->model, gamma);
    context_reset(&t->ctx);
    return value;
}

/* text, gamma, step -> of these few steps, left alone and balanced: each expert's share, the mean
 * loss, MaxVio. */
WEB(balance) {
    int call = web_int("step", 0, STEPS / STEPS_A_CALL - 1), first = call * STEPS_A_CALL;
    float gamma = (float)web_number("gamma", 0, 0.1), loss[2] = {0}, vio[2], share[2 * EXPERTS];
    if (!call) {
        read_text();
        for (int i = 0; i < 2; i++) begin(&trainee[i], i);
    }
    for (int i = 0; i < 2; i++) {
        int32_t counts[EXPERTS] = {0};
        for (int s = 0; s < STEPS_A_CALL; s++)
            loss[i] += train(&trainee[i], first + s, gamma, counts) / STEPS_A_CALL;
        BalanceMeasures m = balance_measure(counts, EXPERTS, -1);
        vio[i] = (float)m.max_vio;
        for (int e = 0; e < EXPERTS; e++) share[i * EXPERTS + e] = (float)(counts[e] / m.tokens);
    }
    web_floats("share", share, 2 * EXPERTS);
    web_floats("loss", loss, 2);
    web_floats("max_vio", vio, 2);
    web_value("steps", first + STEPS_A_CALL);
    web_value("letters", letters);
    web_value("progress", (first + STEPS_A_CALL) / (double)STEPS);
    web_value("done", first + STEPS_A_CALL >= STEPS);
}
