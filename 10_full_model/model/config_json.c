/*
 * config.json, read and written as transformers does.
 *
 * The keys are those of config_table.h, in its order; one that is missing has transformers' default
 * for its model type, and null is what transformers makes of it. Here is what is odd about single
 * keys, and the keys of which this program knows one value only: a file that asks for another
 * (another activation, experts in every second layer only) is refused by name. Where transformers
 * decides between two keys that say the same, so do we, with a line on stderr.
 */
#include "10_full_model/model/config_table.h"

#include "common/files/files.h"
#include "common/files/json.h"

#include <stdio.h>
#include <string.h>

/* A file's object and those within it (NULL: there is none): of the positions' keys, of quantised
 * weights, and of what compressed-tensors says of one weight. */
typedef struct Source {
    const cJSON *json, *rope, *quantisation, *weights;
    const char *path;  /* for notes */
    char missing[300]; /* sizes that the file does not have */
} Source;

static const cJSON *find(const cJSON *json, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(json, key);
}

/* The item, unless it is not there, or null. */
static const cJSON *find_value(const cJSON *json, const char *key) {
    const cJSON *item = find(json, key);
    return cJSON_IsNull(item) ? NULL : item;
}

/* ---- a key of the table ---- */

/* Other names of keys, in transformers' attribute_map. `first`: counts where both are there. */
static const struct {
    ModelType type;
    const char *key, *other;
    bool first;
} spellings[] = {
    {DEEPSEEK_V3, "n_routed_experts", "num_local_experts", true},
    {DEEPSEEK_V32, "n_routed_experts", "num_local_experts", true},
    {DEEPSEEK_V2, "n_routed_experts", "num_experts", true},
    {DEEPSEEK_V32, "n_routed_experts", "num_experts", true},
    {DEEPSEEK_V3, "num_nextn_predict_layers", "num_mtp_layers", false},
};
enum { SPELLINGS = sizeof spellings / sizeof spellings[0] };

/*
 * The old spelling has rope_theta beside rope_scaling, and calls rope_type `type`. A theta inside
 * comes before one outside; original_max_position_embeddings the other way round.
 */
static const cJSON *find_rope_key(const Source *from, const char *key) {
    const cJSON *inside = find(from->rope, key), *outside = NULL;
    if (!strcmp(key, "rope_type")) outside = find(from->rope, "type");
    if (!strcmp(key, "rope_theta")) outside = find(from->json, key);
    if (!strcmp(key, "original_max_position_embeddings") && find(from->json, key))
        return find(from->json, key);
    return inside ? inside : outside;
}

/* Without groups compressed-tensors says so by its strategy, or by a size of -1. */
static const cJSON *find_quantised_key(const Source *from, const ConfigKey *key) {
    const cJSON *item =
        find(key->part == CONFIG_PACKED ? from->weights : from->quantisation, key->key);
    const char *strategy = cJSON_GetStringValue(find(from->weights, "strategy"));
    bool row = (strategy && !strcmp(strategy, "channel")) ||
               (cJSON_IsNumber(item) && item->valuedouble == -1);
    return row && !strcmp(key->key, "group_size") ? NULL : item;
}

