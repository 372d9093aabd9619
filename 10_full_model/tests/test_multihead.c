/*
 * The model with multi-head attention in the place of the latent one (kv_lora_rank 0): against the
 * formula, its gradients, with the cache as without, on every device, and what cannot be.
 */
#include "10_full_model/generate/generate.h"
#include "10_full_model/tests/test_world.h"

#include <math.h>

/* Heads of which a part is rotated, in sizes that no fast kernel takes; and 109m-mha's, whole heads
 * of 48, which tensor cores do. */
static ModelConfig plain(bool even) {
    ModelConfig cfg = even ? tiny_even_config(19) : tiny_config(19);
    cfg.q_lora_rank = cfg.kv_lora_rank = 0;
    cfg.qk_nope_head_dim = even ? 0 : 6;
    cfg.qk_rope_head_dim = even ? 48 : 4;
    cfg.v_head_dim = cfg.qk_nope_head_dim + cfg.qk_rope_head_dim;
    cfg.max_position_embeddings = 256;
    cfg.attention_bias = cfg.rope_interleave = !even;
    return cfg;
}

/* With every number of YaRN at work, on the angles, on cos and sin, and on the softmax. */
static ModelConfig stretched(ModelConfig cfg) {
    cfg.rope_type = ROPE_YARN, cfg.rope_factor = 8;
    cfg.original_max_position_embeddings = 32;
    cfg.rope_beta_fast = 32, cfg.rope_beta_slow = 1;
    cfg.rope_mscale = 2, cfg.rope_mscale_all_dim = 1;
    return cfg;
}

static void some_ids(int32_t *ids, int n, uint64_t stream) {
    for (int i = 0; i < n; i++) ids[i] = (int32_t)(philox(5, stream, (uint64_t)i).word[0] % 19);
}

/* ---- the formula ---- */

/* y [rows, out] = x W^T + b, as F32 numbers of the weights that the device has. */
static double *product(World *w, const double *x, int rows, const Tensor *weight,
                       const Tensor *bias) {
    Params *params = &w->model.params;
    int64_t out = tensor_dim(weight, 0), in = tensor_dim(weight, 1);
    float *m = test_weight(params, weight), *b = bias ? test_weight(params, bias) : NULL;
    double *y = calloc((size_t)(rows * out), sizeof *y);
    for (int64_t i = 0; i < rows * out; i++) {
        y[i] = b ? (double)b[i % out] : 0;
        for (int64_t j = 0; j < in; j++) y[i] += x[i / out * in + j] * (double)m[i % out * in + j];
    }
    free(m), free(b);
    return y;
}

/* Turns the last numbers of each head of x [T, heads, D], pair by pair. */
static void turn(double *x, int T, int heads, int D, const RopeConfig *rope) {
    double f[64], factor = rope_attention_factor(rope);
    int half = rope->dim / 2;
    rope_frequencies(rope, f);
    for (int i = 0; i < T * heads; i++)
        for (int p = 0; p < half; p++) {
            double *part = x + i * D + D - rope->dim, angle = i / heads * f[p];
            double *a = part + (rope->layout == ROPE_HALVES ? p : 2 * p);
            double *b = rope->layout == ROPE_HALVES ? a + half : a + 1;
            double u = *a, v = *b;
            *a = factor * (u * cos(angle) - v * sin(angle));
            *b = factor * (u * sin(angle) + v * cos(angle));
        }
}

/* softmax(q k^T scale) v of one head, causal: o, q, k, v are rows of `row` numbers. */
static void attend(double *o, const double *q, const double *k, const double *v, int T, int row,
                   int D, double scale) {
    double p[64];
    for (int t = 0; t < T; t++) {
        double sum = 0;
        for (int s = 0; s <= t; s++) {
            double score = 0;
            for (int c = 0; c < D; c++) score += q[t * row + c] * k[s * row + c];
            sum += p[s] = exp(score * scale);
        }
        for (int c = 0; c < D; c++) {
            o[t * row + c] = 0;
            for (int s = 0; s <= t; s++) o[t * row + c] += p[s] / sum * v[s * row + c];
        }
    }
}

