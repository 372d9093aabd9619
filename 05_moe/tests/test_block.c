/*
 * The decoder block: with each attention and each feed-forward layer, decoding from a cache equals
 * running the whole sequence, gradients are right, V3's parameters add up to its paper's.
 */
#include "05_moe/decoder/block_decode.h"
#include "05_moe/decoder/decoder_cache.h"

#include "common/program/testing.h"

#include <math.h>
#include <string.h>

enum { HIDDEN = 32 };

static BlockConfig config(AttentionKind attention, int experts) {
    BlockConfig cfg = {.hidden_size = HIDDEN,
                       .intermediate_size = 48,
                       .rms_norm_eps = 1e-6f,
                       .attention = attention,
                       .multihead = {HIDDEN, 4, 2, 8, false},
                       .mla = {.hidden_size = HIDDEN,
                               .num_attention_heads = 4,
                               .q_lora_rank = 16,
                               .kv_lora_rank = 16,
                               .qk_nope_head_dim = 8,
                               .qk_rope_head_dim = 0,
                               .v_head_dim = 8}};
    if (experts) {
        cfg.moe = moe_config(HIDDEN, 16, experts, 2);
        cfg.moe.n_shared_experts = 1;
    }
    return cfg;
}

/* Layer 1 of a model: dense where the config's first_k_dense_replace is above it. */
MODULE(Block, BlockConfig, block_init(params, "model.layers.3", cfg, 1), 0.2f)

/* Two prompts of 9 tokens, then 4 tokens one by one, against all 13 at once. */
DEVICE_TEST(block, cached_decoding_equals_the_whole_sequence) {
    enum { B = 2, T = 13, PROMPT = 9 };
    for (int kind = 0; kind < 4; kind++) {
        Context ctx = test_context(device, dtype);
        Module m;
        /* In BF16 a rounding may turn a choice between two nearly equal experts: there all are
         * chosen. */
        int experts = dtype == BF16 ? 2 : 8;
        module_init(&m, &ctx, config((AttentionKind)(kind & 1), kind & 2 ? experts : 0));
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, HIDDEN));
        float *xh = test_values(&ctx, x);
        float *whole = test_values(&ctx, block_forward(&ctx, x, &m.w, &m.cfg, &(BlockRun){0}));
        DecoderCache cache;
        Error err = {0};
        check_ok(decoder_cache_init(&cache, &ctx, &m.cfg, 1, B, T, &err), &err);
        float got[B * T * HIDDEN];
        for (int from = 0; from < T;) {
            int count = from ? 1 : PROMPT;
            float part[B * PROMPT * HIDDEN];
            for (int b = 0; b < B; b++)
                memcpy(part + b * count * HIDDEN, xh + (b * T + from) * HIDDEN,
                       sizeof(float) * (size_t)(count * HIDDEN));
            check_ok(decoder_cache_reserve(&cache, NULL, count, &err), &err);
            decoder_cache_begin(&cache, count);
            Tensor *t = tensor_copy_in(&ctx, "part", dtype, part, SHAPE(B, count, HIDDEN));
            Tensor *y = (from ? block_decode : block_forward)(&ctx, t, &m.w, &m.cfg,
                                                              &(BlockRun){.cache = cache.layers});
            float *values = test_values(&ctx, y);
            for (int b = 0; b < B; b++)
                memcpy(got + (b * T + from) * HIDDEN, values + b * count * HIDDEN,
                       sizeof(float) * (size_t)(count * HIDDEN));
            from += count;
            cr_assert_eq(decoder_cache_length(&cache, -1), from);
        }
        /* Sums in another order. */
        check_close("decoded", got, whole, B * T * HIDDEN,
                    dtype == BF16 ? 16 * 0x1p-9 : 64 * tolerance_of(F32, HIDDEN));
        cr_assert(decoder_cache_reserve(&cache, NULL, 100, &err) == -1, "there is no room for 100");
        decoder_cache_truncate(&cache, -1, 5);
        cr_assert_eq(decoder_cache_length(&cache, -1), 5);
        decoder_cache_truncate(&cache, -1, 7); /* it has only 5 */
        cr_assert_eq(decoder_cache_length(&cache, -1), 5);
        context_free(&ctx);
    }
}

