#include "config.h"

#include "../common/json.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* This program's own name for "RMSNorm, multi-head attention without positions, SwiGLU". */
static const char *const MODEL_TYPE = "deepseek_c_multihead";

static const struct {
    const char *name;
    ModelConfig cfg;
} presets[] = {
    {"nano", /* trains in two minutes on two cores */
     {.hidden_size = 128,
      .intermediate_size = 384,
      .num_hidden_layers = 4,
      .num_attention_heads = 4,
      .num_key_value_heads = 4,
      .head_dim = 32,
      .max_position_embeddings = 256,
      .rms_norm_eps = 1e-6f,
      .initializer_range = 0.07f,
      .tie_word_embeddings = true}},
    {"small", /* an hour on a laptop, seconds on a large GPU */
     {.hidden_size = 512,
      .intermediate_size = 1408,
      .num_hidden_layers = 8,
      .num_attention_heads = 8,
      .num_key_value_heads = 8,
      .head_dim = 64,
      .max_position_embeddings = 1024,
      .rms_norm_eps = 1e-6f,
      .initializer_range = 0.02f,
      .tie_word_embeddings = true}},
};
enum { PRESETS = sizeof presets / sizeof presets[0] };

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

MultiheadConfig config_attention(const ModelConfig *cfg) {
    return (MultiheadConfig){.hidden_size = cfg->hidden_size,
                             .num_attention_heads = cfg->num_attention_heads,
                             .num_key_value_heads = cfg->num_key_value_heads,
                             .head_dim = cfg->head_dim};
}

/* The whole numbers of config.json: where each is, and its largest sensible value. */
#define INTEGER(field, largest) \
    { #field, offsetof(ModelConfig, field), largest }
static const struct {
    const char *name;
    size_t offset;
    int largest;
} integers[] = {
    INTEGER(vocab_size, 1 << 24),
    INTEGER(hidden_size, 1 << 17),
    INTEGER(intermediate_size, 1 << 20),
    INTEGER(num_hidden_layers, 1024),
    INTEGER(num_attention_heads, 4096),
    INTEGER(num_key_value_heads, 4096),
    INTEGER(head_dim, 1024),
    INTEGER(max_position_embeddings, 1 << 20),
};
enum { INTEGERS = sizeof integers / sizeof integers[0] };

static int *integer_at(ModelConfig *cfg, int i) {
    return (int *)((char *)cfg + integers[i].offset);
}

int config_check(const ModelConfig *cfg, Error *err) {
    for (int i = 0; i < INTEGERS; i++) {
        int value = *integer_at((ModelConfig *)cfg, i);
        if (value < 1 || value > integers[i].largest)
            return error_set(err, "%s is %d, but must be between 1 and %d", integers[i].name, value,
                             integers[i].largest);
    }
    if (!(cfg->rms_norm_eps >= 0 && cfg->rms_norm_eps < 1))
        return error_set(err, "rms_norm_eps is %g, but must be in [0, 1)", cfg->rms_norm_eps);
    if (!(cfg->initializer_range > 0 && cfg->initializer_range < 10))
        return error_set(err, "initializer_range is %g, but must be in (0, 10)",
                         cfg->initializer_range);
    MultiheadConfig attention = config_attention(cfg);
    return multihead_check(&attention, err);
}

static int read_number(const cJSON *json, const char *key, float *value, Error *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!cJSON_IsNumber(item))
        return error_set(err, "%s is %s", key, item ? "not a number" : "missing");
    *value = (float)item->valuedouble;
    return 0;
}

static int read_config(ModelConfig *cfg, const cJSON *json, Error *err) {
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "model_type"));
    if (!type || strcmp(type, MODEL_TYPE))
        return error_set(err, "model_type is %s; this program knows: %s",
                         type ? name_text(type).text : "missing", MODEL_TYPE);
    for (int i = 0; i < INTEGERS; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, integers[i].name);
        int64_t value;
        if (!item) return error_set(err, "%s is missing", integers[i].name);
        if (!json_integer(item, 1, integers[i].largest, &value))
            return error_set(err, "%s must be a whole number between 1 and %d", integers[i].name,
                             integers[i].largest);
        *integer_at(cfg, i) = (int)value;
    }
    if (read_number(json, "rms_norm_eps", &cfg->rms_norm_eps, err)) return -1;
    if (read_number(json, "initializer_range", &cfg->initializer_range, err)) return -1;
    const cJSON *tied = cJSON_GetObjectItemCaseSensitive(json, "tie_word_embeddings");
    if (!cJSON_IsBool(tied))
        return error_set(err, "tie_word_embeddings is %s", tied ? "not true or false" : "missing");
    cfg->tie_word_embeddings = cJSON_IsTrue(tied);
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

int config_save(const ModelConfig *cfg, const char *directory, Error *err) {
    char path[1024];
    snprintf(path, sizeof path, "%s/config.json", directory);
    cJSON *json = cJSON_CreateObject();
    if (!json) fatal("out of memory");
    cJSON_AddStringToObject(json, "model_type", MODEL_TYPE);
    for (int i = 0; i < INTEGERS; i++)
        cJSON_AddNumberToObject(json, integers[i].name, *integer_at((ModelConfig *)cfg, i));
    cJSON_AddNumberToObject(json, "rms_norm_eps", cfg->rms_norm_eps);
    cJSON_AddNumberToObject(json, "initializer_range", cfg->initializer_range);
    cJSON_AddBoolToObject(json, "tie_word_embeddings", cfg->tie_word_embeddings);
    int status = json_save(path, json, err);
    cJSON_Delete(json);
    return status;
}

int64_t config_parameters(const ModelConfig *cfg) {
    int64_t d = cfg->hidden_size, heads = cfg->num_attention_heads, kv = cfg->num_key_value_heads;
    int64_t attention = d * cfg->head_dim * (2 * heads + 2 * kv);
    int64_t layer = attention + 3 * d * cfg->intermediate_size + 2 * d;
    int64_t table = (int64_t)cfg->vocab_size * d;
    return cfg->num_hidden_layers * layer + d + table * (cfg->tie_word_embeddings ? 1 : 2);
}
