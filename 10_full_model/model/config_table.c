/*
 * The table, and values of any kind as a double: all of them fit without loss.
 */
#include "10_full_model/model/config_table.h"

#include "common/program/progress.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { V3 = 1 << DEEPSEEK_V3, V2 = 1 << DEEPSEEK_V2, V32 = 1 << DEEPSEEK_V32, ALL = V3 | V2 | V32 };

static const char *const rope_names[] = {"default", "linear", "", "yarn", NULL}; /* no NTK */

#define NEEDED CONFIG_REQUIRED
#define BIG    1e30
#define SMALL  1e-30
#define ROW(kind, part, models, key, field, low, high, absent, names, setting, about)   \
    {                                                                                   \
        key, CONFIG_##kind, CONFIG_##part, models, offsetof(ModelConfig, field),        \
            sizeof(((ModelConfig *)0)->field), low, high, absent, names, setting, about \
    }
#define KEY(kind, part, models, field, low, high, absent, about) \
    ROW(kind, part, models, #field, field, low, high, absent, NULL, true, about)
#define ROPE_KEY(kind, part, key, low, high, absent, about) \
    ROW(kind, part, ALL, #key, rope_##key, low, high, absent, NULL, true, about)
#define NAME_KEY(part, models, field, names, low, high, absent, about) \
    ROW(NAME, part, models, #field, field, low, high, absent, names, true, about)
#define NO_SETTING(kind, models, field, low, high, absent, about) \
    ROW(kind, ALWAYS, models, #field, field, low, high, absent, NULL, false, about)

/* clang-format off */
/* [config_table] */
static const ConfigKey keys[] = {
    /* kind, who has it, models, key, low, high, absent, about */
    NAME_KEY(ALWAYS, ALL, model_type, config_type_names, 0, 2, NEEDED, ""),
    KEY(INT, ALWAYS, ALL, vocab_size, 1, 1 << 24, NEEDED, "tokens"),
    KEY(INT, ALWAYS, ALL, hidden_size, 1, 1 << 17, NEEDED, "width of the residual stream"),
    KEY(INT, ALWAYS, ALL, num_hidden_layers, 1, 1024, NEEDED, "blocks"),
    KEY(INT, ALWAYS, ALL, intermediate_size, 1, 1 << 20, NEEDED, "inner width of a dense layer"),
    KEY(INT, ALWAYS, ALL, num_attention_heads, 1, 1 << 16, NEEDED, "heads"),
    KEY(INT_OR_NULL, ALWAYS, ALL, q_lora_rank, 0, 1 << 17, 0, "latent of queries; null: none"),
    KEY(INT, ALWAYS, ALL, kv_lora_rank, 1, 1 << 17, NEEDED, "latent of keys and values"),
    KEY(INT, ALWAYS, ALL, qk_nope_head_dim, 1, 1 << 17, NEEDED, "of a head, without positions"),
    KEY(INT, ALWAYS, ALL, qk_rope_head_dim, 0, 1 << 17, NEEDED, "of a head, rotated"),
    KEY(INT, ALWAYS, ALL, v_head_dim, 1, 1 << 17, NEEDED, "of a head's values"),
    KEY(BOOL, ALWAYS, ALL, attention_bias, 0, 1, false, "biases in attention's projections"),
    KEY(INT, ALWAYS, V32, index_n_heads, 1, 1 << 16, NEEDED, "heads of the indexer"),
    KEY(INT, ALWAYS, V32, index_head_dim, 1, 1 << 16, NEEDED, "numbers of each"),
    KEY(INT, ALWAYS, V32, index_topk, 1, 1 << 24, NEEDED, "tokens that it picks"),

    KEY(INT, ALWAYS, ALL, n_routed_experts, 0, 1 << 16, 0, "of a layer; 0: all are dense"),
    KEY(INT, EXPERTS, V3 | V32, first_k_dense_replace, 0, 1 << 16, NEEDED, "dense layers first"),
    KEY(INT, EXPERTS, V2, first_k_dense_replace, 0, 1 << 16, 0, "dense layers first"),
    KEY(INT, EXPERTS, ALL, moe_intermediate_size, 1, 1 << 20, NEEDED, "inner width of an expert"),
    KEY(INT, EXPERTS, ALL, num_experts_per_tok, 1, 1 << 16, NEEDED, "chosen by a token"),
    KEY(INT, EXPERTS, ALL, n_shared_experts, 0, 1 << 16, 0, "seen by every token"),
    KEY(INT, EXPERTS, ALL, n_group, 1, 1 << 16, 1, "groups of experts"),
    KEY(INT, EXPERTS, ALL, topk_group, 1, 1 << 16, 1, "groups that a token may choose from"),
    NAME_KEY(EXPERTS, V3 | V32, topk_method, router_method_names, TOPK_NOAUX_TC, TOPK_NOAUX_TC,
             TOPK_NOAUX_TC, "how the router chooses"),
    NAME_KEY(EXPERTS, V2, topk_method, router_method_names, TOPK_GREEDY, TOPK_GROUP_LIMITED_GREEDY,
             TOPK_GREEDY, "how the router chooses"),
    KEY(BOOL, EXPERTS, V3 | V32, norm_topk_prob, 0, 1, true, "chosen weights add up to 1"),
    KEY(BOOL, EXPERTS, V2, norm_topk_prob, 0, 1, false, "not done, whatever the file says"),
    KEY(FLOAT, EXPERTS, ALL, routed_scaling_factor, SMALL, BIG, NEEDED, "of the experts' sum"),

    KEY(INT, ALWAYS, ALL, max_position_embeddings, 1, 1 << 20, NEEDED, "the longest context"),
    NAME_KEY(ROPE, ALL, rope_type, rope_names, ROPE_DEFAULT, ROPE_YARN, ROPE_DEFAULT,
             "how the context was lengthened"),
    KEY(FLOAT, ROPE, ALL, rope_theta, 1, BIG, 10000, "base of the frequencies"),
    ROPE_KEY(FLOAT, SCALED, factor, 1, BIG, NEEDED, "how many times longer it became"),
    KEY(INT, YARN, ALL, original_max_position_embeddings, 1, 1 << 20, NEEDED, "longer than this"),
    ROPE_KEY(FLOAT, YARN, beta_fast, 0, BIG, 32, "pairs with more turns stay as they are"),
    ROPE_KEY(FLOAT, YARN, beta_slow, 0, BIG, 1, "pairs with fewer turns are squeezed"),
    ROPE_KEY(FLOAT, YARN, mscale, 0, BIG, 0, "YaRN's temperature; 0: not given"),
    ROPE_KEY(FLOAT, YARN, mscale_all_dim, 0, BIG, 0, "the same, in the softmax"),
    ROPE_KEY(FLOAT, YARN, attention_factor, 0, BIG, 0, "instead of both; 0: not given"),
    KEY(BOOL, ALWAYS, V3 | V32, rope_interleave, 0, 1, true, "pairs are neighbours, not halves"),

    KEY(FLOAT, ALWAYS, ALL, rms_norm_eps, SMALL, 1, NEEDED, "added to the mean square"),
    KEY(FLOAT, ALWAYS, ALL, initializer_range, SMALL, 10, 0.02, "deviation of the first weights"),
    KEY(BOOL, ALWAYS, ALL, tie_word_embeddings, 0, 1, false, "the head is the embedding table"),
    NO_SETTING(TOKEN, ALL, bos_token_id, 0, 1 << 24, -1, "begins a text"),
    NO_SETTING(TOKEN, ALL, eos_token_id, 0, 1 << 24, -1, "ends a text"),
    NO_SETTING(INT_OR_NULL, ALL, trained_context_length, 0, 1 << 20, 0,
               "tokens of a text in training; null: not known"),
    NO_SETTING(INT, V3 | V32, num_nextn_predict_layers, 0, 1 << 10, 1,
               "more layers, to predict several tokens: not built"),
};
/* [/config_table] */
/* clang-format on */
enum { KEYS = sizeof keys / sizeof *keys };

const ConfigKey *config_key(int i) { return i < KEYS ? &keys[i] : NULL; }

bool config_key_applies(const ConfigKey *key, const ModelConfig *cfg) {
    if (!(key->models & 1u << cfg->model_type)) return false;
    switch (key->part) {
    case CONFIG_EXPERTS:
        return cfg->n_routed_experts > 0;
    case CONFIG_SCALED:
        return cfg->rope_type != ROPE_DEFAULT;
    case CONFIG_YARN:
        return cfg->rope_type == ROPE_YARN;
    default:
        return true;
    }
}

double config_key_get(const ConfigKey *key, const ModelConfig *cfg) {
    const char *at = (const char *)cfg + key->offset;
    if (key->kind == CONFIG_FLOAT)
        return key->size == sizeof(float) ? *(const float *)at : *(const double *)at;
    return key->kind == CONFIG_BOOL ? *(const bool *)at : *(const int *)at;
}

void config_key_set(const ConfigKey *key, ModelConfig *cfg, double value) {
    char *at = (char *)cfg + key->offset;
    if (key->kind == CONFIG_FLOAT && key->size == sizeof(float))
        *(float *)at = (float)value;
    else if (key->kind == CONFIG_FLOAT)
        *(double *)at = value;
    else if (key->kind == CONFIG_BOOL)
        *(bool *)at = value != 0;
    else
        *(int *)at = (int)value;
}

ConfigText config_key_text(const ConfigKey *key, double value) {
    ConfigText out;
    if (key->kind == CONFIG_BOOL)
        snprintf(out.text, sizeof out.text, "%s", value ? "true" : "false");
    else if (key->kind == CONFIG_NAME)
        snprintf(out.text, sizeof out.text, "%s", key->names[(int)value]);
    else
        format_number(out.text, sizeof out.text, value);
    return out;
}

ConfigText config_key_range(const ConfigKey *key) {
    ConfigText out = {"true, false"};
    if (key->kind == CONFIG_BOOL) return out;
    out.text[0] = 0;
    if (key->kind != CONFIG_NAME) {
        snprintf(out.text, sizeof out.text, "%.10g .. %.10g", key->low, key->high);
        return out;
    }
    for (int i = (int)key->low; i <= (int)key->high; i++) {
        size_t used = strlen(out.text);
        if (*key->names[i])
            snprintf(out.text + used, sizeof out.text - used, "%s%s", used ? ", " : "",
                     key->names[i]);
    }
    return out;
}

int config_check_ranges(const ModelConfig *cfg, Error *err) {
    for (const ConfigKey *key = keys; key < keys + KEYS; key++) {
        double value = config_key_get(key, cfg);
        if (!config_key_applies(key, cfg) || (key->kind == CONFIG_TOKEN && value < 0)) continue;
        if (value >= key->low && value <= key->high) continue;
        if (key->kind == CONFIG_NAME)
            return error_set(err, "%s of a %s model must be one of: %s", key->key,
                             config_type_names[cfg->model_type], config_key_range(key).text);
        return error_set(err, "%s is %.10g, but must be in %s", key->key, value,
                         config_key_range(key).text);
    }
    return 0;
}
