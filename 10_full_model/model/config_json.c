/*
 * config.json, read and written as transformers does.
 *
 * The keys are those of config_table.h, in its order: a key that decides the shape of a weight or
 * what is computed must be there; others have transformers' defaults. Here is what is odd about
 * single keys, and the keys of which this program knows one value only: a file that asks for
 * another (another activation, experts in every second layer only) is refused by name.
 */
#include "10_full_model/model/config_table.h"

#include "common/files/files.h"
#include "common/files/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file's object and, within it, the one that holds the positions' keys (NULL: there is none). */
typedef struct Source {
    const cJSON *json, *rope;
} Source;

static const cJSON *find(const cJSON *json, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    return cJSON_IsNull(item) ? NULL : item; /* null is "not given" everywhere in these files */
}

/* ---- a key of the table ---- */

/* The old spelling has rope_theta beside rope_scaling, and calls rope_type `type`. */
static const cJSON *find_key(const Source *from, const ConfigKey *key) {
    if (key->part < CONFIG_ROPE) return find(from->json, key->key);
    const cJSON *item = find(from->rope, key->key);
    if (!item && !strcmp(key->key, "rope_type")) item = find(from->rope, "type");
    if (!item && !strcmp(key->key, "rope_theta")) item = find(from->json, "rope_theta");
    return item;
}

static int read_name(const cJSON *item, const ConfigKey *key, double *value, Error *err) {
    if (!cJSON_IsString(item)) return error_set(err, "%s is not a string", key->key);
    const char *name = item->valuestring;
    for (int i = 0; key->names[i]; i++) {
        if (!*name || strcmp(name, key->names[i])) continue;
        *value = i; /* whether this model may have it, config_check says */
        return 0;
    }
    return error_set(err, "%s is %s; this program knows: %s", key->key, name_text(name).text,
                     config_key_range(key).text);
}

static int read_value(const cJSON *item, const ConfigKey *key, double *value, Error *err) {
    int64_t number;
    switch (key->kind) {
    case CONFIG_BOOL:
        if (!cJSON_IsBool(item)) return error_set(err, "%s is not true or false", key->key);
        *value = cJSON_IsTrue(item);
        return 0;
    case CONFIG_FLOAT:
        if (!cJSON_IsNumber(item)) return error_set(err, "%s is not a number", key->key);
        *value = item->valuedouble;
        return 0;
    case CONFIG_NAME:
        return read_name(item, key, value, err);
    case CONFIG_TOKEN: /* a number, or a list of which the first counts */
        if (cJSON_IsArray(item)) item = cJSON_GetArrayItem(item, 0);
        if (item && !json_integer(item, (int64_t)key->low, (int64_t)key->high, &number))
            return error_set(err, "%s is not a token id", key->key);
        *value = item ? (double)number : -1;
        return 0;
    default:
        if (!json_integer(item, (int64_t)key->low, (int64_t)key->high, &number))
            return error_set(err, "%s must be a whole number in %s", key->key,
                             config_key_range(key).text);
        *value = (double)number;
        return 0;
    }
}

/* Where no layer has experts, what they would be like may be left out. */
static bool all_dense(const ModelConfig *cfg) {
    return cfg->first_k_dense_replace >= cfg->num_hidden_layers;
}

static int read_key(ModelConfig *cfg, const ConfigKey *key, const Source *from, Error *err) {
    double value = key->absent;
    const cJSON *item = find_key(from, key);
    if (item && read_value(item, key, &value, err)) return -1;
    if (value == CONFIG_REQUIRED && key->part == CONFIG_EXPERTS && all_dense(cfg)) value = 1;
    if (value == CONFIG_REQUIRED) return error_set(err, "%s is missing", key->key);
    config_key_set(key, cfg, value);
    return 0;
}

/* ---- what is odd ---- */

/* A key that is missing, or has the one value that is known. */
static int only(const cJSON *json, const char *key, const char *known, Error *err) {
    const cJSON *item = find(json, key);
    if (!item) return 0;
    char *printed = cJSON_PrintUnformatted(item);
    if (!printed) fatal("out of memory");
    const char *text = cJSON_IsString(item) ? item->valuestring : printed;
    int status = strcmp(text, known) ? error_set(err, "%s is %s; only %s is known", key,
                                                 name_text(text).text, known)
                                     : 0;
    cJSON_free(printed);
    return status;
}

static int check_known(const ModelConfig *cfg, const Source *from, Error *err) {
    const cJSON *json = from->json;
    if (only(json, "hidden_act", "silu", err) || only(json, "mlp_bias", "false", err)) return -1;
    if (cfg->n_routed_experts) {
        ScoringFunc scoring = config_block(cfg).moe.router.scoring_func;
        if (only(json, "scoring_func", router_scoring_names[scoring], err) ||
            only(json, "moe_layer_freq", "1", err))
            return -1;
    }
    return 0;
}