DEVICE_TEST(multihead, is_the_formula) {
    enum { T = 37 };
    for (int i = 0; i < 4; i++) {
        World w;
        ModelConfig cfg = i & 2 ? stretched(plain(i & 1)) : plain(i & 1);
        world_model(&w, device, dtype, cfg, false);
        Params *params = &w.model.params;
        const Block *block = &w.model.decoder.layers[1];
        const Multihead *m = &block->multihead;
        Tensor *const biases[] = {m->q_bias, m->k_bias, m->v_bias, m->o_bias};
        for (int b = 0; b < 4; b++)
            if (biases[b]) params_normal(params, biases[b], 0.3f);
        int H = cfg.num_attention_heads, D = cfg.v_head_dim, row = H * D;
        Tensor *x = test_normal(&w.ctx, "x", 1, SHAPE(1, T, cfg.hidden_size));
        float *values = test_values(&w.ctx, x);
        double xs[T * 64];
        for (int j = 0; j < T * cfg.hidden_size; j++) xs[j] = (double)values[j];
        double *q = product(&w, xs, T, m->q_proj, m->q_bias),
               *k = product(&w, xs, T, m->k_proj, m->k_bias),
               *v = product(&w, xs, T, m->v_proj, m->v_bias), o[T * 96];
        RopeConfig rope = config_rope(&cfg);
        turn(q, T, H, D, &rope);
        turn(k, T, H, D, &rope);
        double scale = rope_softmax_factor(&rope) / sqrt(D);
        for (int h = 0; h < H; h++)
            attend(o + h * D, q + h * D, k + h * D, v + h * D, T, row, D, scale);
        double *y = product(&w, o, T, m->o_proj, m->o_bias);
        float *want = test_floats(T * cfg.hidden_size);
        for (int j = 0; j < T * cfg.hidden_size; j++) want[j] = (float)y[j];
        const BlockRun run = {.position = model_position(&w.model)};
        Tensor *got =
            block_attention(&w.ctx, x, block, &w.model.decoder.cfg.block, &run, (Residual){0});
        /* Four roundings one after the other: of the projections, after the rotation, of attention,
         * of the result; scores of up to 5 make of a rounding of q a larger one of exp(s). */
        check_tensor(&w.ctx, "attention", got, want, dtype == BF16 ? 2e-2 : 3e-6);
    }
}

/* ---- gradients ---- */

typedef struct Problem {
    Model *model;
    Tensor *ids, *targets;
} Problem;

/* Of the model and of a module behind it. */
static Tensor *problem_loss(Context *ctx, void *user) {
    Problem *p = user;
    Tensor *shown[2];
    const DecoderRun run = {.position = model_position(p->model)};
    const MtpTraining training = {.lambda = 1, .end = -1};
    return mtp_training_loss(ctx, &p->model->mtp, p->ids, p->targets, &run, &training, shown);
}

/* Choosing experts jumps, and a difference across a jump is no derivative: here all are chosen. */
static ModelConfig without_choice(ModelConfig cfg) {
    cfg.num_experts_per_tok = cfg.n_routed_experts;
    cfg.topk_group = cfg.n_group;
    cfg.num_nextn_predict_layers = 1;
    return cfg;
}

static void finite_differences(ModelConfig cfg) {
    World w;
    world_model(&w, CPU, F32, without_choice(cfg), true);
    int32_t ids[2 * 9], targets[2 * 9];
    some_ids(ids, 18, 1);
    some_ids(targets, 18, 2);
    Problem p = {&w.model, tensor_copy_in(&w.ctx, "ids", I32, ids, SHAPE(2, 9)),
                 tensor_copy_in(&w.ctx, "targets", I32, targets, SHAPE(2, 9))};
    /* As test_model's: the losses are about 6 and rounded to 5e-7, a difference moves them by 1e-3
     * and more. */
    check_gradients(&w.ctx, "multi-head attention", problem_loss, &p, w.model.params.list,
                    w.model.params.count, 8, 1e-2, 2e-2);
}

