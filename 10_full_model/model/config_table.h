/*
 * The keys of config.json as one table: a line for each, with its kind, its range, what it is when
 * a file does not have it, and when it says null, as transformers takes it, and the models that
 * have it.
 *
 * Reading, writing (config_json.c), checking (config_check), the comparison on resume and
 * `deepseek info --keys` go through the table, so a key is added by a field in ModelConfig and a
 * line here. A key may have two lines, for models that differ in it. What is odd about a single
 * key is a function in config_json.c.
 */
#ifndef CONFIG_TABLE_H
#define CONFIG_TABLE_H

#include "10_full_model/model/config.h"

/* All that a model type decides by itself. */
typedef struct ConfigType {
    const char *architecture; /* transformers' class */
    ScoringFunc scoring_func;
    bool divides; /* norm_topk_prob counts */
    bool halves;  /* rope_interleave counts */
} ConfigType;
extern const ConfigType config_types[]; /* in ModelType's order */

typedef enum ConfigKind {
    CONFIG_INT,
    CONFIG_INT_OR_NULL, /* 0 here is null in the file */
    CONFIG_FLOAT,
    CONFIG_BOOL,
    CONFIG_NAME,  /* an enum, by its names */
    CONFIG_TOKEN, /* a token id; -1: none */
} ConfigKind;

/* Which models have the key, beyond their type. Those of ROPE to YARN lie in rope_parameters, those
 * below in quantization_config. */
typedef enum ConfigPart {
    CONFIG_ALWAYS,
    CONFIG_EXPERTS, /* n_routed_experts > 0 */
    CONFIG_GROUPS,  /* and the router chooses groups first, of which V2 says nothing else */
    CONFIG_ROPE,
    CONFIG_SCALED, /* rope_type is not default */
    CONFIG_YARN,
    CONFIG_QUANTISED,
    CONFIG_FP8,
    CONFIG_PACKED, /* in its config_groups.group_0.weights */
} ConfigPart;

#define CONFIG_REQUIRED INFINITY /* `absent`: the file must have it; `null`: must not be null */

typedef struct ConfigKey {
    const char *key; /* Hugging Face's name */
    ConfigKind kind;
    ConfigPart part;
    unsigned models; /* bit 1 << ModelType */
    size_t offset, size;
    double low, high; /* inclusive; of a name, its numbers */
    double absent[3]; /* by ModelType: transformers' defaults */
    double null;
    const char *const *names;
    bool setting; /* changes what is computed: a resumed run must have the same */
    const char *about;
} ConfigKey;

/* Key i, from 0 on; NULL behind the last. */
const ConfigKey *config_key(int i);

/* Has this model the key? */
bool config_key_applies(const ConfigKey *key, const ModelConfig *cfg);

/* The value, whatever its kind. */
double config_key_get(const ConfigKey *key, const ModelConfig *cfg);
void config_key_set(const ConfigKey *key, ModelConfig *cfg, double value);

typedef struct ConfigText {
    char text[100];
} ConfigText;
ConfigText config_key_text(const ConfigKey *key, double value); /* "61", "1e-06", "yarn" */
ConfigText config_key_range(const ConfigKey *key);              /* "1 .. 1024", "greedy, ..." */

/* 0, or -1 and the first key that is out of its range. */
int config_check_ranges(const ModelConfig *cfg, Error *err);

#endif
