/*
 * Latent attention against four oracles: what transformers computes (goldens), plain loops in
 * double precision with a rotation, finite differences, and what must hold for any weights.
 */
#include "04_mla/tests/test_mla.h"

#include "common/core/blas.h"

#include <signal.h>
#include <stdio.h>

/*
 * In units of tolerance_of(): PyTorch in F32 on the CPU is 0.1 to 0.6 units away from these
 * goldens, we are 0.2 to 0.4; 5 are allowed for other orders of summation. PyTorch in BF16 is 1 to
 * 5 units away, the gradient of q_a_proj's bias, in which much cancels, 8.5; 14 are allowed.
 */
static double module_tolerance(DType dtype) {
    return (dtype == BF16 ? 14 : 5) * tolerance_of(dtype, 128);
}

/* ---- goldens ---- */

/* Sizes as in tools/goldens/04_mla.py. */
static MlaConfig golden_config(int q_lora_rank, bool attention_bias) {
    return (MlaConfig){27, 3, q_lora_rank, 13, 7, 4, 5, attention_bias};
}

static void check_golden(Device device, DType dtype, const char *path, MlaConfig cfg) {
    Context ctx = test_context(device, dtype);
    SafeTensors *golden = golden_open(path);
    Module m;
    module_init(&m, &ctx, cfg);
    golden_weights(&m.params, golden, "self_attn.");
    Tensor *x = golden_tensor(&ctx, golden, "x");
    ctx.recording = true;
    Tensor *y = mla_forward(&ctx, x, &m.w, &cfg, NULL, NULL, NULL, MLA_AUTO, (Residual){0});
    golden_check(&ctx, &m.params, golden, "self_attn.", x, y, module_tolerance(dtype));
    /* Every tensor of the file was used: x, y, c and grad.x, and two for each weight. */
    cr_assert_eq(safetensors_count(golden), 4 + 2 * m.params.count);
}

DEVICE_TEST(mla, equals_transformers_v3) {
    check_golden(device, dtype, "04_mla/goldens/v3.safetensors", golden_config(11, false));
}
DEVICE_TEST(mla, equals_transformers_v3_no_q_lora) {
    check_golden(device, dtype, "04_mla/goldens/v3_no_q_lora.safetensors", golden_config(0, false));
}
DEVICE_TEST(mla, equals_transformers_v3_bias) {
    check_golden(device, dtype, "04_mla/goldens/v3_bias.safetensors", golden_config(11, true));
}
DEVICE_TEST(mla, equals_transformers_v2) {
    check_golden(device, dtype, "04_mla/goldens/v2.safetensors", golden_config(11, true));
}
DEVICE_TEST(mla, equals_transformers_v2_no_q_lora) {
    check_golden(device, dtype, "04_mla/goldens/v2_no_q_lora.safetensors", golden_config(0, false));
}

/* ---- plain loops ---- */

/* y [rows, out] = x [rows, in] W^T + b */
static void plain_linear(double *y, const double *x, const float *w, const float *b, int rows,
                         int in, int out) {
    for (int i = 0; i < rows * out; i++) {
        y[i] = b ? b[i % out] : 0;
        for (int j = 0; j < in; j++) y[i] += x[i / out * in + j] * w[i % out * in + j];
    }
}

/* The first `count` of each row's `width` numbers, normed in place. */
static void plain_norm(double *x, const float *w, int rows, int width, int count) {
    for (int i = 0; i < rows; i++) {
        double squares = 0;
        for (int j = 0; j < count; j++) squares += x[i * width + j] * x[i * width + j];
        for (int j = 0; j < count; j++) x[i * width + j] *= w[j] / sqrt(squares / count + 1e-6);
    }
}

/* The last dim numbers of `heads` heads of each token, as TURN does. */
static void plain_turn(double *x, int T, int heads, int width, int head_dim, int dim) {
    for (int t = 0; t < T; t++)
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < dim / 2; i++) {
                double *pair = x + t * width + (h + 1) * head_dim - dim + 2 * i, a = pair[0];
                double angle = t * TURN_ANGLE * (i + 1);
                pair[0] = a * cos(angle) - pair[1] * sin(angle);
                pair[1] = a * sin(angle) + pair[1] * cos(angle);
            }
}