static int check_kv_heads(const ModelConfig *cfg, const cJSON *json, Error *err) {
    const cJSON *item = find(json, "num_key_value_heads");
    int64_t heads = cfg->num_attention_heads;
    if (item && !json_integer(item, 1, 1 << 16, &heads))
        return error_set(err, "num_key_value_heads must be a whole number in 1 .. 65536");
    if (heads == cfg->num_attention_heads) return 0;
    return error_set(err,
                     "num_key_value_heads is %d and num_attention_heads %d: latent attention "
                     "has a key of its own for each head, so they must be equal",
                     (int)heads, cfg->num_attention_heads);
}

/* The old spelling is rope_scaling, the new one rope_parameters. */
static int find_rope(Source *from, Error *err) {
    const char *name = find(from->json, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    from->rope = find(from->json, name);
    if (from->rope && !cJSON_IsObject(from->rope))
        return error_set(err, "%s is not an object", name);
    int status = only(from->rope, "truncate", "true", err);
    return status ? status : only(from->rope, "partial_rotary_factor", "1", err);
}

static int read_config(ModelConfig *cfg, const cJSON *json, Error *err) {
    Source from = {.json = json};
    const ConfigKey *key;
    /* What a model without the key has. */
    *cfg = (ModelConfig){.rope_factor = 1, .rope_interleave = true};
    if (find_rope(&from, err) || read_key(cfg, config_key(0), &from, err)) return -1; /* the type */
    /* null says "none"; a file without the key may mean transformers' default, 1536 */
    if (!cJSON_HasObjectItem(json, "q_lora_rank"))
        return error_set(err, "q_lora_rank is missing (null if queries are not compressed)");
    for (int i = 1; (key = config_key(i)); i++)
        if (config_key_applies(key, cfg) && read_key(cfg, key, &from, err)) return -1;
    if (check_known(cfg, &from, err) || check_kv_heads(cfg, json, err)) return -1;
    return config_check(cfg, err);
}

int config_load(ModelConfig *cfg, const char *directory, Error *err) {
    PathText path = file_path(directory, "config.json");
    cJSON *json = json_load(path.text, err);
    if (!json) return -1;
    int status = read_config(cfg, json, err);
    cJSON_Delete(json);
    return status ? error_prefix(err, "%s: ", path.text) : 0;
}

/* ---- writing ---- */

/* cJSON would write 2.0 as 2, which readers with types take for a whole number. */
static void write_key(cJSON *json, const ConfigKey *key, const ModelConfig *cfg) {
    double value = config_key_get(key, cfg);
    ConfigText text = config_key_text(key, value);
    if ((key->kind == CONFIG_TOKEN && value < 0) || (key->kind == CONFIG_INT_OR_NULL && !value)) {
        cJSON_AddNullToObject(json, key->key);
    } else if (key->kind == CONFIG_NAME) {
        cJSON_AddStringToObject(json, key->key, text.text);
    } else {
        if (key->kind == CONFIG_FLOAT && !strpbrk(text.text, ".en")) strcat(text.text, ".0");
        cJSON_AddRawToObject(json, key->key, text.text);
    }
}

/* A dense model still needs keys that transformers can build its (unused) router from. */
static ModelConfig with_experts(ModelConfig cfg) {
    if (cfg.n_routed_experts) return cfg;
    cfg.n_routed_experts = 1;
    const ConfigKey *key;
    for (int i = 0; (key = config_key(i)); i++)
        if (key->part == CONFIG_EXPERTS && config_key_applies(key, &cfg))
            config_key_set(key, &cfg, key->absent == CONFIG_REQUIRED ? 1 : key->absent);
    cfg.first_k_dense_replace = cfg.num_hidden_layers;
    cfg.n_shared_experts = 1;
    return cfg;
}

int config_save(const ModelConfig *config, const char *directory, Error *err) {
    static const char *const architectures[] = {"DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM",
                                                "DeepseekV32ForCausalLM"};
    ModelConfig cfg = with_experts(*config);
    cJSON *json = cJSON_CreateObject(), *rope = cJSON_CreateObject();
    if (!json || !rope) fatal("out of memory");
    cJSON_AddItemToArray(cJSON_AddArrayToObject(json, "architectures"),
                         cJSON_CreateString(architectures[cfg.model_type]));
    const ConfigKey *key;
    for (int i = 0; (key = config_key(i)); i++) {
        if (!config_key_applies(key, &cfg)) continue;
        /* 0 says "not given" of YaRN's numbers */
        if (key->part == CONFIG_YARN && config_key_get(key, &cfg) == 0) continue;
        write_key(key->part < CONFIG_ROPE ? json : rope, key, &cfg);
    }
    cJSON_AddItemToObject(json, "rope_parameters", rope);
    cJSON_AddNumberToObject(json, "num_key_value_heads", cfg.num_attention_heads);
    cJSON_AddStringToObject(json, "scoring_func",
                            router_scoring_names[config_block(&cfg).moe.router.scoring_func]);
    cJSON_AddNumberToObject(json, "moe_layer_freq", 1);
    cJSON_AddStringToObject(json, "hidden_act", "silu");
    cJSON_AddRawToObject(json, "attention_dropout", "0.0");
    cJSON_AddStringToObject(json, "dtype", cfg.dtype == BF16 ? "bfloat16" : "float32");
    int status = json_save(file_path(directory, "config.json").text, json, err);
    cJSON_Delete(json);
    return status;
}
