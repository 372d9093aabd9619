/*
 * Counting by kind. The weights are registered as a model would register them, sorted by their
 * names, and forgotten: there is no second list of shapes that could differ from the model.
 */
#include "10_full_model/model/sizes.h"

#include <math.h>
#include <string.h>

const char *size_name(const ModelConfig *cfg, SizeKind kind) {
    static const char *const names[SIZE_KINDS] = {[SIZE_EMBEDDING] = "embedding table",
                                                  [SIZE_ATTENTION] = "latent attention",
                                                  [SIZE_INDEXER] = "indexer",
                                                  [SIZE_DENSE] = "dense SwiGLU",
                                                  [SIZE_ROUTER] = "routers",
                                                  [SIZE_SHARED] = "shared experts",
                                                  [SIZE_ROUTED] = "routed experts",
                                                  [SIZE_NORM] = "norms",
                                                  [SIZE_HEAD] = "head"};
    return kind == SIZE_ATTENTION && !config_has_latents(cfg) ? "attention" : names[kind];
}

static SizeKind kind_of(const char *name) {
    if (strstr(name, ".self_attn.")) return SIZE_ATTENTION;
    if (strstr(name, ".shared_experts.")) return SIZE_SHARED;
    if (strstr(name, ".experts.")) return SIZE_ROUTED;
    if (strstr(name, ".mlp.gate.")) return SIZE_ROUTER;
    return strstr(name, ".mlp.") ? SIZE_DENSE : SIZE_NORM;
}

/* Adds one layer's numbers, `times` times. */
static void add_layer(ConfigSizes *sizes, const ModelConfig *cfg, int layer, int64_t times) {
    BlockConfig block = config_block(cfg);
    Params params = {0};
    block_init(&params, "layer", &block, layer);
    for (int i = 0; i < params.count; i++) {
        SizeKind kind = kind_of(params.list[i]->name);
        int64_t count = times * tensor_count(params.list[i]);
        sizes->total[kind] += count;
        sizes->active[kind] +=
            kind == SIZE_ROUTED ? count / cfg->n_routed_experts * cfg->num_experts_per_tok : count;
    }
    params_free(&params);
}

ConfigSizes config_sizes(const ModelConfig *cfg) {
    ConfigSizes sizes = {0};
    BlockConfig block = config_block(cfg);
    int layers = cfg->num_hidden_layers, dense = 0;
    while (dense < layers && block_is_dense(&block, dense)) dense++;
    if (dense) add_layer(&sizes, cfg, 0, dense);
    if (dense < layers) add_layer(&sizes, cfg, dense, layers - dense);

    int64_t table = (int64_t)cfg->vocab_size * cfg->hidden_size;
    sizes.total[SIZE_EMBEDDING] = table;
    sizes.total[SIZE_HEAD] = cfg->tie_word_embeddings ? 0 : table;
    sizes.active[SIZE_HEAD] = table;
    sizes.total[SIZE_NORM] += cfg->hidden_size;
    sizes.active[SIZE_NORM] += cfg->hidden_size;
    sizes.all = config_parameters(cfg);
    sizes.all_active = config_active_parameters(cfg);
    int64_t rest = sizes.all; /* what config_parameters() counts beyond a block's weights */
    for (int i = 0; i < SIZE_KINDS; i++) rest -= sizes.total[i];
    sizes.total[SIZE_INDEXER] = sizes.active[SIZE_INDEXER] = rest;
    return sizes;
}

int64_t size_cache_per_token(const ModelConfig *cfg, DType dtype) {
    BlockConfig block = config_block(cfg);
    if (!config_has_latents(cfg))
        return kv_cache_bytes_per_token(cfg->num_hidden_layers, cfg->num_attention_heads,
                                        cfg->v_head_dim, dtype);
    return mla_cache_bytes_per_token(&block.mla, cfg->num_hidden_layers, dtype) +
           (int64_t)cfg->num_hidden_layers * cfg->index_head_dim * (int64_t)dtype_size(dtype);
}

/* ---- memory ---- */

/* Numbers per token that a layer's attention leaves on the tape, in the order in which it makes
 * them; without the indexer. */
static int64_t attention_activations(const ModelConfig *cfg) {
    int64_t hidden = cfg->hidden_size, heads = cfg->num_attention_heads, rank = cfg->kv_lora_rank;
    int64_t nope = cfg->qk_nope_head_dim, rope = cfg->qk_rope_head_dim, v = cfg->v_head_dim;
    if (!config_has_latents(cfg)) return hidden + 4 * heads * v + 2 * hidden; /* q, k, v, read */
    int64_t count = hidden + 2 * cfg->q_lora_rank + heads * (nope + rope);    /* norm, c_q, q */
    count += 3 * rank + 2 * rope;                                             /* c_kv, k_rope */
    count += heads * (nope + v) + heads * (nope + rope) + heads * v; /* kv, keys, values read */
    return count + 2 * hidden;                                       /* o_proj, sum */
}

/* The same of the whole layer. */
static int64_t layer_activations(const ModelConfig *cfg, bool dense) {
    int64_t hidden = cfg->hidden_size, count = attention_activations(cfg);
    count += cfg->index_n_heads * (cfg->index_head_dim + 1) + 2 * cfg->index_head_dim; /* q, w, k */
    count += 3 * hidden; /* norm, output, sum */
    if (dense) return count + 3 * (int64_t)cfg->intermediate_size;
    int64_t inner = cfg->moe_intermediate_size, k = cfg->num_experts_per_tok;
    count += 2 * cfg->n_routed_experts;    /* logits and scores */
    count += k * (2 * hidden + 3 * inner); /* rows in, gate, up, their product, rows out */
    if (cfg->n_shared_experts) count += 3 * inner * cfg->n_shared_experts + 2 * hidden;
    return count;
}

