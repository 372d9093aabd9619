/*
 * Sizes by name, what may be, and what the parts of a model are told. config_json.c reads and
 * writes.
 */
#include "10_full_model/model/config_table.h"

#include <stdio.h>
#include <string.h>

/* What all sizes have in common. */
#define COMMON .rope_theta = 10000, .rope_interleave = true, .rms_norm_eps = 1e-6f
#define V3     COMMON, .topk_method = TOPK_NOAUX_TC, .norm_topk_prob = true
#define OURS                                                                              \
    V3, .n_group = 1, .topk_group = 1, .n_shared_experts = 1, .first_k_dense_replace = 1, \
        .routed_scaling_factor = 1, .rope_type = ROPE_DEFAULT, .rope_factor = 1,          \
        .bos_token_id = -1, .eos_token_id = -1
#define YARN_40                                                                   \
    .max_position_embeddings = 163840, .rope_type = ROPE_YARN, .rope_factor = 40, \
    .original_max_position_embeddings = 4096, .rope_beta_fast = 32, .rope_beta_slow = 1
#define V3_SIZES                                                                                 \
    V3, YARN_40, .vocab_size = 129280, .hidden_size = 7168, .num_hidden_layers = 61,             \
                 .intermediate_size = 18432, .num_attention_heads = 128, .q_lora_rank = 1536,    \
                 .kv_lora_rank = 512, .qk_nope_head_dim = 128, .qk_rope_head_dim = 64,           \
                 .v_head_dim = 128, .moe_intermediate_size = 2048, .n_routed_experts = 256,      \
                 .n_group = 8, .topk_group = 4, .num_experts_per_tok = 8, .n_shared_experts = 1, \
                 .first_k_dense_replace = 3, .routed_scaling_factor = 2.5f, .rope_mscale = 1,    \
                 .rope_mscale_all_dim = 1, .initializer_range = 0.02f, .bos_token_id = 0,        \
                 .eos_token_id = 1, .num_nextn_predict_layers = 1

const char *const config_type_names[] = {"deepseek_v3", "deepseek_v2", "deepseek_v32", NULL};

const ConfigType config_types[] = {
    [DEEPSEEK_V3] = {"DeepseekV3ForCausalLM", SCORING_SIGMOID, .divides = true, .halves = true},
    [DEEPSEEK_V2] = {"DeepseekV2ForCausalLM", SCORING_SOFTMAX},
    [DEEPSEEK_V32] = {"DeepseekV32ForCausalLM", SCORING_SIGMOID, .divides = true},
};

