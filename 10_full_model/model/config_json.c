/*
 * config.json, read and written as transformers does.
 *
 * A key that decides the shape of a weight or what is computed must be there; others have
 * transformers' defaults. What the file asks for and this program does not do (another
 * activation, experts in every second layer only) is refused by name, not ignored.
 */
#include "10_full_model/model/config.h"

#include "common/files/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In ModelType's order. */
static const char *const MODEL_TYPES[] = {"deepseek_v3", "deepseek_v2", "deepseek_v32"};
enum { MODEL_TYPE_COUNT = sizeof MODEL_TYPES / sizeof MODEL_TYPES[0] };

/* ---- one key ---- */

static const cJSON *find(const cJSON *json, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    return cJSON_IsNull(item) ? NULL : item; /* null is "not given" everywhere in these files */
}

/* What a key is that is null or not there: an error, or a value. */
enum { REQUIRED = -1000000 };

static int read_integer(const cJSON *json, const char *key, int low, int high, int absent,
                        int *value, Error *err) {
    const cJSON *item = find(json, key);
    int64_t number;
    if (!item && absent == REQUIRED) return error_set(err, "%s is missing", key);
    if (!item) {
        *value = absent;
        return 0;
    }
    if (!json_integer(item, low, high, &number))
        return error_set(err, "%s must be a whole number between %d and %d", key, low, high);
    *value = (int)number;
    return 0;
}

/* absent NAN: the key is required. */
static int read_number(const cJSON *json, const char *key, double absent, double *value,
                       Error *err) {
    const cJSON *item = find(json, key);
    if (!item && isnan(absent)) return error_set(err, "%s is missing", key);
    if (item && !cJSON_IsNumber(item)) return error_set(err, "%s is not a number", key);
    *value = item ? item->valuedouble : absent;
    return 0;
}

static int read_flag(const cJSON *json, const char *key, bool absent, bool *value, Error *err) {
    const cJSON *item = find(json, key);
    if (item && !cJSON_IsBool(item)) return error_set(err, "%s is not true or false", key);
    *value = item ? cJSON_IsTrue(item) : absent;
    return 0;
}

/* The string of a key; *value stays as it is when the key is not there. */
static int read_string(const cJSON *json, const char *key, const char **value, Error *err) {
    const cJSON *item = find(json, key);
    if (item && !cJSON_IsString(item)) return error_set(err, "%s is not a string", key);
    if (item) *value = item->valuestring;
    return 0;
}

/* A token id: a number, or a list of which the first counts. */
static int read_token(const cJSON *json, const char *key, int *id, Error *err) {
    const cJSON *item = find(json, key);
    int64_t number = -1;
    if (cJSON_IsArray(item)) item = cJSON_GetArrayItem(item, 0);
    if (item && !json_integer(item, 0, 1 << 24, &number))
        return error_set(err, "%s is not a token id", key);
    *id = (int)number;
    return 0;
}

/* ---- groups of keys ---- */

