/*
 * The table, and values of any kind as a double: all of them fit without loss.
 *
 * A row knows where in a ModelConfig its value is and what type it has there, so one getter and one
 * setter serve reading, writing, checking and comparing.
 */
#include "10_full_model/model/config_table.h"

#include "common/program/progress.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { V3 = 1 << DEEPSEEK_V3, V2 = 1 << DEEPSEEK_V2, V32 = 1 << DEEPSEEK_V32, ALL = V3 | V2 | V32 };

static const char *const rope_names[] = {"default", "linear", "", "yarn", NULL}; /* no NTK */
static const char *const stored_names[] = {"", "fp8", "compressed-tensors", NULL};
static const char *const scale_names[] = {"float", "ue8m0", NULL};

#define NEEDED CONFIG_REQUIRED
#define NO     CONFIG_REQUIRED
#define BIG    1e30
#define SMALL  1e-30
#define ROW(kind, part, models, key, field, low, high, v3, v2, v32, null, names, setting, about) \
    {                                                                                            \
        key, CONFIG_##kind, CONFIG_##part, models, offsetof(ModelConfig, field),                 \
            sizeof(((ModelConfig *)0)->field), low, high, {v3, v2, v32}, null, names, setting,   \
            about                                                                                \
    }
#define KEY(kind, part, models, field, low, high, v3, v2, v32, null, about) \
    ROW(kind, part, models, #field, field, low, high, v3, v2, v32, null, NULL, true, about)
#define ROPE_KEY(kind, part, key, low, high, absent, null, about)                               \
    ROW(kind, part, ALL, #key, rope_##key, low, high, absent, absent, absent, null, NULL, true, \
        about)
#define NAME_KEY(part, models, field, names, low, high, absent, null, about)                     \
    ROW(NAME, part, models, #field, field, low, high, absent, absent, absent, null, names, true, \
        about)
#define NO_SETTING(kind, models, field, low, high, v3, v2, v32, null, about) \
    ROW(kind, ALWAYS, models, #field, field, low, high, v3, v2, v32, null, NULL, false, about)
#define QUANT_KEY(kind, part, field, low, high, absent, names, about) \
    ROW(kind, part, ALL, #field, field, low, high, absent, absent, absent, 0, names, false, about)

/* clang-format off */
static const ConfigKey keys[] = {
    /* kind, who has it, models, key, low, high, absent (v3, v2, v3.2), null, about */
    NAME_KEY(ALWAYS, ALL, model_type, config_type_names, 0, 2, NEEDED, NO, ""),
    KEY(INT, ALWAYS, ALL, vocab_size, 1, 1 << 24, 129280, 102400, 129280, NO, "tokens"),
    KEY(INT, ALWAYS, ALL, hidden_size, 1, 1 << 17, 7168, 4096, 7168, NO, "of the residual stream"),
    KEY(INT, ALWAYS, ALL, num_hidden_layers, 1, 1024, 61, 32, 61, NO, "blocks"),
    KEY(INT, ALWAYS, ALL, intermediate_size, 1, 1 << 20, 18432, 11008, 18432, NO,
        "in dense layers"),
    KEY(INT, ALWAYS, ALL, num_attention_heads, 1, 1 << 16, 128, 32, 128, NO, "heads"),
    KEY(INT_OR_NULL, ALWAYS, ALL, q_lora_rank, 1, 1 << 17, 1536, 1536, 1536, 0,
        "of queries; null: none"),
    KEY(INT_OR_NULL, ALWAYS, ALL, kv_lora_rank, 1, 1 << 17, 512, 512, 512, 0,
        "of keys and values; null: none, multi-head attention"),
    KEY(INT, ALWAYS, ALL, qk_nope_head_dim, 0, 1 << 17, 128, 128, 128, NO,
        "of a head, without positions"),
    KEY(INT, ALWAYS, ALL, qk_rope_head_dim, 0, 1 << 17, 64, 64, 64, NO, "of a head, rotated"),
    KEY(INT, ALWAYS, ALL, v_head_dim, 1, 1 << 17, 128, 128, 128, NO, "of a head's values"),
    KEY(BOOL, ALWAYS, ALL, attention_bias, 0, 1, false, false, false, NO, "biases in attention"),
    KEY(INT, ALWAYS, V32, index_n_heads, 1, 1 << 16, NEEDED, NEEDED, 64, NO,
        "heads of the indexer"),
    KEY(INT, ALWAYS, V32, index_head_dim, 1, 1 << 16, NEEDED, NEEDED, 128, NO, "numbers of each"),
    KEY(INT, ALWAYS, V32, index_topk, 1, 1 << 24, NEEDED, NEEDED, 2048, NO, "tokens that it picks"),

    KEY(INT, ALWAYS, ALL, n_routed_experts, 0, 1 << 16, 256, 64, 256, 0,
        "of a layer; 0: all are dense"),
    KEY(INT, EXPERTS, ALL, first_k_dense_replace, 0, 1 << 16, 3, 0, 3, NO, "dense layers first"),
    KEY(INT, EXPERTS, ALL, moe_intermediate_size, 1, 1 << 20, 2048, 1407, 2048, NO, "in an expert"),
    KEY(INT, EXPERTS, ALL, num_experts_per_tok, 1, 1 << 16, 8, NEEDED, 8, NO, "chosen by a token"),
    KEY(INT, EXPERTS, ALL, n_shared_experts, 0, 1 << 16, 1, 2, 1, NO, "seen by every token"),
    KEY(INT, EXPERTS, V3 | V32, n_group, 1, 1 << 16, 8, NEEDED, 8, NO, "groups of experts"),
    KEY(INT, EXPERTS, V3 | V32, topk_group, 1, 1 << 16, 4, NEEDED, 4, NO, "groups to choose from"),
    NAME_KEY(EXPERTS, V3 | V32, topk_method, router_method_names, TOPK_NOAUX_TC, TOPK_NOAUX_TC,
             TOPK_NOAUX_TC, TOPK_NOAUX_TC, "how the router chooses"),
    NAME_KEY(EXPERTS, V2, topk_method, router_method_names, TOPK_GREEDY, TOPK_GROUP_LIMITED_GREEDY,
             TOPK_GREEDY, NO, "how the router chooses"),
    KEY(INT, GROUPS, V2, n_group, 1, 1 << 16, NEEDED, NEEDED, NEEDED, NO, "groups of experts"),
    KEY(INT, GROUPS, V2, topk_group, 1, 1 << 16, NEEDED, NEEDED, NEEDED, NO,
        "groups to choose from"),
    KEY(BOOL, EXPERTS, V3 | V32, norm_topk_prob, 0, 1, true, NEEDED, true, false,
        "weights add up to 1"),
    KEY(BOOL, EXPERTS, V2, norm_topk_prob, 0, 1, NEEDED, false, NEEDED, false,
        "not done, even if true"),
    KEY(FLOAT, EXPERTS, ALL, routed_scaling_factor, SMALL, BIG, 2.5, 1, 2.5, NO,
        "of the experts' sum"),

    KEY(INT, ALWAYS, ALL, max_position_embeddings, 1, 1 << 20, 4096, 2048, 163840, NO,
        "longest context"),
    NAME_KEY(ROPE, ALL, rope_type, rope_names, ROPE_DEFAULT, ROPE_YARN, ROPE_DEFAULT, NO,
             "how the context was lengthened"),
    KEY(FLOAT, ROPE, ALL, rope_theta, 1, BIG, 10000, 10000, 10000, NO, "base of the frequencies"),
    ROPE_KEY(FLOAT, SCALED, factor, 1, BIG, NEEDED, 0, "how many times longer it became"),
    ROPE_KEY(FLOAT, SCALED, mscale_all_dim, 0, BIG, 0, 0,
        "YaRN's temperature in the softmax; 0: none"),
    KEY(INT, YARN, ALL, original_max_position_embeddings, 1, 1 << 20, NEEDED, NEEDED, NEEDED, NO,
        "was the longest"),
    ROPE_KEY(FLOAT, YARN, beta_fast, 0, BIG, 32, 32, "pairs with more turns stay as they are"),
    ROPE_KEY(FLOAT, YARN, beta_slow, 0, BIG, 1, 1, "pairs with fewer turns are squeezed"),
    ROPE_KEY(FLOAT, YARN, mscale, 0, BIG, 0, 0, "the temperature at cos and sin; 0: not given"),
    ROPE_KEY(FLOAT, YARN, attention_factor, 0, BIG, 0, 0, "instead of mscale; 0: not given"),
    KEY(BOOL, ALWAYS, V3, rope_interleave, 0, 1, true, true, true, false, "neighbours are pairs"),

    KEY(FLOAT, ALWAYS, ALL, rms_norm_eps, SMALL, 1, 1e-6, 1e-6, 1e-6, NO,
        "added to the mean square"),
    KEY(FLOAT, ALWAYS, ALL, initializer_range, SMALL, 10, 0.02, 0.02, 0.02, NO,
        "of the first weights"),
    KEY(BOOL, ALWAYS, ALL, tie_word_embeddings, 0, 1, false, false, false, NO,
        "head and table are one"),
    NO_SETTING(TOKEN, ALL, bos_token_id, 0, 1 << 24, 0, 1, 0, -1, "begins a text; null: none"),
    NO_SETTING(TOKEN, ALL, eos_token_id, 0, 1 << 24, 1, 2, 1, -1, "ends a text; null: none"),
    NO_SETTING(INT_OR_NULL, ALL, trained_context_length, 1, 1 << 20, 0, 0, 0, 0,
               "tokens of a text in training; null: not known"),
    KEY(INT, ALWAYS, V3 | V32, num_nextn_predict_layers, 0, MTP_MAX_DEPTH, 1, NEEDED, 1, 0,
        "modules that look further ahead (chapter 06)"),

    QUANT_KEY(NAME, QUANTISED, quant_method, STORED_FP8, STORED_PACKED, NEEDED, stored_names,
        "how linear weights are stored"),
    QUANT_KEY(NAME, FP8, scale_fmt, SCALE_FLOAT, SCALE_UE8M0, SCALE_FLOAT, scale_names,
        "of FP8; ue8m0: powers of two"),
    QUANT_KEY(INT, PACKED, num_bits, 4, 8, NEEDED, NULL, "of a weight: 4 or 8"),
    QUANT_KEY(INT_OR_NULL, PACKED, group_size, 1, 1 << 17, 0, NULL,
        "numbers with one scale; null: a row"),
};
/* clang-format on */
enum { KEYS = sizeof keys / sizeof *keys };

const ConfigKey *config_key(int i) { return i < KEYS ? &keys[i] : NULL; }

bool config_key_applies(const ConfigKey *key, const ModelConfig *cfg) {
    if (!(key->models & 1u << cfg->model_type)) return false;
    switch (key->part) {
    case CONFIG_EXPERTS:
        return cfg->n_routed_experts > 0;
    case CONFIG_GROUPS:
        return cfg->n_routed_experts > 0 && cfg->topk_method == TOPK_GROUP_LIMITED_GREEDY;
    case CONFIG_SCALED:
        return cfg->rope_type != ROPE_DEFAULT;
    case CONFIG_YARN:
        return cfg->rope_type == ROPE_YARN;
    case CONFIG_QUANTISED:
        return cfg->quant_method != STORED_PLAIN;
    case CONFIG_FP8:
        return cfg->quant_method == STORED_FP8;
    case CONFIG_PACKED:
        return cfg->quant_method == STORED_PACKED;
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
        bool none = (key->kind == CONFIG_TOKEN && value < 0) ||
                    (key->kind == CONFIG_INT_OR_NULL && value == 0);
        if (none || !config_key_applies(key, cfg)) continue;
        if (value >= key->low && value <= key->high) continue;
        if (key->kind == CONFIG_NAME)
            return error_set(err, "%s of a %s model must be one of: %s", key->key,
                             config_type_names[cfg->model_type], config_key_range(key).text);
        return error_set(err, "%s is %.10g, but must be in %s", key->key, value,
                         config_key_range(key).text);
    }
    return 0;
}