static const struct {
    const char *name, *about;
    ModelConfig cfg;
} presets[] = {
    {"nano",
     "trains in minutes on two cores",
     {OURS, .hidden_size = 128, .num_hidden_layers = 4, .intermediate_size = 384,
      .num_attention_heads = 4, .kv_lora_rank = 48, .qk_nope_head_dim = 24, .qk_rope_head_dim = 16,
      .v_head_dim = 32, .moe_intermediate_size = 128, .n_routed_experts = 8,
      .num_experts_per_tok = 2, .max_position_embeddings = 256, .initializer_range = 0.07f,
      .tie_word_embeddings = true}},
    {"small",
     "a classroom's: an evening on a laptop",
     {OURS, .vocab_size = 50257, .hidden_size = 256, .num_hidden_layers = 6,
      .intermediate_size = 768, .num_attention_heads = 4, .kv_lora_rank = 64,
      .qk_nope_head_dim = 32, .qk_rope_head_dim = 32, .v_head_dim = 64,
      .moe_intermediate_size = 256, .n_routed_experts = 8, .num_experts_per_tok = 2,
      .max_position_embeddings = 512, .initializer_range = 0.02f, .tie_word_embeddings = true}},
    {"default",
     "for a workstation with a GPU",
     {OURS, .vocab_size = 50257, .hidden_size = 512, .num_hidden_layers = 12,
      .intermediate_size = 1536, .num_attention_heads = 8, .q_lora_rank = 192, .kv_lora_rank = 128,
      .qk_nope_head_dim = 64, .qk_rope_head_dim = 32, .v_head_dim = 64,
      .moe_intermediate_size = 512, .n_routed_experts = 16, .num_experts_per_tok = 4,
      .max_position_embeddings = 1024, .initializer_range = 0.02f, .tie_word_embeddings = true}},
    {"large",
     "for one large GPU",
     {OURS, .vocab_size = 50257, .hidden_size = 1024, .num_hidden_layers = 16,
      .intermediate_size = 3072, .num_attention_heads = 16, .q_lora_rank = 384, .kv_lora_rank = 256,
      .qk_nope_head_dim = 64, .qk_rope_head_dim = 32, .v_head_dim = 64,
      .moe_intermediate_size = 512, .n_routed_experts = 32, .num_experts_per_tok = 4,
      .max_position_embeddings = 2048, .initializer_range = 0.02f, .tie_word_embeddings = true}},
    {"109m",
     "the benchmark's, with 8 experts",
     {OURS, .vocab_size = 50257, .hidden_size = 512, .num_hidden_layers = 8,
      .intermediate_size = 1408, .num_attention_heads = 8, .q_lora_rank = 192, .kv_lora_rank = 128,
      .qk_nope_head_dim = 64, .qk_rope_head_dim = 32, .v_head_dim = 64,
      .moe_intermediate_size = 512, .n_routed_experts = 8, .num_experts_per_tok = 2,
      .max_position_embeddings = 1024, .initializer_range = 0.02f}},
    {"109m-mha",
     "109m with multi-head attention",
     {OURS, .vocab_size = 50257, .hidden_size = 512, .num_hidden_layers = 8,
      .intermediate_size = 1408, .num_attention_heads = 8, .qk_rope_head_dim = 48, .v_head_dim = 48,
      .moe_intermediate_size = 512, .n_routed_experts = 8, .num_experts_per_tok = 2,
      .max_position_embeddings = 1024, .initializer_range = 0.02f}},
    {"109m-dense",
     "109m without experts, as active",
     {OURS, .vocab_size = 50257, .hidden_size = 512, .num_hidden_layers = 8,
      .intermediate_size = 1536, .num_attention_heads = 8, .q_lora_rank = 192, .kv_lora_rank = 128,
      .qk_nope_head_dim = 64, .qk_rope_head_dim = 32, .v_head_dim = 64,
      .max_position_embeddings = 1024, .initializer_range = 0.02f}},
    {"nano-q",
     "nano that can have indexers",
     {OURS, .hidden_size = 128, .num_hidden_layers = 4, .intermediate_size = 384,
      .num_attention_heads = 4, .q_lora_rank = 64, .kv_lora_rank = 48, .qk_nope_head_dim = 24,
      .qk_rope_head_dim = 16, .v_head_dim = 32, .moe_intermediate_size = 128, .n_routed_experts = 8,
      .num_experts_per_tok = 2, .max_position_embeddings = 256, .initializer_range = 0.07f,
      .tie_word_embeddings = true}},
    {"v2-lite",
     "DeepSeek-V2-Lite, 16B",
     {COMMON,
      YARN_40,
      .model_type = DEEPSEEK_V2,
      .topk_method = TOPK_GREEDY,
      .vocab_size = 102400,
      .hidden_size = 2048,
      .num_hidden_layers = 27,
      .intermediate_size = 10944,
      .num_attention_heads = 16,
      .kv_lora_rank = 512,
      .qk_nope_head_dim = 128,
      .qk_rope_head_dim = 64,
      .v_head_dim = 128,
      .moe_intermediate_size = 1408,
      .n_routed_experts = 64,
      .n_group = 1,
      .topk_group = 1,
      .n_shared_experts = 2,
      .num_experts_per_tok = 6,
      .first_k_dense_replace = 1,
      .routed_scaling_factor = 1,
      .rope_mscale = 0.707,
      .rope_mscale_all_dim = 0.707,
      .initializer_range = 0.02f,
      .bos_token_id = 100000,
      .eos_token_id = 100001}},
    {"v3", "DeepSeek-V3 and R1, 671B", {.model_type = DEEPSEEK_V3, V3_SIZES}},
    {"v3.2",
     "DeepSeek-V3.2: V3 with sparse attention",
     {.model_type = DEEPSEEK_V32,
      V3_SIZES,
      .index_n_heads = 64,
      .index_head_dim = 128,
      .index_topk = 2048}},
};
enum { PRESETS = sizeof presets / sizeof presets[0] };