Test(multihead, gradients_agree_with_finite_differences) { finite_differences(plain(false)); }
Test(multihead, gradients_agree_with_finite_differences_when_stretched) {
    finite_differences(stretched(plain(false)));
}

/* The device's loss and gradients are the CPU's: several tiles of queries, the last one ragged. */
DEVICE_TEST(multihead, every_device_computes_what_the_cpu_computes) {
    enum { B = 2, T = 157 };
    int32_t ids[B * T], targets[B * T];
    some_ids(ids, B * T, 1);
    some_ids(targets, B * T, 2);
    for (int even = 0; even < 2; even++) {
        float loss[2], *grads[2];
        int64_t count = 0;
        for (int side = 0; side < 2; side++) {
            World w;
            world_model(&w, side ? device : CPU, side ? dtype : F32, without_choice(plain(even)),
                        true);
            w.ctx.recording = true;
            Problem p = {&w.model, tensor_copy_in(&w.ctx, "ids", I32, ids, SHAPE(B, T)),
                         tensor_copy_in(&w.ctx, "targets", I32, targets, SHAPE(B, T))};
            Tensor *l = problem_loss(&w.ctx, &p);
            tape_backward(&w.ctx, l);
            tensor_download(&w.ctx, &loss[side], l);
            count = params_count(&w.model.params);
            float *next = grads[side] = test_floats(count);
            for (int i = 0; i < w.model.params.count; i++) {
                params_get_grad(&w.model.params, w.model.params.list[i], next);
                next += tensor_count(w.model.params.list[i]);
            }
        }
        /* As test_model's: F32 sums in another order; in BF16 every operation rounds. */
        check_close("loss", &loss[1], &loss[0], 1, dtype == BF16 ? 5e-3 : 2e-6);
        check_close("all gradients", grads[1], grads[0], count, dtype == BF16 ? 8e-2 : 3e-5);
    }
}

/* ---- the cache ---- */

CONTEXT_TEST(multihead, with_the_cache_as_without) {
    enum { T = 33 };
    for (int i = 0; i < 3; i++) {
        Model model;
        DecoderCache cache;
        ModelConfig cfg = i == 2 ? stretched(plain(false)) : plain(i);
        cfg = without_choice(cfg); /* in BF16 a rounding may turn a choice */
        check_ok(model_init(&model, &ctx, &cfg, false, &err), &err);
        model_randomize(&model);
        check_ok(model_cache_init(&model, &cache, 2, T, &err), &err);
        int32_t ids[2 * T];
        some_ids(ids, 2 * T, 1);
        float *all = test_values(
            &ctx, model_forward(&model, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(2, T)), NULL));
        const int pieces[] = {5, 1, 1, 17, 1, 8};
        for (int j = 0, at = 0; j < 6; j++) {
            int n = pieces[j];
            int32_t part[2 * T];
            float want[2 * 19];
            for (int b = 0; b < 2; b++) {
                memcpy(part + b * n, ids + b * T + at, sizeof(int32_t) * (size_t)n);
                memcpy(want + b * 19, all + (b * T + at + n - 1) * 19, 19 * sizeof(float));
            }
            at += n;
            check_ok(model_cache_reserve(&model, &cache, n, &err), &err);
            Tensor *t = tensor_copy_in(&ctx, "ids", I32, part, SHAPE(2, n));
            /* The same numbers in other tiles; in BF16 a rounding may fall the other way. */
            check_tensor(&ctx, "logits of the last token", model_forward(&model, t, &cache), want,
                         dtype == BF16 ? 3e-2 : 1e-5);
        }
        cr_assert(model_cache_reserve(&model, &cache, 1, &err) == -1, "there is no room for more");
        decoder_cache_free(&cache);
        model_free(&model);
    }
}

/* Step by step, without a graph: each token is the likeliest by the logits of the whole text, and
 * after a cut the same ones come again. */