/* One sequence by mla.h's equations, in double precision. y [T, hidden], x [T, hidden]. */
static void plain_mla(float *y, const float *x_values, Module *m, int T, bool turned) {
    const MlaConfig *c = &m->cfg;
    int hidden = c->hidden_size, H = c->num_attention_heads, rank = c->kv_lora_rank;
    int nope = c->qk_nope_head_dim, rope = c->qk_rope_head_dim, v = c->v_head_dim;
    int qk = nope + rope, latent_width = rank + rope, kv_width = H * (nope + v);
    const Mla *w = &m->w;
    enum { Q, Q_A, Q_A_NORM, Q_B, KV_A, KV_A_NORM, KV_B, OUT, Q_A_BIAS, KV_A_BIAS, OUT_BIAS, ALL };
    Tensor *const list[ALL] = {w->q_proj,    w->q_a_proj,       w->q_a_layernorm, w->q_b_proj,
                               w->kv_a_proj, w->kv_a_layernorm, w->kv_b_proj,     w->o_proj,
                               w->q_a_bias,  w->kv_a_bias,      w->o_bias};
    float *p[ALL];
    for (int i = 0; i < ALL; i++) p[i] = list[i] ? test_weight(&m->params, list[i]) : NULL;
    double *x = malloc(sizeof *x * (size_t)(T * hidden)),
           *c_q = malloc(sizeof *x * (size_t)(T * hidden));
    double *q = malloc(sizeof *x * (size_t)(T * H * qk)),
           *kv = malloc(sizeof *x * (size_t)(T * kv_width));
    double *latent = malloc(sizeof *x * (size_t)(T * latent_width));
    double *c_kv = malloc(sizeof *x * (size_t)(T * rank)), *s = malloc(sizeof *x * (size_t)T);
    double *o = calloc((size_t)(T * H * v), sizeof *o),
           *out = malloc(sizeof *x * (size_t)(T * hidden));
    for (int i = 0; i < T * hidden; i++) x[i] = x_values[i];

    if (c->q_lora_rank) {
        plain_linear(c_q, x, p[Q_A], p[Q_A_BIAS], T, hidden, c->q_lora_rank);
        plain_norm(c_q, p[Q_A_NORM], T, c->q_lora_rank, c->q_lora_rank);
        plain_linear(q, c_q, p[Q_B], NULL, T, c->q_lora_rank, H * qk);
    } else {
        plain_linear(q, x, p[Q], NULL, T, hidden, H * qk);
    }
    plain_linear(latent, x, p[KV_A], p[KV_A_BIAS], T, hidden, latent_width);
    plain_norm(latent, p[KV_A_NORM], T, latent_width, rank);
    for (int i = 0; i < T * rank; i++) c_kv[i] = latent[i / rank * latent_width + i % rank];
    plain_linear(kv, c_kv, p[KV_B], NULL, T, rank, kv_width);
    if (turned) {
        plain_turn(q, T, H, H * qk, qk, rope);
        plain_turn(latent, T, 1, latent_width, latent_width, rope);
    }
    double scale = (turned ? TURN_SCALE : 1) / sqrt(qk);
    for (int t = 0; t < T; t++)
        for (int h = 0; h < H; h++) {
            double sum = 0;
            for (int j = 0; j <= t; j++) {
                double dot = 0;
                for (int i = 0; i < nope; i++)
                    dot += q[(t * H + h) * qk + i] * kv[j * kv_width + h * (nope + v) + i];
                for (int i = 0; i < rope; i++)
                    dot += q[(t * H + h) * qk + nope + i] * latent[j * latent_width + rank + i];
                sum += s[j] = exp(dot * scale);
            }
            for (int j = 0; j <= t; j++)
                for (int i = 0; i < v; i++)
                    o[(t * H + h) * v + i] +=
                        s[j] / sum * kv[j * kv_width + h * (nope + v) + nope + i];
        }
    plain_linear(out, o, p[OUT], p[OUT_BIAS], T, H * v, hidden);
    for (int i = 0; i < T * hidden; i++) y[i] = (float)out[i];
}