typedef struct Graph {
    Tensor *x, *c;
    Module *m;
} Graph;

static Tensor *block_loss(Context *ctx, void *user) {
    Graph *g = user;
    Tensor *y = block_forward(ctx, g->x, &g->m->w, &g->m->cfg, &(BlockRun){0});
    return weighted_sum(ctx, y, g->c);
}

/* Which blocks decode by fused kernels, half by half: multi-head attention does not, nor do experts
 * of which a record is wanted. mla_few_rows' and ffn_few_rows' own tests list what else
 * declines. */
CONTEXT_TEST(block, fused_halves) {
    enum { LATENT_EXPERTS, LATENT_DENSE, HEADS_EXPERTS, RECORD, RECORDING, END };
    for (int i = 0; i < END; i++) {
        AttentionKind kind = i == HEADS_EXPERTS ? ATTENTION_MULTIHEAD : ATTENTION_MLA;
        BlockConfig cfg = config(kind, i == LATENT_DENSE ? 0 : 8);
        cfg.intermediate_size = cfg.moe.moe_intermediate_size = 32;
        cfg.mla.kv_lora_rank = cfg.mla.q_lora_rank = 32;
        cfg.mla.qk_nope_head_dim = cfg.mla.v_head_dim = 16;
        Module m;
        DecoderCache cache;
        Error err = {0};
        module_init(&m, &ctx, cfg);
        check_ok(decoder_cache_init(&cache, &ctx, &cfg, 1, 2, 8, &err), &err);
        MoeRecord record;
        BlockRun run = {.cache = cache.layers, .record = i == RECORD ? &record : NULL};
        ctx.recording = i == RECORDING;
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(2, 1, HIDDEN));
        BlockFused fused = block_fused(&ctx, x, &m.w, &cfg, &run);
        ctx.recording = false;
        bool here = device == CUDA && i != RECORDING;
        cr_assert_eq(fused.attention, here && i != HEADS_EXPERTS, "attention, case %d", i);
        cr_assert_eq(fused.feed_forward, here && i != RECORD, "feed-forward, case %d", i);
    }
}

/* By x: the gradient comes through both residuals, both norms, attention and the experts. */
Test(block, gradients_agree_with_finite_differences) {
    for (int kind = 0; kind < 4; kind++) {
        Context ctx = test_context(CPU, F32);
        Module m;
        BlockConfig cfg = config((AttentionKind)(kind & 1), kind & 2 ? 6 : 0);
        module_init(&m, &ctx, cfg);
        Graph g = {.m = &m};
        g.x = test_normal(&ctx, "x", 41, SHAPE(1, 5, HIDDEN));
        g.c = test_normal(&ctx, "c", 42, SHAPE(1, 5, HIDDEN));
        Tensor *inputs[] = {g.x};
        check_gradients(&ctx, "block", block_loss, &g, inputs, 1, 60, 2e-3, 1.5e-2);
        context_free(&ctx);
    }
}