CONTEXT_TEST(multihead, generates) {
    enum { PROMPT = 6, NEW = 40 };
    Model model;
    DecoderGenerator g;
    DecoderGenerateResult result;
    ModelConfig cfg = without_choice(plain(true));
    check_ok(model_init(&model, &ctx, &cfg, false, &err), &err);
    model_randomize(&model);
    check_ok(decoder_generator_init(&g, &ctx, &model.decoder, model_position(&model), 1,
                                    PROMPT + NEW, &err),
             &err);
    some_ids(g.sequences->ids, PROMPT, 3);
    g.sequences->count = PROMPT;
    const DecoderGenerateOptions o = {.max_new_tokens = NEW, .end = -1};
    decoder_generate(&g, &o, &result);
    check_all(result.new_tokens == NEW, result.broken == 0, g.sequences->count == PROMPT + NEW);
    int32_t first[PROMPT + NEW];
    memcpy(first, g.sequences->ids, sizeof first);
    Tensor *ids = tensor_copy_in(&ctx, "ids", I32, first, SHAPE(1, PROMPT + NEW));
    float *logits = test_values(&ctx, model_forward(&model, ids, NULL));
    for (int t = PROMPT; t < PROMPT + NEW; t++) {
        const float *row = logits + (t - 1) * 19;
        float most = row[0], off = dtype == BF16 ? 3e-2f : 1e-4f;
        for (int i = 1; i < 19; i++) most = fmaxf(most, row[i]);
        cr_assert(row[first[t]] >= most - off * fabsf(most), "token %d: %g, not %g", t,
                  row[first[t]], most);
    }
    decoder_generator_truncate(&g, 0, PROMPT + 3);
    decoder_generate(&g, &o, &result);
    cr_assert(memcmp(first, g.sequences->ids, sizeof first) == 0, "other tokens after a cut");
}

/* ---- what may be ---- */

Test(multihead, what_cannot_be_is_refused) {
    static const struct {
        int q_rank, nope, rope, v;
        ModelType type;
        const char *message; /* NULL: fine */
    } cases[] = {
        {0, 6, 4, 10, DEEPSEEK_V3, NULL},
        {0, 6, 4, 10, DEEPSEEK_V2, NULL},
        {0, 0, 10, 10, DEEPSEEK_V3, NULL},
        {0, 10, 0, 10, DEEPSEEK_V3, NULL},
        {7, 6, 4, 10, DEEPSEEK_V3, "kv_lora_rank is null and q_lora_rank 7"},
        {0, 6, 4, 8, DEEPSEEK_V3, "v_head_dim is 8, but qk_nope_head_dim + qk_rope_head_dim is 6"},
        {0, 0, 5, 5, DEEPSEEK_V3, "dim"}, /* pairs are rotated: chapter 07's words */
        {0, 200, 100, 300, DEEPSEEK_V3, "head_dim is 300; the attention kernels take at most 256"},
        {0, 6, 4, 10, DEEPSEEK_V32, "a deepseek_v32 model needs latents"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ModelConfig cfg = plain(false);
        cfg.model_type = cases[i].type;
        cfg.topk_method = cfg.model_type == DEEPSEEK_V2 ? TOPK_GREEDY : TOPK_NOAUX_TC;
        cfg.index_n_heads = 1, cfg.index_head_dim = 16, cfg.index_topk = 4;
        cfg.q_lora_rank = cases[i].q_rank, cfg.qk_nope_head_dim = cases[i].nope;
        cfg.qk_rope_head_dim = cases[i].rope, cfg.v_head_dim = cases[i].v;
        int status = config_check(&cfg, &err);
        cr_assert(status == (cases[i].message ? -1 : 0), "case %zu: %s", i, err.text);
        cr_assert(!status || strstr(err.text, cases[i].message), "case %zu: %s", i, err.text);
    }
    ModelConfig latent = tiny_config(19);
    latent.qk_nope_head_dim = 0;
    cr_assert(config_check(&latent, &err) == -1 && strstr(err.text, "qk_nope_head_dim is 0"));
}