static void check_plain(Device device, DType dtype, MlaConfig cfg, int T, bool turned, float size) {
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, cfg);
    enum { B = 2 };
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, cfg.hidden_size));
    int row = T * cfg.hidden_size;
    float *values = test_values(&ctx, x);
    for (int i = 0; i < B * row; i++) values[i] *= size;
    tensor_upload(&ctx, x, values);
    float *expected = malloc(sizeof(float) * (size_t)(B * row));
    for (int b = 0; b < B; b++) plain_mla(expected + b * row, values + b * row, &m, T, turned);
    const Position *position = turned ? &TURN : NULL;
    Tensor *y = mla_forward(&ctx, x, &m.w, &cfg, position, NULL, NULL, MLA_NAIVE, (Residual){0});
    char what[64];
    snprintf(what, sizeof what, "y, T %d, rank %d", T, cfg.kv_lora_rank);
    check_tensor(&ctx, what, y, expected, module_tolerance(dtype));
}

/* Ragged; without and with a q latent; without rope; with sizes that vector copies take. */
static const MlaConfig ragged = {25, 3, 0, 11, 7, 6, 5, true};
static const MlaConfig with_q = {40, 2, 12, 16, 8, 8, 8, true};
static const MlaConfig no_rope = {24, 5, 9, 8, 4, 0, 9, false};

DEVICE_TEST(mla, equals_plain_loops) {
    static const int lengths[] = {1, 31, 33, 127};
    for (int i = 0; i < 4; i++) check_plain(device, dtype, ragged, lengths[i], false, 1);
    check_plain(device, dtype, with_q, 33, false, 1);
    check_plain(device, dtype, no_rope, 33, false, 1);
}

/* Latents of the size of sqrt(eps): here the norms' 1e-6 decides about the result. A power of two
 * leaves BF16's numbers exact. */
DEVICE_TEST(mla, equals_plain_loops_for_tiny_inputs) {
    check_plain(device, dtype, with_q, 33, false, 0x1p-10f);
    check_plain(device, dtype, ragged, 33, true, 0x1p-10f);
}

/* Only the right part of q and k, by the right positions, gives these numbers. */
DEVICE_TEST(mla, equals_plain_loops_with_rotation) {
    static const int lengths[] = {1, 31, 33, 127};
    for (int i = 0; i < 4; i++) check_plain(device, dtype, with_q, lengths[i], true, 1);
    check_plain(device, dtype, ragged, 33, true, 1);
    check_plain(device, dtype, no_rope, 33, true, 1); /* nothing to rotate, but the scale changes */
}

/* ---- properties ---- */

CONTEXT_TEST(mla, the_future_changes_nothing) {
    enum { T = 33, CHANGED = 17 };
    Module m;
    module_init(&m, &ctx, with_q);
    int hidden = with_q.hidden_size;
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, T, hidden));
    float *values = test_values(&ctx, x);
    float *before = test_values(
        &ctx, mla_forward(&ctx, x, &m.w, &m.cfg, &TURN, NULL, NULL, MLA_NAIVE, (Residual){0}));
    for (int i = CHANGED * hidden; i < T * hidden; i++) values[i] = 5.0f - values[i];
    tensor_upload(&ctx, x, values);
    float *after = test_values(
        &ctx, mla_forward(&ctx, x, &m.w, &m.cfg, &TURN, NULL, NULL, MLA_NAIVE, (Residual){0}));
    /* Rows of a product do not meet, and masked keys are left out, not added as zeros. */
    check_close("the past", after, before, CHANGED * hidden, 1e-6);
    double change = 0;
    for (int i = CHANGED * hidden; i < T * hidden; i++) change += fabs(after[i] - before[i]);
    cr_assert(change > 1.0, "the changed tokens changed nothing");
}