TrainMemory size_to_train(const ModelConfig *cfg, DType dtype, int batch, int context) {
    int modules = cfg->num_nextn_predict_layers, layers = cfg->num_hidden_layers;
    double weights = (double)config_parameters(cfg) + (double)config_module_parameters(cfg);
    double size = (double)dtype_size(dtype);
    TrainMemory m = {.weights = weights * (dtype == F32 ? 4 : 4 + size),
                     .gradients = weights * 4,
                     .moments = weights * 8};
    BlockConfig block = config_block(cfg);
    /* embedding, last norm; a module also has two norms side by side, then one matrix's result */
    double per_token = (2.0 + 7 * modules) * cfg->hidden_size;
    for (int i = 0; i < layers + modules; i++)
        per_token += (double)layer_activations(cfg, block_is_dense(&block, i));
    /* Every activation has a gradient of its size; the logits, which each depth has, become their
     * own gradient in place. */
    double logits = (1.0 + modules) * cfg->vocab_size;
    m.activations = (2 * per_token + logits) * size * batch * context;
    /* An indexer's loss has its gradients before anyone asks; lists of what was selected, as they
     * came and in order, have none. */
    double early = cfg->index_n_heads * (cfg->index_head_dim + 1.0) + cfg->index_head_dim;
    double lists = context > cfg->index_topk ? 2.0 * cfg->index_topk : 0;
    m.activations += (layers + modules) * (early * size + lists * 4) * batch * context;
    return m;
}

/* Routed experts' numbers, those of modules too. */
static double spread_parameters(const ModelConfig *cfg) {
    BlockConfig block = config_block(cfg);
    ConfigSizes sizes = {0};
    int layers = cfg->num_hidden_layers + cfg->num_nextn_predict_layers, dense = 0;
    while (dense < layers && block_is_dense(&block, dense)) dense++;
    if (dense < layers) add_layer(&sizes, cfg, dense, layers - dense);
    return (double)sizes.total[SIZE_ROUTED];
}

RankMemory size_of_rank(const ModelConfig *cfg, DType dtype, int batch, int context, int ranks,
                        bool zero, int spread) {
    double all = (double)config_parameters(cfg) + (double)config_module_parameters(cfg);
    double experts = spread_parameters(cfg), copied = all - experts, own = experts / spread;
    double share = zero ? ranks : 1, share_own = zero ? (double)ranks / spread : 1;
    double state = dtype == F32 ? 8 : 12; /* bytes of a weight: moments, and its master */
    int windows = (batch + ranks - 1) / ranks;
    return (RankMemory){.weights = (copied + own) * (double)dtype_size(dtype),
                        .gradients = (copied + own) * 4,
                        .optimizer = state * (copied / share + own / share_own),
                        .activations = size_to_train(cfg, dtype, windows, context).activations};
}

/* ---- quantised ---- */

bool size_quantisable(const Tensor *weight) {
    const char *name = weight->name, *proj = strstr(name, "_proj");
    bool inside = strstr(name, ".self_attn.") || strstr(name, ".mlp.");
    bool whole = proj && (!strcmp(proj, "_proj.weight") || !strcmp(proj, "_proj_with_mqa.weight"));
    const char *indexer = strstr(name, ".indexer."); /* V3.2's has three matrices, one is plain */
    if (indexer) whole = strstr(indexer, ".wq_b.weight") || strstr(indexer, ".wk.weight");
    return inside && whole && weight->ndim >= 2;
}

/* Of one layer, `times` times: numbers that are codes, and the bytes of their scales. */
static void add_quantised(double *codes, double *scales, const ModelConfig *cfg, int layer,
                          double times) {
    BlockConfig block = config_block(cfg);
    Params params = {0};
    block_init(&params, "layer", &block, layer);
    for (int i = 0; i < params.count; i++) {
        const Tensor *w = params.list[i];
        double count = times * (double)tensor_count(w), in = (double)tensor_dim(w, -1);
        bool fp8 = cfg->quant_method == STORED_FP8;
        bool divides = fp8 || !cfg->group_size || tensor_dim(w, -1) % cfg->group_size == 0;
        if (!size_quantisable(w) || !divides) continue;
        double out = (double)w->shape[w->ndim - 2], matrices = count / out / in;
        *codes += count;
        *scales += fp8 ? 4 * matrices * ceil(out / FP8_BLOCK) * ceil(in / FP8_BLOCK)
                       : 2 * count / (cfg->group_size ? cfg->group_size : in);
    }
    params_free(&params);
}

double size_quantised(const ModelConfig *cfg) {
    BlockConfig block = config_block(cfg);
    int layers = cfg->num_hidden_layers + cfg->num_nextn_predict_layers, dense = 0;
    double codes = 0, scales = 0;
    while (dense < layers && block_is_dense(&block, dense)) dense++;
    if (dense) add_quantised(&codes, &scales, cfg, 0, dense);
    if (dense < layers) add_quantised(&codes, &scales, cfg, dense, layers - dense);
    double all = (double)config_parameters(cfg) + (double)config_module_parameters(cfg);
    double bits = cfg->quant_method == STORED_FP8 ? 8 : cfg->num_bits;
    return codes * bits / 8 + scales + 2 * (all - codes);
}

ServeMemory size_to_serve(const ModelConfig *cfg, DType dtype, int batch, int context) {
    double layers = cfg->num_hidden_layers, all = layers + cfg->num_nextn_predict_layers;
    double weights = (double)config_parameters(cfg) + (double)config_module_parameters(cfg);
    double cache = (double)size_cache_per_token(cfg, dtype) / layers * all;
    return (ServeMemory){.weights = weights * (double)dtype_size(dtype),
                         .cache = cache * batch * context};
}