/* Every weight gets a gradient, and a few AdamW steps make the loss smaller. */
DEVICE_TEST(block, learns) {
    for (int kind = 0; kind < 4; kind++) {
        Context ctx = test_context(device, dtype);
        Module m;
        BlockConfig cfg = config((AttentionKind)(kind & 1), kind & 2 ? 4 : 0);
        BlockTraining training = {.losses.aux_loss_alpha = kind & 2 ? 0.01f : 0};
        module_init(&m, &ctx, cfg);
        AdamW adamw = adamw_defaults();
        float first = 0, last = 0;
        for (int step = 0; step < 8; step++) {
            Tensor *x = test_normal(&ctx, "x", 1, SHAPE(2, 11, HIDDEN));
            float target[2 * 11 * HIDDEN];
            for (int i = 0; i < 2 * 11 * HIDDEN; i++) target[i] = -rng_normal(2, 2, (uint64_t)i);
            Tensor *c = tensor_copy_in(&ctx, "c", F32, target, SHAPE(2, 11, HIDDEN));
            params_zero_grad(&m.params);
            ctx.recording = true;
            MoeRecord record;
            Tensor *y = block_forward(&ctx, x, &m.w, &m.cfg,
                                      &(BlockRun){.record = &record, .training = &training});
            Tensor *loss = weighted_sum(&ctx, y, c);
            cr_assert_eq(record.loss != NULL, (kind & 2) != 0);
            if (record.loss) loss = add(&ctx, loss, record.loss);
            tape_backward(&ctx, loss);
            float *value = test_values(&ctx, loss);
            last = value[0], first = step ? first : value[0];
            for (int i = 0; i < m.params.count; i++)
                cr_assert(m.params.list[i]->has_grad, "%s got no gradient", m.params.list[i]->name);
            cr_assert(isfinite(adamw_step(&adamw, &m.params, 0.01f, 1)));
            if (kind & 2) moe_rebalance(&ctx, &m.w.moe, 0.001f);
            context_reset(&ctx);
        }
        cr_assert(last < first - 10, "from %g to %g", first, last);
        context_free(&ctx);
    }
}

/* DeepSeek-V3: 61 layers of which 3 are dense, embedding and head of 129,280 x 7168. No token is
 * multiplied with the embedding: its row is looked up. */
Test(block, v3_has_671_billion_parameters) {
    BlockConfig v3 = {.hidden_size = 7168,
                      .intermediate_size = 18432,
                      .rms_norm_eps = 1e-6f,
                      .attention = ATTENTION_MLA,
                      .mla = {.hidden_size = 7168,
                              .num_attention_heads = 128,
                              .q_lora_rank = 1536,
                              .kv_lora_rank = 512,
                              .qk_nope_head_dim = 128,
                              .qk_rope_head_dim = 64,
                              .v_head_dim = 128},
                      .first_k_dense_replace = 3,
                      .moe = moe_config(7168, 2048, 256, 8)};
    v3.moe.n_shared_experts = 1;
    v3.moe.router.n_group = 8, v3.moe.router.topk_group = 4;
    v3.moe.router.routed_scaling_factor = 2.5f;
    int64_t table = 129280LL * 7168, active = table + 7168; /* the head and the last norm */
    int64_t total = table + active;
    for (int layer = 0; layer < 61; layer++) {
        total += block_parameters(&v3, layer);
        active += block_active_parameters(&v3, layer);
    }
    cr_assert_eq(total, 671026404352, "%lld", (long long)total);
    cr_assert_eq((active + 500000000) / 1000000000, 37, "%lld", (long long)active);
}

CPU_TEST(block, the_first_layers_are_dense) {
    BlockConfig cfg = config(ATTENTION_MLA, 8);
    cfg.first_k_dense_replace = 2;
    check_all(block_is_dense(&cfg, 1), !block_is_dense(&cfg, 2));
    Module dense, sparse;
    module_init(&dense, &ctx, cfg);
    cfg.first_k_dense_replace = 1;
    module_init(&sparse, &ctx, cfg);
    cfg.first_k_dense_replace = 2;
    cr_assert(params_find(&dense.params, "model.layers.3.mlp.gate_proj.weight"));
    cr_assert(!params_find(&dense.params, "model.layers.3.mlp.gate.weight"));
    cr_assert(params_find(&sparse.params, "model.layers.3.mlp.experts.gate_proj.weight"));
    cr_assert(params_find(&sparse.params, "model.layers.3.self_attn.kv_b_proj.weight"));
    cr_assert_eq(params_count(&sparse.params), block_parameters(&cfg, 2));
    cr_assert_eq(block_parameters(&cfg, 2) - block_active_parameters(&cfg, 2),
                 (8 - 2) * 3 * HIDDEN * 16);
    cr_assert_eq(block_parameters(&cfg, 1), block_active_parameters(&cfg, 1));
}

