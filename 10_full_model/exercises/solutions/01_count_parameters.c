#include "config.h"

/* nano with 2,048 tokens: 2,164,416. The MLPs are the largest part: 4 * 3 * 192 * 512 = 1,179,648. */
int64_t config_parameters(const ModelConfig *cfg) {
    int64_t hidden = cfg->hidden_size;
    int64_t q = (int64_t)cfg->num_attention_heads * cfg->head_dim * hidden;
    int64_t kv = (int64_t)cfg->num_key_value_heads * cfg->head_dim * hidden;
    int64_t mlp = 3 * hidden * cfg->intermediate_size;
    int64_t table = (int64_t)cfg->vocab_size * hidden;
    int64_t total = table + hidden;
    for (int i = 0; i < cfg->num_hidden_layers; i++) total += 2 * q + 2 * kv + mlp + 2 * hidden;
    return cfg->tie_word_embeddings ? total : total + table;
}