static const cJSON *find_key(const Source *from, const ConfigKey *key, ModelType type) {
    if (key->part >= CONFIG_QUANTISED) return find_quantised_key(from, key);
    if (key->part >= CONFIG_ROPE) return find_rope_key(from, key->key);
    const cJSON *item = find(from->json, key->key);
    for (int i = 0; i < SPELLINGS; i++) {
        if (spellings[i].type != type || strcmp(spellings[i].key, key->key)) continue;
        const cJSON *other = find(from->json, spellings[i].other);
        if (other && (!item || spellings[i].first)) item = other;
    }
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

/* What a file without the key means. A size that it should have is remembered for a note. */
static double absent_value(const ModelConfig *cfg, const ConfigKey *key, Source *from) {
    if (!strcmp(key->key, "original_max_position_embeddings")) return cfg->max_position_embeddings;
    if (key->part == CONFIG_EXPERTS && key->kind != CONFIG_NAME && all_dense(cfg)) return 1;
    bool size = key->kind == CONFIG_INT || key->kind == CONFIG_INT_OR_NULL;
    if (size && key->setting && key->part < CONFIG_ROPE) {
        size_t used = strlen(from->missing);
        snprintf(from->missing + used, sizeof from->missing - used, "%s%s %s", used ? ", " : "",
                 key->key, config_key_text(key, key->absent[cfg->model_type]).text);
    }
    return key->absent[cfg->model_type];
}

static int read_key(ModelConfig *cfg, const ConfigKey *key, Source *from, Error *err) {
    const cJSON *item = find_key(from, key, cfg->model_type);
    double value = 0;
    if (!item)
        value = absent_value(cfg, key, from);
    else if (cJSON_IsNull(item))
        value = key->null;
    else if (read_value(item, key, &value, err))
        return -1;
    if (value == CONFIG_REQUIRED)
        return error_set(err, "%s is %s", key->key,
                         item ? "null, which says nothing here" : "missing");
    if (item && value == 0 && !strcmp(key->key, "attention_factor") && !cJSON_IsNull(item))
        return error_set(err, "attention_factor is 0, which would make all rotated numbers 0");
    if (value == 0 && key->part == CONFIG_YARN) value = key->absent[cfg->model_type]; /* betas */
    config_key_set(key, cfg, value);
    return 0;
}

/* ---- what is odd ---- */

/* A key that is missing, null, or has the one value that is known, under one of two names. */
static int only(const cJSON *json, const char *key, const char *known, const char * or,
                Error *err) {
    const cJSON *item = find_value(json, key);
    if (!item) return 0;
    char *printed = cJSON_PrintUnformatted(item);
    if (!printed) fatal("out of memory");
    const char *text = cJSON_IsString(item) ? item->valuestring : printed;
    int status =
        strcmp(text, known) && strcmp(text, or)
            ? error_set(err, "%s is %s; only %s is known", key, name_text(text).text, known)
            : 0;
    cJSON_free(printed);
    return status;
}

/* Here null is no way to say nothing: transformers takes it for false, or stops. */
static int only_or_absent(const cJSON *json, const char *key, const char *known, Error *err) {
    if (cJSON_IsNull(find(json, key)))
        return error_set(err, "%s is null; only %s is known", key, known);
    return only(json, key, known, known, err);
}

static int check_known(const ModelConfig *cfg, const Source *from, Error *err) {
    const cJSON *json = from->json;
    if (only(json, "hidden_act", "silu", "swish", err) ||
        only(json, "mlp_bias", "false", "false", err))
        return -1;
    if (cfg->n_routed_experts) {
        const char *scoring = router_scoring_names[config_types[cfg->model_type].scoring_func];
        if (only(json, "scoring_func", scoring, scoring, err) ||
            only(json, "moe_layer_freq", "1", "1", err))
            return -1;
    }
    if (cfg->rope_type == ROPE_YARN && only_or_absent(from->rope, "truncate", "true", err))
        return -1;
    if (cfg->rope_type == ROPE_DEFAULT) return 0;
    return only_or_absent(from->rope, "partial_rotary_factor", "1", err) ||
                   only_or_absent(json, "partial_rotary_factor", "1", err)
               ? -1
               : 0;
}

static int check_heads(const ModelConfig *cfg, const cJSON *json, Error *err) {
    const cJSON *item = find_value(json, "num_key_value_heads");
    int64_t heads = cfg->num_attention_heads, dim;
    if (item && !json_integer(item, 1, 1 << 16, &heads))
        return error_set(err, "num_key_value_heads must be a whole number in 1 .. 65536");
    if (heads != cfg->num_attention_heads)
        return error_set(err,
                         "num_key_value_heads is %d and num_attention_heads %d: here each head has "
                         "a key of its own, so they must be equal",
                         (int)heads, cfg->num_attention_heads);
    /* transformers counts the frequencies by it, in V3's files only */
    item = cfg->model_type == DEEPSEEK_V3 ? find(json, "head_dim") : NULL;
    if (item && (!json_integer(item, 0, 1 << 17, &dim) || dim != cfg->qk_rope_head_dim))
        return error_set(err,
                         "head_dim is not qk_rope_head_dim, %d; it says how many numbers of a head "
                         "are rotated, so give it the same value or leave it out",
                         cfg->qk_rope_head_dim);
    return 0;
}

/* The old spelling is rope_scaling, the new one rope_parameters; where both say something, all of
 * the old one counts, and nothing of the new. */
static int find_rope(Source *from, Error *err) {
    const cJSON *old = find_value(from->json, "rope_scaling");
    const cJSON *new = find_value(from->json, "rope_parameters");
    if (old && !(cJSON_IsObject(old) && old->child == NULL)) {
        if (new)
            fprintf(stderr,
                    "%s: rope_scaling and rope_parameters are both there: rope_scaling counts, as "
                    "it does for transformers\n",
                    from->path);
        from->rope = old;
    } else {
        from->rope = new;
    }
    if (from->rope && !cJSON_IsObject(from->rope))
        return error_set(err, "%s is not an object", from->rope->string);
    return 0;
}

/* quantization_config, and of which method, for that decides about its keys. */
static int find_quantisation(ModelConfig *cfg, Source *from, Error *err) {
    const ConfigKey *key;
    from->quantisation = find_value(from->json, "quantization_config");
    if (!from->quantisation || (cJSON_IsObject(from->quantisation) && !from->quantisation->child))
        return 0; /* as an empty rope_scaling */
    if (!cJSON_IsObject(from->quantisation))
        return error_set(err, "quantization_config is not an object");
    for (int i = 0; (key = config_key(i)); i++)
        if (key->part == CONFIG_QUANTISED && read_key(cfg, key, from, err)) return -1;
    const cJSON *groups = find(from->quantisation, "config_groups"), *group;
    if (cfg->quant_method != STORED_PACKED) return 0;
    cJSON_ArrayForEach(group, groups) {
        const cJSON *weights = find(group, "weights");
        if (!cJSON_IsObject(weights))
            return error_set(err, "config_groups: %s does not say how weights are quantised",
                             name_text(group->string ? group->string : "a group").text);
        if (from->weights && !cJSON_Compare(from->weights, weights, true))
            return error_set(err, "config_groups: weights are not all quantised in the same way, "
                                  "which is not known here");
        from->weights = weights;
    }
    return from->weights ? 0 : error_set(err, "config_groups is missing, or empty");
}

/* What has one meaning only here. An empty object says nothing. */
static int check_fp8(const cJSON *quantisation, Error *err) {
    return only(quantisation, "fmt", "e4m3", "float8_e4m3fn", err) ||
                   only(quantisation, "activation_scheme", "dynamic", "dynamic", err) ||
                   only_or_absent(quantisation, "weight_block_size", "[128,128]", err)
               ? -1
               : 0;
}

static int check_packed(const ModelConfig *cfg, const Source *from, Error *err) {
    const cJSON *weights = from->weights, *group;
    static const char *const nothing[] = {"kv_cache_scheme", "sparsity_config", "transform_config"};
    for (int i = 0; i < 3; i++)
        if (only(from->quantisation, nothing[i], "{}", "null", err)) return -1;
    cJSON_ArrayForEach(group, find(from->quantisation, "config_groups")) {
        if (only(group, "input_activations", "null", "null", err) ||
            only(group, "output_activations", "null", "null", err) ||
            only(group, "format", "pack-quantized", "pack-quantized", err))
            return -1;
    }
    if (only_or_absent(from->quantisation, "format", "pack-quantized", err) ||
        only(from->quantisation, "quantization_status", "compressed", "compressed", err) ||
        only(weights, "type", "int", "int", err) ||
        only(weights, "symmetric", "true", "true", err) ||
        only(weights, "dynamic", "false", "false", err) ||
        only(weights, "actorder", "static", "weight", err) ||
        only(weights, "strategy", cfg->group_size ? "group" : "channel", "", err))
        return -1;
    if (cfg->num_bits != 4 && cfg->num_bits != 8)
        return error_set(err, "num_bits is %d; only 4 and 8 are known", cfg->num_bits);
    return 0;
}

static int check_quantisation(const ModelConfig *cfg, const Source *from, Error *err) {
    int status = cfg->quant_method == STORED_FP8      ? check_fp8(from->quantisation, err)
                 : cfg->quant_method == STORED_PACKED ? check_packed(cfg, from, err)
                                                      : 0;
    return status ? error_prefix(err, "quantization_config: ") : 0;
}

/* YaRN's factor as null: how much longer the context is than it was. */
static int derive_factor(ModelConfig *cfg, const Source *from, Error *err) {
    if (cfg->rope_type == ROPE_DEFAULT || !cJSON_IsNull(find(from->rope, "factor"))) return 0;
    if (cfg->rope_type != ROPE_YARN || cfg->rope_mscale_all_dim != 0)
        return error_set(err, "factor is null; with rope_type %s it must be a number",
                         cfg->rope_type == ROPE_YARN ? "yarn and mscale_all_dim" : "linear");
    cfg->rope_factor = (double)cfg->max_position_embeddings / cfg->original_max_position_embeddings;
    return 0;
}

static int read_config(ModelConfig *cfg, Source *from, Error *err) {
    const ConfigKey *key;
    /* What a model without the key has. */
    *cfg = (ModelConfig){.n_group = 1, .topk_group = 1, .rope_factor = 1, .rope_interleave = true};
    if (find_rope(from, err) || read_key(cfg, config_key(0), from, err) || /* the type */
        find_quantisation(cfg, from, err))
        return -1;
    for (int i = 1; (key = config_key(i)); i++)
        if (config_key_applies(key, cfg) && read_key(cfg, key, from, err)) return -1;
    if (derive_factor(cfg, from, err) || check_known(cfg, from, err) ||
        check_heads(cfg, from->json, err) || check_quantisation(cfg, from, err))
        return -1;
    return config_check(cfg, err);
}

/* The file, of keys that stand there twice the last, as Python reads it. */
static cJSON *load_json(const char *path, Error *err) {
    cJSON *json = json_load(path, err);
    if (!json) return NULL;
    NameText twice;
    if (json_keep_last(json, &twice))
        fprintf(stderr, "%s: %s stands there twice: the last one counts, as it does in Python\n",
                path, twice.text);
    return json;
}

/* What with_experts() writes is read as the dense model that it was, whose modules for multi-token
 * prediction, behind the last layer, have no experts either. */
static void without_experts(ModelConfig *cfg) {
    if (all_dense(cfg) && cfg->n_routed_experts == 1 && cfg->moe_intermediate_size == 1)
        cfg->n_routed_experts = 0;
}

int config_load(ModelConfig *cfg, const char *directory, Error *err) {
    PathText path = file_path(directory, "config.json");
    Source from = {.json = load_json(path.text, err), .path = path.text};
    if (!from.json) return -1;
    int status = read_config(cfg, &from, err);
    cJSON_Delete((cJSON *)from.json);
    if (status) return error_prefix(err, "%s: ", path.text);
    without_experts(cfg);
    if (*from.missing)
        fprintf(stderr, "%s does not say; transformers' defaults for %s: %s\n", path.text,
                config_type_names[cfg->model_type], from.missing);
    return 0;
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

/* A dense model still needs keys that transformers can build its (unused) router from: an expert
 * of one number. */
static ModelConfig with_experts(ModelConfig cfg) {
    if (cfg.n_routed_experts) return cfg;
    cfg.n_routed_experts = cfg.moe_intermediate_size = cfg.num_experts_per_tok = 1;
    cfg.n_shared_experts = cfg.n_group = cfg.topk_group = 1;
    cfg.topk_method = cfg.model_type == DEEPSEEK_V2 ? TOPK_GREEDY : TOPK_NOAUX_TC;
    cfg.routed_scaling_factor = 1;
    cfg.first_k_dense_replace = cfg.num_hidden_layers;
    return cfg;
}

/* An object within `json`, until the program ends for want of memory. */
static cJSON *add_object(cJSON *json, const char *key) {
    cJSON *object = cJSON_AddObjectToObject(json, key);
    if (!object) fatal("out of memory");
    return object;
}

/*
 * What transformers wants to know beside the keys of the table. `dequantize` makes it read packed
 * weights as plain ones, without which it has no way to run experts on a CPU.
 */
static void write_quantisation(cJSON *json, const ModelConfig *cfg, const char *const *high) {
    bool fp8 = cfg->quant_method == STORED_FP8;
    cJSON *object = add_object(json, "quantization_config"), *weights = NULL;
    if (fp8) {
        cJSON_AddStringToObject(object, "activation_scheme", "dynamic");
        cJSON_AddStringToObject(object, "fmt", "e4m3");
        cJSON_AddRawToObject(object, "weight_block_size", "[128, 128]");
    } else {
        cJSON *group = add_object(add_object(object, "config_groups"), "group_0");
        cJSON_AddRawToObject(group, "targets", "[\"Linear\"]");
        weights = add_object(group, "weights");
        cJSON_AddStringToObject(weights, "type", "int");
        cJSON_AddBoolToObject(weights, "symmetric", true);
        cJSON_AddStringToObject(weights, "strategy", cfg->group_size ? "group" : "channel");
        cJSON_AddStringToObject(object, "format", "pack-quantized");
        cJSON_AddStringToObject(object, "quantization_status", "compressed");
        cJSON_AddBoolToObject(object, "dequantize", true);
    }
    const ConfigKey *key;
    for (int i = 0; (key = config_key(i)); i++) {
        if (key->part < CONFIG_QUANTISED || !config_key_applies(key, cfg)) continue;
        if (key->part == CONFIG_FP8 && config_key_get(key, cfg) == SCALE_FLOAT) continue;
        write_key(key->part == CONFIG_PACKED ? weights : object, key, cfg);
    }
    if (!high || !*high) return;
    cJSON *names = cJSON_AddArrayToObject(object, fp8 ? "modules_to_not_convert" : "ignore");
    for (; *high; high++) cJSON_AddItemToArray(names, cJSON_CreateString(*high));
}

int config_save(const ModelConfig *config, const char *const *high, const char *directory,
                Error *err) {
    ModelConfig cfg = with_experts(*config);
    cJSON *json = cJSON_CreateObject(), *rope = cJSON_CreateObject();
    if (!json || !rope) fatal("out of memory");
    cJSON_AddItemToArray(cJSON_AddArrayToObject(json, "architectures"),
                         cJSON_CreateString(config_types[cfg.model_type].architecture));
    const ConfigKey *key;
    for (int i = 0; (key = config_key(i)); i++) {
        if (!config_key_applies(key, &cfg) || key->part >= CONFIG_QUANTISED) continue;
        /* 0 says "not given" of YaRN's numbers */
        bool unsaid = config_key_get(key, &cfg) == 0 && key->low == 0;
        if (unsaid && key->part >= CONFIG_SCALED) continue;
        write_key(key->part < CONFIG_ROPE ? json : rope, key, &cfg);
    }
    cJSON_AddItemToObject(json, "rope_parameters", rope);
    cJSON_AddNumberToObject(json, "num_key_value_heads", cfg.num_attention_heads);
    cJSON_AddStringToObject(json, "scoring_func",
                            router_scoring_names[config_types[cfg.model_type].scoring_func]);
    cJSON_AddNumberToObject(json, "moe_layer_freq", 1);
    cJSON_AddStringToObject(json, "hidden_act", "silu");
    cJSON_AddRawToObject(json, "attention_dropout", "0.0");
    cJSON_AddStringToObject(json, "dtype", cfg.dtype == BF16 ? "bfloat16" : "float32");
    if (cfg.quant_method != STORED_PLAIN) write_quantisation(json, &cfg, high);
    int status = json_save(file_path(directory, "config.json").text, json, err);
    cJSON_Delete(json);
    return status;
}