const char *config_preset_name(int i) { return i < PRESETS ? presets[i].name : NULL; }
const char *config_preset_about(int i) { return i < PRESETS ? presets[i].about : NULL; }

int config_preset(ModelConfig *cfg, const char *name, Error *err) {
    char names[256] = "";
    for (int i = 0; i < PRESETS; i++) {
        if (!strcmp(presets[i].name, name)) {
            *cfg = presets[i].cfg;
            return 0;
        }
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "",
                 presets[i].name);
    }
    return error_set(err, "there is no configuration called '%s'; there are: %s", name, names);
}

/* ---- what the parts are told ---- */

BlockConfig config_block(const ModelConfig *cfg) {
    const ConfigType *type = &config_types[cfg->model_type];
    MoeConfig moe = moe_config(cfg->hidden_size, cfg->moe_intermediate_size, cfg->n_routed_experts,
                               cfg->num_experts_per_tok);
    moe.router.scoring_func = type->scoring_func;
    moe.router.topk_method = cfg->topk_method;
    moe.router.n_group = cfg->n_group;
    moe.router.topk_group = cfg->topk_group;
    moe.router.norm_topk_prob = type->divides && cfg->norm_topk_prob;
    moe.router.routed_scaling_factor = cfg->routed_scaling_factor;
    moe.n_shared_experts = cfg->n_shared_experts;
    return (BlockConfig){.hidden_size = cfg->hidden_size,
                         .intermediate_size = cfg->intermediate_size,
                         .rms_norm_eps = cfg->rms_norm_eps,
                         .attention = config_has_latents(cfg) ? ATTENTION_MLA : ATTENTION_MULTIHEAD,
                         .multihead = {.hidden_size = cfg->hidden_size,
                                       .num_attention_heads = cfg->num_attention_heads,
                                       .num_key_value_heads = cfg->num_attention_heads,
                                       .head_dim = cfg->v_head_dim,
                                       .attention_bias = cfg->attention_bias},
                         .qk_rope_head_dim = cfg->qk_rope_head_dim,
                         .mla = {.hidden_size = cfg->hidden_size,
                                 .num_attention_heads = cfg->num_attention_heads,
                                 .q_lora_rank = cfg->q_lora_rank,
                                 .kv_lora_rank = cfg->kv_lora_rank,
                                 .qk_nope_head_dim = cfg->qk_nope_head_dim,
                                 .qk_rope_head_dim = cfg->qk_rope_head_dim,
                                 .v_head_dim = cfg->v_head_dim,
                                 .attention_bias = cfg->attention_bias},
                         .index_head_dim = cfg->index_head_dim,
                         .first_k_dense_replace = cfg->first_k_dense_replace,
                         .moe = moe};
}

bool config_has_latents(const ModelConfig *cfg) { return cfg->kv_lora_rank > 0; }

bool config_is_sparse(const ModelConfig *cfg) { return cfg->model_type == DEEPSEEK_V32; }

IndexerConfig config_indexer(const ModelConfig *cfg) {
    return (IndexerConfig){.index_n_heads = cfg->index_n_heads,
                           .index_head_dim = cfg->index_head_dim,
                           .index_topk = cfg->index_topk,
                           .hidden_size = cfg->hidden_size,
                           .q_lora_rank = cfg->q_lora_rank,
                           .qk_rope_head_dim = cfg->qk_rope_head_dim};
}

RopeConfig config_rope(const ModelConfig *cfg) {
    RopeConfig rope = rope_config(cfg->qk_rope_head_dim, cfg->max_position_embeddings);
    rope.rope_theta = cfg->rope_theta;
    bool halves = config_types[cfg->model_type].halves && !cfg->rope_interleave;
    rope.layout = halves ? ROPE_HALVES : ROPE_INTERLEAVED;
    rope.rope_type = cfg->rope_type;
    rope.factor = cfg->rope_factor;
    rope.original_max_position_embeddings = cfg->original_max_position_embeddings;
    rope.beta_fast = cfg->rope_beta_fast;
    rope.beta_slow = cfg->rope_beta_slow;
    rope.mscale = cfg->rope_mscale;
    rope.mscale_all_dim = cfg->rope_mscale_all_dim;
    rope.attention_factor = cfg->rope_attention_factor;
    return rope;
}

/* ---- what may be ---- */