/* Gradients and all: bit for bit the same with one thread and with three. */
Test(mla, does_not_depend_on_the_number_of_threads) {
    enum { T = 127, HIDDEN = 64 };
    static const MlaConfig cfg = {HIDDEN, 3, 32, 48, 24, 8, 16, true};
    float *y[2], *dx[2];
    for (int i = 0; i < 2; i++) {
        blas_set_threads(i ? 3 : 1);
        Context ctx = test_context(CPU, F32);
        Module m;
        module_init(&m, &ctx, cfg);
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(2, T, HIDDEN));
        ctx.recording = true;
        Tensor *out = mla_forward(&ctx, x, &m.w, &cfg, &TURN, NULL, NULL, MLA_NAIVE, (Residual){0});
        tape_backward(&ctx, mean(&ctx, out));
        y[i] = test_values(&ctx, out);
        dx[i] = test_gradient(&ctx, x);
        context_free(&ctx);
    }
    blas_set_threads(0);
    check_close("y", y[1], y[0], 2 * T * HIDDEN, 0);
    check_close("gradient of x", dx[1], dx[0], 2 * T * HIDDEN, 0);
}

/* ---- gradients ---- */

typedef struct Graph {
    Tensor *x, *c;
    Mla w;
    MlaConfig cfg;
    const Position *position;
} Graph;

static Tensor *module_loss(Context *ctx, void *user) {
    Graph *g = user;
    Tensor *y =
        mla_forward(ctx, g->x, &g->w, &g->cfg, g->position, NULL, NULL, MLA_AUTO, (Residual){0});
    return weighted_sum(ctx, y, g->c);
}

/* x and every weight. The weights are tensors of the context here, so that they can be moved. */
static void check_module_gradients(MlaConfig cfg, const Position *position) {
    Context ctx = test_context(CPU, F32);
    int hidden = cfg.hidden_size, H = cfg.num_attention_heads, rank = cfg.kv_lora_rank;
    int nope = cfg.qk_nope_head_dim, rope = cfg.qk_rope_head_dim, v = cfg.v_head_dim;
    int q_in = cfg.q_lora_rank ? cfg.q_lora_rank : hidden, q = H * (nope + rope);
    Graph g = {.cfg = cfg, .position = position};
    g.x = test_normal(&ctx, "x", 1, SHAPE(2, 7, hidden));
    g.c = test_normal(&ctx, "c", 2, SHAPE(2, 7, hidden));
    Tensor *inputs[12] = {g.x};
    int count = 1;
    inputs[count++] = g.w.kv_a_proj = test_normal(&ctx, "kv_a_proj", 3, SHAPE(rank + rope, hidden));
    inputs[count++] = g.w.kv_b_proj =
        test_normal(&ctx, "kv_b_proj", 4, SHAPE(H * (nope + v), rank));
    inputs[count++] = g.w.o_proj = test_normal(&ctx, "o_proj", 5, SHAPE(hidden, H * v));
    Tensor *q_last = test_normal(&ctx, "q_proj or q_b_proj", 6, SHAPE(q, q_in));
    inputs[count++] = q_last;
    if (cfg.q_lora_rank) {
        g.w.q_b_proj = q_last;
        inputs[count++] = g.w.q_a_proj = test_normal(&ctx, "q_a_proj", 7, SHAPE(q_in, hidden));
    } else {
        g.w.q_proj = q_last;
    }
    /* Scores of order 1, so that the softmax is neither flat nor a step. */
    for (int i = 1; i < count; i++)
        for (int64_t j = 0; j < tensor_count(inputs[i]); j++)
            ((float *)inputs[i]->data)[j] /= sqrtf((float)tensor_dim(inputs[i], 1));
    inputs[count++] = g.w.kv_a_layernorm = test_normal(&ctx, "kv_a_layernorm", 8, SHAPE(rank));
    if (cfg.q_lora_rank)
        inputs[count++] = g.w.q_a_layernorm = test_normal(&ctx, "q_a_layernorm", 9, SHAPE(q_in));
    if (cfg.attention_bias) {
        inputs[count++] = g.w.kv_a_bias = test_normal(&ctx, "kv_a bias", 10, SHAPE(rank + rope));
        inputs[count++] = g.w.o_bias = test_normal(&ctx, "o bias", 11, SHAPE(hidden));
        if (cfg.q_lora_rank)
            inputs[count++] = g.w.q_a_bias = test_normal(&ctx, "q_a bias", 12, SHAPE(q_in));
    }
    /* step^2 f'''/6 is about 1e-4 of a gradient here, and F32 rounds a loss of order 10. */
    check_gradients(&ctx, "mla", module_loss, &g, inputs, count, 24, 1e-2, 1e-2);
}