static int read_sizes(ModelConfig *cfg, const cJSON *json, Error *err) {
    const struct {
        const char *key;
        int *value;
        int low, high, absent;
    } integers[] = {
        {"vocab_size", &cfg->vocab_size, 1, 1 << 24, REQUIRED},
        {"hidden_size", &cfg->hidden_size, 1, 1 << 17, REQUIRED},
        {"num_hidden_layers", &cfg->num_hidden_layers, 1, 1024, REQUIRED},
        {"intermediate_size", &cfg->intermediate_size, 1, 1 << 20, REQUIRED},
        {"num_attention_heads", &cfg->num_attention_heads, 1, 1 << 16, REQUIRED},
        {"kv_lora_rank", &cfg->kv_lora_rank, 1, 1 << 17, REQUIRED},
        {"qk_nope_head_dim", &cfg->qk_nope_head_dim, 1, 1 << 17, REQUIRED},
        {"qk_rope_head_dim", &cfg->qk_rope_head_dim, 0, 1 << 17, REQUIRED},
        {"v_head_dim", &cfg->v_head_dim, 1, 1 << 17, REQUIRED},
        {"max_position_embeddings", &cfg->max_position_embeddings, 1, 1 << 20, REQUIRED},
        {"q_lora_rank", &cfg->q_lora_rank, 0, 1 << 17, 0},
        {"n_routed_experts", &cfg->n_routed_experts, 0, 1 << 16, 0},
        {"num_nextn_predict_layers", &cfg->num_nextn_predict_layers, 0, 1 << 10,
         cfg->model_type == DEEPSEEK_V2 ? 0 : 1},
    };
    /* null says "none"; a file without the key may mean transformers' default, 1536 */
    if (!cJSON_HasObjectItem(json, "q_lora_rank"))
        return error_set(err, "q_lora_rank is missing (null if queries are not compressed)");
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++)
        if (read_integer(json, integers[i].key, integers[i].low, integers[i].high,
                         integers[i].absent, integers[i].value, err))
            return -1;
    if (cfg->model_type == DEEPSEEK_V32 &&
        (read_integer(json, "index_n_heads", 1, 1 << 16, REQUIRED, &cfg->index_n_heads, err) ||
         read_integer(json, "index_head_dim", 1, 1 << 16, REQUIRED, &cfg->index_head_dim, err) ||
         read_integer(json, "index_topk", 1, 1 << 24, REQUIRED, &cfg->index_topk, err)))
        return -1;
    int kv_heads = 0;
    if (read_integer(json, "num_key_value_heads", 1, 1 << 16, cfg->num_attention_heads, &kv_heads,
                     err))
        return -1;
    if (kv_heads != cfg->num_attention_heads)
        return error_set(err,
                         "num_key_value_heads is %d and num_attention_heads %d: latent attention "
                         "has a key of its own for each head, so they must be equal",
                         kv_heads, cfg->num_attention_heads);
    return 0;
}

static int read_experts(ModelConfig *cfg, const cJSON *json, Error *err) {
    bool v3 = cfg->model_type != DEEPSEEK_V2;
    const char *scoring = v3 ? "sigmoid" : "softmax", *method = v3 ? "noaux_tc" : "greedy";
    const char *wanted = scoring;
    double scaling = 0;
    int frequency = 1;
    if (read_integer(json, "first_k_dense_replace", 0, 1 << 16, v3 ? REQUIRED : 0,
                     &cfg->first_k_dense_replace, err))
        return -1;
    /* Where no layer has experts, what they would be like may be left out. */
    bool dense = cfg->first_k_dense_replace >= cfg->num_hidden_layers;
    if (read_integer(json, "moe_intermediate_size", 1, 1 << 20, dense ? 1 : REQUIRED,
                     &cfg->moe_intermediate_size, err) ||
        read_integer(json, "num_experts_per_tok", 1, 1 << 16, dense ? 1 : REQUIRED,
                     &cfg->num_experts_per_tok, err) ||
        read_integer(json, "n_shared_experts", 0, 1 << 16, 0, &cfg->n_shared_experts, err) ||
        read_integer(json, "n_group", 1, 1 << 16, 1, &cfg->n_group, err) ||
        read_integer(json, "topk_group", 1, 1 << 16, 1, &cfg->topk_group, err) ||
        read_integer(json, "moe_layer_freq", 1, 1 << 16, 1, &frequency, err) ||
        read_number(json, "routed_scaling_factor", dense ? 1 : NAN, &scaling, err) ||
        read_flag(json, "norm_topk_prob", v3, &cfg->norm_topk_prob, err) ||
        read_string(json, "scoring_func", &scoring, err) ||
        read_string(json, "topk_method", &method, err))
        return -1;
    int known = 0;
    while (router_method_names[known] && strcmp(method, router_method_names[known])) known++;
    if (!router_method_names[known])
        return error_set(err, "topk_method is %s", name_text(method).text);
    cfg->topk_method = (TopkMethod)known;
    if (strcmp(scoring, wanted))
        return error_set(err, "scoring_func is %s; a %s model has %s", name_text(scoring).text,
                         MODEL_TYPES[cfg->model_type], wanted);
    if (frequency != 1)
        return error_set(err, "moe_layer_freq is %d; only 1 (experts in every layer) is known",
                         frequency);
    cfg->routed_scaling_factor = (float)scaling;
    return 0;
}