/* The same random numbers drop the same, others others; without recording nothing is dropped. */
CONTEXT_TEST(block, dropout_belongs_to_training) {
    enum { T = 7, COUNT = T * HIDDEN };
    BlockConfig cfg = config(ATTENTION_MLA, 4);
    Module m;
    module_init(&m, &ctx, cfg);
    const struct {
        float p;
        bool recording;
        uint64_t stream;
    } runs[5] = {
        {0, true, 1}, {0.5f, false, 1}, {0.5f, true, 100}, {0.5f, true, 100}, {0.5f, true, 102}};
    float *y[5];
    for (int i = 0; i < 5; i++) {
        ctx.rng.stream = runs[i].stream;
        ctx.recording = runs[i].recording;
        BlockTraining training = {.dropout = runs[i].p};
        Tensor *x = test_normal(&ctx, "x", 3, SHAPE(1, T, HIDDEN));
        y[i] = test_values(&ctx,
                           block_forward(&ctx, x, &m.w, &cfg, &(BlockRun){.training = &training}));
        ctx.recording = false;
        context_reset(&ctx);
    }
    cr_assert(!memcmp(y[0], y[1], COUNT * sizeof(float)), "dropout without recording");
    cr_assert(memcmp(y[0], y[2], COUNT * sizeof(float)), "no dropout while recording");
    cr_assert(!memcmp(y[2], y[3], COUNT * sizeof(float)), "one stream, two masks");
    cr_assert(memcmp(y[3], y[4], COUNT * sizeof(float)), "two streams, one mask");
}

Test(block, a_wrong_config_is_named) {
    BlockConfig fine = config(ATTENTION_MLA, 8), cfg;
#define REFUSED(field, value, says)                                  \
    cfg = fine, cfg.field = value;                                   \
    cr_assert(block_check(&cfg, &err) == -1, #field " is accepted"); \
    cr_assert(strstr(err.text, says), #field " says: %s", err.text)
    check_ok(block_check(&fine, &err), &err);
    REFUSED(hidden_size, 48, "hidden_size is 48, but the attention's is 32");
    REFUSED(intermediate_size, 0, "intermediate_size is 0");
    REFUSED(rms_norm_eps, 0, "rms_norm_eps is 0");
    REFUSED(first_k_dense_replace, -1, "first_k_dense_replace is -1");
    REFUSED(moe.router.hidden_size, 16, "hidden_size is 32, but the router's is 16");
    REFUSED(moe.router.num_experts_per_tok, 9, "num_experts_per_tok is 9");
    REFUSED(mla.kv_lora_rank, 0, "kv_lora_rank");
#undef REFUSED
}

Test(block, a_wrong_training_is_named) {
    BlockConfig cfg = config(ATTENTION_MLA, 8);
    const struct {
        BlockTraining training;
        const char *says;
    } wrong[] = {
        {{.dropout = 1}, "dropout is 1"},
        {{.losses.aux_loss_alpha = NAN}, "aux_loss_alpha is nan"},
        {{.losses.router_z_loss_coef = -1}, "router_z_loss_coef is -1"},
        {{.losses.load_loss_coef = 0.1f}, "only the noisy gate"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_assert_eq(block_training_check(&wrong[i].training, &cfg, &err), -1, "%s", wrong[i].says);
        cr_assert(strstr(err.text, wrong[i].says), "%s", err.text);
    }
    cr_assert_eq(block_training_check(&(BlockTraining){0}, &cfg, &err), 0, "%s", err.text);
    cfg.moe.router.num_experts_per_tok = 1;
    cr_assert_eq(block_training_check(&(BlockTraining){0}, &cfg, &err), -1);
    cr_assert(strstr(err.text, "the router cannot learn"), "%s", err.text);
}
