/*
 * The table of layer.h, for the kinds of block there are.
 */
#include "08_quant/methods/layer.h"

static int add_input(QuantLayer *layer, LayerInput input) {
    CHECK(layer->input_count < LAYER_INPUTS, "quant_layer: too many inputs");
    while (input.count < 3 && input.linears[input.count]) input.count++;
    if (!input.experts) input.experts = 1;
    layer->inputs[layer->input_count] = input;
    return layer->input_count++;
}

static void add_fold(QuantLayer *layer, LayerFold fold) {
    CHECK(layer->fold_count < LAYER_INPUTS, "quant_layer: too many folds");
    layer->folds[layer->fold_count++] = fold;
}

static void add_norm(QuantLayer *layer, int input, Tensor *norm) {
    add_fold(layer, (LayerFold){.first = input, .count = 1, .norm = norm});
}

static void add_rows(QuantLayer *layer, int input, Tensor *rows) {
    int64_t out = tensor_dim(rows, -2);
    add_fold(layer,
             (LayerFold){.first = input, .count = 1, .rows = rows, .width = out, .stride = out});
}

static void add_mla(QuantLayer *layer, const Block *b, const MlaConfig *cfg, bool selected) {
    const Mla *w = &b->mla;
    int x = add_input(layer,
                      (LayerInput){.linears = {w->q_proj ? w->q_proj : w->q_a_proj, w->kv_a_proj},
                                   .makes_keys = true,
                                   .name = "attention's input"});
    if (!selected) add_norm(layer, x, b->input_layernorm);
    if (w->q_b_proj) {
        x = add_input(layer,
                      (LayerInput){.linears = {w->q_b_proj}, .makes_keys = true, .name = "c_q"});
        if (!selected) add_norm(layer, x, w->q_a_layernorm);
    }
    x = add_input(layer,
                  (LayerInput){.linears = {w->kv_b_proj}, .makes_keys = true, .name = "c_kv"});
    add_norm(layer, x, w->kv_a_layernorm);
    x = add_input(layer, (LayerInput){.linears = {w->o_proj}, .name = "heads"});
    int64_t nope = cfg->qk_nope_head_dim, v = cfg->v_head_dim;
    add_fold(layer, (LayerFold){.first = x,
                                .count = 1,
                                .rows = w->kv_b_proj,
                                .width = v,
                                .stride = nope + v,
                                .offset = nope});
}

static void add_multihead(QuantLayer *layer, const Block *b, const MultiheadConfig *cfg) {
    const Multihead *w = &b->multihead;
    int x = add_input(layer, (LayerInput){.linears = {w->q_proj, w->k_proj, w->v_proj},
                                          .makes_keys = true,
                                          .name = "attention's input"});
    add_norm(layer, x, b->input_layernorm);
    x = add_input(layer, (LayerInput){.linears = {w->o_proj}, .name = "heads"});
    if (cfg->num_key_value_heads != cfg->num_attention_heads) return; /* a v serves several heads */
    add_rows(layer, x, w->v_proj);
    layer->folds[layer->fold_count - 1].bias = w->v_bias;
}

static void add_moe(QuantLayer *layer, const Block *b, const RouterConfig *router) {
    const Moe *w = &b->moe;
    const Mlp *shared = &w->shared;
    int experts = router->n_routed_experts, count = 1;
    int x = add_input(layer, (LayerInput){.linears = {w->gate_proj, w->up_proj},
                                          .experts = experts,
                                          .name = "experts' input"});
    if (shared->gate_proj) {
        count = 2;
        add_input(layer, (LayerInput){.linears = {shared->gate_proj, shared->up_proj},
                                      .name = "shared experts' input"});
        int inner = add_input(
            layer, (LayerInput){.linears = {shared->down_proj}, .name = "shared experts' inner"});
        add_rows(layer, inner, shared->up_proj);
    }
    int inner = add_input(
        layer,
        (LayerInput){.linears = {w->down_proj}, .experts = experts, .name = "experts' inner"});
    add_rows(layer, inner, w->up_proj);
    if (router->gate_kind == GATE_CENTROID) return; /* cosines: not linear in x */
    add_fold(layer, (LayerFold){.first = x,
                                .count = count,
                                .norm = b->post_attention_layernorm,
                                .others = {w->router.weight, w->router.noise_weight}});
}

QuantLayer quant_layer(const Block *w, const BlockConfig *cfg, bool selected) {
    QuantLayer layer = {0};
    if (cfg->attention == ATTENTION_MLA)
        add_mla(&layer, w, &cfg->mla, selected);
    else
        add_multihead(&layer, w, &cfg->multihead);
    if (!w->dense) {
        add_moe(&layer, w, &cfg->moe.router);
        return layer;
    }
    int x = add_input(&layer, (LayerInput){.linears = {w->mlp.gate_proj, w->mlp.up_proj},
                                           .name = "feed-forward input"});
    add_norm(&layer, x, w->post_attention_layernorm);
    x = add_input(&layer,
                  (LayerInput){.linears = {w->mlp.down_proj}, .name = "feed-forward inner"});
    add_rows(&layer, x, w->mlp.up_proj);
    return layer;
}

/* ---- folding ---- */

static void multiply_columns(Tensor *w, int expert, const float *s) {
    int64_t in = tensor_dim(w, -1), size = tensor_dim(w, -2) * in;
    float *numbers = (float *)w->data + (expert > 0 ? expert * size : 0);
    int64_t count = expert < 0 ? tensor_count(w) : size;
    for (int64_t i = 0; i < count; i++) numbers[i] *= s[i % in];
}

void layer_fold(const QuantLayer *layer, const LayerFold *fold, int expert, const float *s) {
    const Tensor *first = layer->inputs[fold->first].linears[0];
    for (int i = fold->first; i < fold->first + fold->count; i++)
        for (int l = 0; l < layer->inputs[i].count; l++)
            multiply_columns(layer->inputs[i].linears[l], expert, s);
    for (int i = 0; i < 2; i++)
        if (fold->others[i]) multiply_columns(fold->others[i], -1, s);
    float *norm = fold->norm ? fold->norm->data : NULL, *rows = NULL;
    int64_t width = 0;
    if (fold->rows) {
        width = tensor_dim(fold->rows, -1);
        rows = (float *)fold->rows->data;
        if (expert > 0) rows += expert * tensor_dim(fold->rows, -2) * width;
    }
    for (int64_t j = 0; j < tensor_dim(first, -1); j++) {
        if (norm) norm[j] /= s[j];
        if (!rows) continue;
        int64_t row = j / fold->width * fold->stride + fold->offset + j % fold->width;
        for (int64_t n = 0; n < width; n++) rows[row * width + n] /= s[j];
        if (fold->bias) ((float *)fold->bias->data)[row] /= s[j];
    }
}

int block_linears(Block *w, Tensor **places[BLOCK_LINEARS]) {
    Tensor **all[] = {&w->mla.q_proj,          &w->mla.q_a_proj,         &w->mla.q_b_proj,
                      &w->mla.kv_a_proj,       &w->mla.kv_b_proj,        &w->mla.o_proj,
                      &w->multihead.q_proj,    &w->multihead.k_proj,     &w->multihead.v_proj,
                      &w->multihead.o_proj,    &w->mlp.gate_proj,        &w->mlp.up_proj,
                      &w->mlp.down_proj,       &w->moe.gate_proj,        &w->moe.up_proj,
                      &w->moe.down_proj,       &w->moe.shared.gate_proj, &w->moe.shared.up_proj,
                      &w->moe.shared.down_proj};
    int count = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (*all[i]) places[count++] = all[i];
    return count;
}