/* The old spelling has rope_theta beside rope_scaling, the new one puts both into
 * rope_parameters. */
static int read_rope(ModelConfig *cfg, const cJSON *json, Error *err) {
    const cJSON *parameters = find(json, "rope_parameters");
    const cJSON *rope = parameters ? parameters : find(json, "rope_scaling");
    const char *type = "default", *old_type = NULL;
    if (rope && !cJSON_IsObject(rope))
        return error_set(err, "%s is not an object",
                         parameters ? "rope_parameters" : "rope_scaling");
    const cJSON *theta_at = parameters && find(parameters, "rope_theta") ? parameters : json;
    if (read_number(theta_at, "rope_theta", 10000, &cfg->rope_theta, err) ||
        read_flag(json, "rope_interleave", true, &cfg->rope_interleave, err))
        return -1;
    cfg->rope_type = ROPE_DEFAULT;
    cfg->rope_factor = 1;
    if (!rope) return 0;
    if (read_string(rope, "type", &old_type, err)) return -1;
    if (old_type) type = old_type;
    if (read_string(rope, "rope_type", &type, err)) return -1;
    if (!strcmp(type, "default")) return 0;
    if (strcmp(type, "linear") && strcmp(type, "yarn"))
        return error_set(err, "rope_type is %s; this program knows: default, linear, yarn",
                         name_text(type).text);
    bool truncate = true;
    double rotated = 1;
    if (read_flag(rope, "truncate", true, &truncate, err) ||
        read_number(rope, "partial_rotary_factor", 1, &rotated, err))
        return -1;
    if (!truncate || rotated != 1)
        return error_set(err, "%s; this program does not know that",
                         truncate ? "partial_rotary_factor is not 1" : "truncate is false");
    cfg->rope_type = type[0] == 'y' ? ROPE_YARN : ROPE_LINEAR;
    if (read_number(rope, "factor", NAN, &cfg->rope_factor, err)) return -1;
    if (cfg->rope_type == ROPE_LINEAR) return 0;
    return read_number(rope, "beta_fast", 32, &cfg->rope_beta_fast, err) ||
                   read_number(rope, "beta_slow", 1, &cfg->rope_beta_slow, err) ||
                   read_number(rope, "mscale", 0, &cfg->rope_mscale, err) ||
                   read_number(rope, "mscale_all_dim", 0, &cfg->rope_mscale_all_dim, err) ||
                   read_number(rope, "attention_factor", 0, &cfg->rope_attention_factor, err) ||
                   read_integer(rope, "original_max_position_embeddings", 1, 1 << 20, REQUIRED,
                                &cfg->original_max_position_embeddings, err)
               ? -1
               : 0;
}