Test(mla, gradients) { check_module_gradients((MlaConfig){12, 3, 0, 6, 5, 4, 3, false}, NULL); }
Test(mla, gradients_q_lora) {
    check_module_gradients((MlaConfig){12, 2, 7, 6, 5, 3, 7, true}, NULL);
}
Test(mla, gradients_no_rope) {
    check_module_gradients((MlaConfig){12, 3, 7, 6, 5, 0, 3, true}, NULL);
}
Test(mla, gradients_rotated) {
    check_module_gradients((MlaConfig){12, 3, 0, 6, 5, 4, 3, true}, &TURN);
}
Test(mla, gradients_rotated_q_lora) {
    check_module_gradients((MlaConfig){12, 3, 7, 6, 3, 4, 5, false}, &TURN);
}

/*
 * kv and k_rope may have had a gradient before: attention adds to it. The same kv read twice gives
 * twice the gradient.
 */
CONTEXT_TEST(mla, a_gradient_is_added_to) {
    enum { B = 2, T = 9 };
    static const MlaConfig cfg = {16, 2, 0, 8, 8, 4, 4, false};
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(B, T, 2, 12));
    Tensor *kv = test_normal(&ctx, "kv", 2, SHAPE(B, T, 2, 12));
    Tensor *k_rope = test_normal(&ctx, "k_rope", 3, SHAPE(B, T, 4));
    Tensor *const inputs[] = {q, kv, k_rope};
    float *once[3];
    for (int times = 1; times <= 2; times++) {
        for (int i = 0; i < 3; i++) inputs[i]->has_grad = false, inputs[i]->grad = NULL;
        ctx.recording = true;
        Tensor *o = mla_naive_attention(&ctx, q, kv, k_rope, NULL, &cfg, 0.3f);
        if (times == 2)
            o = add(&ctx, o, mla_naive_attention(&ctx, q, kv, k_rope, NULL, &cfg, 0.3f));
        tape_backward(&ctx, sum(&ctx, o));
        for (int i = 0; i < 3; i++) {
            float *values = test_gradient(&ctx, inputs[i]);
            int64_t n = tensor_count(inputs[i]);
            if (times == 1) {
                once[i] = values;
                continue;
            }
            for (int64_t j = 0; j < n; j++) once[i][j] *= 2;
            check_close(inputs[i]->name, values, once[i], n, module_tolerance(dtype));
        }
    }
}

/* ---- what only a programmer can get wrong ---- */

static void forward_with(bool recording, bool cached, MlaMode mode) {
    Context ctx = test_context(CPU, F32);
    Module m;
    module_init(&m, &ctx, with_q);
    OneLayer cache;
    one_layer_init(&cache, &ctx, 1, 65, 0, with_q.kv_lora_rank + with_q.qk_rope_head_dim);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, 65, with_q.hidden_size));
    cr_assert_eq(pages_begin(&cache.pages, 65, NULL), 0);
    ctx.recording = recording;
    mla_forward(&ctx, x, &m.w, &with_q, NULL, NULL, cached ? &cache.latent : NULL, mode,
                (Residual){0});
}

Test(mla, a_cache_while_recording_stops_the_program, .signal = SIGABRT) {
    forward_with(true, true, MLA_AUTO);
}
Test(mla, absorbed_without_a_cache_stops_the_program, .signal = SIGABRT) {
    forward_with(false, false, MLA_ABSORBED);
}
Test(mla, a_cache_without_recording_is_fine) { forward_with(false, true, MLA_AUTO); }