int config_needs_latents(const ModelConfig *cfg, const char *what, Error *err) {
    if (config_has_latents(cfg)) return 0;
    return error_set(err,
                     "%s needs latent attention, but this model has multi-head attention "
                     "(kv_lora_rank is null); use a model that has latents",
                     what);
}

/* Without latents there is one size of heads, and nothing is compressed. */
static int check_multihead(const ModelConfig *cfg, Error *err) {
    int dim = cfg->qk_nope_head_dim + cfg->qk_rope_head_dim;
    if (config_is_sparse(cfg))
        return error_set(err,
                         "kv_lora_rank is null, but a deepseek_v32 model needs latents: give it "
                         "a number, or make the model a deepseek_v3");
    if (cfg->q_lora_rank)
        return error_set(err,
                         "kv_lora_rank is null and q_lora_rank %d; multi-head attention compresses "
                         "neither: make both null, or give kv_lora_rank a number",
                         cfg->q_lora_rank);
    if (cfg->v_head_dim != dim)
        return error_set(err,
                         "kv_lora_rank is null, so queries, keys and values have one size: "
                         "v_head_dim is %d, but qk_nope_head_dim + qk_rope_head_dim is %d + %d",
                         cfg->v_head_dim, cfg->qk_nope_head_dim, cfg->qk_rope_head_dim);
    return 0;
}

int config_check(const ModelConfig *cfg, Error *err) {
    if (config_check_ranges(cfg, err)) return -1;
    if (cfg->bos_token_id >= cfg->vocab_size || cfg->eos_token_id >= cfg->vocab_size)
        return error_set(err, "%s_token_id is %d, but the vocabulary ends at %d",
                         cfg->bos_token_id >= cfg->vocab_size ? "bos" : "eos",
                         cfg->bos_token_id >= cfg->vocab_size ? cfg->bos_token_id
                                                              : cfg->eos_token_id,
                         cfg->vocab_size - 1);
    if (!config_has_latents(cfg) && check_multihead(cfg, err)) return -1;
    IndexerConfig indexer = config_indexer(cfg);
    if (config_is_sparse(cfg) && indexer_check(&indexer, err)) return -1;
    if (cfg->model_type == DEEPSEEK_V2 && cfg->num_nextn_predict_layers)
        return error_set(err, "a deepseek_v2 model has no modules for multi-token prediction "
                              "(num_nextn_predict_layers); deepseek_v3 has");
    BlockConfig block = config_block(cfg);
    if (block_check(&block, err)) return -1;
    RopeConfig rope = config_rope(cfg);
    return cfg->qk_rope_head_dim ? rope_check(&rope, err) : 0;
}

/* ---- how large it is ---- */

/* Of one layer; 0 for a model that has none. */
static int64_t indexer_of_layer(const ModelConfig *cfg) {
    IndexerConfig indexer = config_indexer(cfg);
    return config_is_sparse(cfg) ? indexer_parameters(&indexer) : 0;
}

int64_t config_parameters(const ModelConfig *cfg) {
    BlockConfig block = config_block(cfg);
    int64_t table = (int64_t)cfg->vocab_size * cfg->hidden_size;
    int64_t count = table * (cfg->tie_word_embeddings ? 1 : 2) + cfg->hidden_size;
    for (int i = 0; i < cfg->num_hidden_layers; i++)
        count += block_parameters(&block, i) + indexer_of_layer(cfg);
    return count;
}

int64_t config_active_parameters(const ModelConfig *cfg) {
    BlockConfig block = config_block(cfg);
    int64_t count = (int64_t)cfg->vocab_size * cfg->hidden_size + cfg->hidden_size; /* the head */
    for (int i = 0; i < cfg->num_hidden_layers; i++)
        count += block_active_parameters(&block, i) + indexer_of_layer(cfg);
    return count;
}

int64_t config_module_parameters(const ModelConfig *cfg) {
    BlockConfig block = config_block(cfg);
    int64_t hidden = cfg->hidden_size, count = 0;
    for (int k = 0; k < cfg->num_nextn_predict_layers; k++) /* eh_proj and three norms */
        count += block_parameters(&block, cfg->num_hidden_layers + k) + indexer_of_layer(cfg) +
                 2 * hidden * hidden + 3 * hidden;
    return count;
}