static int read_config(ModelConfig *cfg, const cJSON *json, Error *err) {
    const char *type = "missing", *activation = "silu";
    double eps = 0, range = 0;
    if (read_string(json, "model_type", &type, err)) return -1;
    int known = 0;
    while (known < MODEL_TYPE_COUNT && strcmp(type, MODEL_TYPES[known])) known++;
    if (known == MODEL_TYPE_COUNT)
        return error_set(err, "model_type is %s; this program knows: %s, %s, %s",
                         name_text(type).text, MODEL_TYPES[0], MODEL_TYPES[1], MODEL_TYPES[2]);
    cfg->model_type = (ModelType)known;
    cfg->topk_method = known == DEEPSEEK_V2 ? TOPK_GREEDY : TOPK_NOAUX_TC;
    if (read_string(json, "hidden_act", &activation, err)) return -1;
    if (strcmp(activation, "silu"))
        return error_set(err, "hidden_act is %s; only silu is known", name_text(activation).text);
    bool mlp_bias = false;
    if (read_flag(json, "mlp_bias", false, &mlp_bias, err)) return -1;
    if (mlp_bias) return error_set(err, "mlp_bias is true; only false is known");
    if (read_sizes(cfg, json, err)) return -1;
    if (cfg->n_routed_experts && read_experts(cfg, json, err)) return -1;
    if (read_rope(cfg, json, err) || read_number(json, "rms_norm_eps", NAN, &eps, err) ||
        read_number(json, "initializer_range", 0.02, &range, err) ||
        read_flag(json, "tie_word_embeddings", false, &cfg->tie_word_embeddings, err) ||
        read_flag(json, "attention_bias", false, &cfg->attention_bias, err) ||
        read_token(json, "bos_token_id", &cfg->bos_token_id, err) ||
        read_token(json, "eos_token_id", &cfg->eos_token_id, err))
        return -1;
    cfg->rms_norm_eps = (float)eps;
    cfg->initializer_range = (float)range;
    return config_check(cfg, err);
}

int config_load(ModelConfig *cfg, const char *directory, Error *err) {
    char path[1024];
    snprintf(path, sizeof path, "%s/config.json", directory);
    cJSON *json = json_load(path, err);
    if (!json) return -1;
    *cfg = (ModelConfig){0};
    int status = read_config(cfg, json, err);
    cJSON_Delete(json);
    return status ? error_prefix(err, "%s: ", path) : 0;
}

/* ---- writing ---- */

static void add_integer(cJSON *json, const char *key, int value) {
    cJSON_AddNumberToObject(json, key, value);
}

/* In as few digits as give the number back. cJSON would write 2.0 as 2, which readers with types
 * take for a whole number. */
static void add_float(cJSON *json, const char *key, double value) {
    char text[40];
    bool narrow =
        (double)(float)value == value; /* it was an F32: fewer digits tell it from others */
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        double back = strtod(text, NULL);
        if (back == value || (narrow && (float)back == (float)value)) break;
    }
    if (!strpbrk(text, ".en")) strcat(text, ".0");
    cJSON_AddRawToObject(json, key, text);
}

static void add_token(cJSON *json, const char *key, int id) {
    if (id >= 0)
        add_integer(json, key, id);
    else
        cJSON_AddNullToObject(json, key);
}

static void add_rope(cJSON *json, const ModelConfig *cfg) {
    static const char *const types[] = {
        [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_YARN] = "yarn"};
    cJSON *rope = cJSON_AddObjectToObject(json, "rope_parameters");
    cJSON_AddStringToObject(rope, "rope_type", types[cfg->rope_type]);
    add_float(rope, "rope_theta", cfg->rope_theta);
    if (cfg->rope_type == ROPE_DEFAULT) return;
    add_float(rope, "factor", cfg->rope_factor);
    if (cfg->rope_type == ROPE_LINEAR) return;
    add_integer(rope, "original_max_position_embeddings", cfg->original_max_position_embeddings);
    add_float(rope, "beta_fast", cfg->rope_beta_fast);
    add_float(rope, "beta_slow", cfg->rope_beta_slow);
    if (cfg->rope_mscale > 0) add_float(rope, "mscale", cfg->rope_mscale);
    if (cfg->rope_mscale_all_dim > 0) add_float(rope, "mscale_all_dim", cfg->rope_mscale_all_dim);
    if (cfg->rope_attention_factor > 0)
        add_float(rope, "attention_factor", cfg->rope_attention_factor);
}

