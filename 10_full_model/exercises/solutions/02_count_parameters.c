/*
 * Solution 10.2. Three things are easily forgotten: the norm inside the latent path (kv_lora_rank
 * numbers, and q_lora_rank with compressed queries), the last norm, and that a tied head is no
 * second table. A layer of V3 with experts is 257 x 3 x 7168 x 2048 = 11.32 billion, its router 2
 * million, and attention 187 million. (Tempting: 671 / 61 = 11.0, but three layers are dense and
 * small.)
 */
#include "10_full_model/model/config.h"

extern const double one_layer_more;

const double one_layer_more = 11.507;

static int64_t attention(const ModelConfig *cfg) {
    int64_t hidden = cfg->hidden_size, heads = cfg->num_attention_heads;
    int64_t query = heads * (cfg->qk_nope_head_dim + cfg->qk_rope_head_dim);
    int64_t latent = cfg->kv_lora_rank + cfg->qk_rope_head_dim;
    int64_t count = latent * hidden + cfg->kv_lora_rank +
                    heads * (cfg->qk_nope_head_dim + cfg->v_head_dim) * cfg->kv_lora_rank +
                    hidden * heads * cfg->v_head_dim;
    if (cfg->q_lora_rank)
        count += cfg->q_lora_rank * (hidden + 1 + query);
    else
        count += query * hidden;
    if (cfg->attention_bias) count += latent + hidden + cfg->q_lora_rank;
    return count;
}

int64_t config_parameters(const ModelConfig *cfg) {
    int64_t hidden = cfg->hidden_size, table = cfg->vocab_size * hidden;
    int64_t dense = 3 * hidden * cfg->intermediate_size;
    int64_t expert = 3 * hidden * cfg->moe_intermediate_size;
    int64_t experts =
        cfg->n_routed_experts * hidden + (cfg->n_routed_experts + cfg->n_shared_experts) * expert;
    int64_t total = table + hidden;
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        bool is_dense = i < cfg->first_k_dense_replace || !cfg->n_routed_experts;
        total += attention(cfg) + 2 * hidden + (is_dense ? dense : experts);
    }
    return cfg->tie_word_embeddings ? total : total + table;
}