static void add_experts(cJSON *json, const ModelConfig *cfg) {
    static const char *const methods[] = {[TOPK_GREEDY] = "greedy",
                                          [TOPK_GROUP_LIMITED_GREEDY] = "group_limited_greedy",
                                          [TOPK_NOAUX_TC] = "noaux_tc"};
    bool experts = cfg->n_routed_experts > 0;
    /* A dense model still needs keys that transformers can build its (unused) router from. */
    add_integer(json, "n_routed_experts", experts ? cfg->n_routed_experts : 1);
    add_integer(json, "moe_intermediate_size", experts ? cfg->moe_intermediate_size : 1);
    add_integer(json, "num_experts_per_tok", experts ? cfg->num_experts_per_tok : 1);
    add_integer(json, "n_shared_experts", experts ? cfg->n_shared_experts : 1);
    add_integer(json, "first_k_dense_replace",
                experts ? cfg->first_k_dense_replace : cfg->num_hidden_layers);
    add_integer(json, "n_group", experts ? cfg->n_group : 1);
    add_integer(json, "topk_group", experts ? cfg->topk_group : 1);
    cJSON_AddStringToObject(json, "scoring_func",
                            cfg->model_type == DEEPSEEK_V3 ? "sigmoid" : "softmax");
    cJSON_AddStringToObject(json, "topk_method", methods[cfg->topk_method]);
    cJSON_AddBoolToObject(json, "norm_topk_prob", cfg->norm_topk_prob);
    add_float(json, "routed_scaling_factor", experts ? cfg->routed_scaling_factor : 1);
    add_integer(json, "moe_layer_freq", 1);
}

int config_save(const ModelConfig *cfg, const char *directory, Error *err) {
    char path[1024];
    snprintf(path, sizeof path, "%s/config.json", directory);
    if (config_buildable(cfg, err)) return -1; /* its own keys would be missing */
    bool v3 = cfg->model_type == DEEPSEEK_V3;
    cJSON *json = cJSON_CreateObject();
    if (!json) fatal("out of memory");
    cJSON *architectures = cJSON_AddArrayToObject(json, "architectures");
    cJSON_AddItemToArray(
        architectures, cJSON_CreateString(v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"));
    cJSON_AddStringToObject(json, "model_type", MODEL_TYPES[cfg->model_type]);
    add_integer(json, "vocab_size", cfg->vocab_size);
    add_integer(json, "hidden_size", cfg->hidden_size);
    add_integer(json, "num_hidden_layers", cfg->num_hidden_layers);
    add_integer(json, "intermediate_size", cfg->intermediate_size);
    add_integer(json, "num_attention_heads", cfg->num_attention_heads);
    add_integer(json, "num_key_value_heads", cfg->num_attention_heads);
    if (cfg->q_lora_rank)
        add_integer(json, "q_lora_rank", cfg->q_lora_rank);
    else
        cJSON_AddNullToObject(json, "q_lora_rank");
    add_integer(json, "kv_lora_rank", cfg->kv_lora_rank);
    add_integer(json, "qk_nope_head_dim", cfg->qk_nope_head_dim);
    add_integer(json, "qk_rope_head_dim", cfg->qk_rope_head_dim);
    add_integer(json, "v_head_dim", cfg->v_head_dim);
    cJSON_AddBoolToObject(json, "attention_bias", cfg->attention_bias);
    add_float(json, "attention_dropout", 0);
    add_experts(json, cfg);
    add_integer(json, "max_position_embeddings", cfg->max_position_embeddings);
    add_rope(json, cfg);
    if (v3) cJSON_AddBoolToObject(json, "rope_interleave", cfg->rope_interleave);
    cJSON_AddStringToObject(json, "hidden_act", "silu");
    add_float(json, "rms_norm_eps", cfg->rms_norm_eps);
    add_float(json, "initializer_range", cfg->initializer_range);
    cJSON_AddBoolToObject(json, "tie_word_embeddings", cfg->tie_word_embeddings);
    add_token(json, "bos_token_id", cfg->bos_token_id);
    add_token(json, "eos_token_id", cfg->eos_token_id);
    if (v3) add_integer(json, "num_nextn_predict_layers", 0); /* else it is taken to be 1 */
    cJSON_AddStringToObject(json, "dtype", cfg->dtype == BF16 ? "bfloat16" : "float32");
    int status = json_save(path, json, err);
    cJSON_Delete(json);
    return status;
}
