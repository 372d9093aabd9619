/*
 * config.json: written, read back, and everything that can be wrong with it.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/model/config_table.h"
#include "10_full_model/tests/test_world.h"
#include "10_full_model/train/training_state.h"
#include "common/files/files.h"

#include <stdio.h>

Test(config, what_is_written_is_read) {
    ModelConfig cfg, back;
    cr_assert(config_preset(&cfg, "nano", &err) == 0);
    cfg.vocab_size = 1234;
    Scratch scratch = scratch_open();
    const char *folder = scratch.directory;
    check_ok(make_directories(folder, &err) || config_save(&cfg, NULL, folder, &err), &err);
    check_ok(config_load(&back, folder, &err), &err);
    check_all(back.vocab_size == 1234, back.v_head_dim == cfg.v_head_dim,
              back.rms_norm_eps == cfg.rms_norm_eps,
              back.initializer_range == cfg.initializer_range, back.tie_word_embeddings);
}

Test(config, unknown_presets_list_the_known_ones) {
    ModelConfig cfg;
    cr_assert(config_preset(&cfg, "giant", &err) == -1);
    cr_assert(strstr(err.text, "giant") && strstr(err.text, "nano"), "%s", err.text);
}

static const struct {
    const char *from, *to; /* replaced in a good file */
    const char *message;   /* part of what must be said */
} broken[] = {
    {"deepseek_v3", "llama", "llama"},
    {"\"model_type\"", "\"type\"", "model_type is missing"},
    {"\"hidden_size\":", "\"hidden_size\": null, \"x\":", "hidden_size is null"},
    {"\"hidden_size\":", "\"hidden_size\": 3.5, \"x\":", "hidden_size must be a whole number"},
    {"\"hidden_size\":", "\"hidden_size\": -4, \"x\":", "hidden_size must be"},
    {"\"hidden_size\":", "\"hidden_size\": 1e300, \"x\":", "hidden_size must be"},
    {"\"hidden_size\":", "\"hidden_size\": \"big\", \"x\":", "hidden_size must be"},
    {"\"num_key_value_heads\":", "\"num_key_value_heads\": 3, \"x\":", "num_key_value_heads"},
    {"\"rms_norm_eps\":", "\"rms_norm_eps\": null, \"x\":", "rms_norm_eps is null"},
    {"\"rms_norm_eps\":", "\"rms_norm_eps\": -1, \"x\":", "rms_norm_eps"},
    {"\"tie_word_embeddings\":", "\"tie_word_embeddings\": 1, \"x\":", "tie_word_embeddings"},
    {"\"hidden_act\":", "\"hidden_act\": \"gelu\", \"x\":", "hidden_act is gelu"},
    {"\"q_lora_rank\":", "\"q_lora\":", "q_lora_rank (1536)"},
    {"\"q_lora_rank\":", "\"q_lora_rank\": 0, \"x\":", "q_lora_rank must be"},
    {"\"scoring_func\":", "\"scoring_func\": \"softmax\", \"x\":", "scoring_func is softmax"},
    {"\"topk_method\":", "\"topk_method\": \"best\", \"x\":", "best"},
    {"\"moe_layer_freq\":", "\"moe_layer_freq\": 2, \"x\":", "moe_layer_freq is 2"},
    {"\"num_experts_per_tok\":", "\"num_experts_per_tok\": null, \"x\":", "num_experts_per_tok is"},
    {"\"n_group\":", "\"n_group\": 3, \"x\":", "n_group (3) does not divide"},
    {"\"num_experts_per_tok\":", "\"num_experts_per_tok\": 9, \"x\":", "num_experts_per_tok"},
    {"\"rope_type\":", "\"rope_type\": \"longrope\", \"x\":", "rope_type is longrope"},
    {"\"rope_type\":", "\"rope_type\": \"yarn\", \"x\":", "factor is missing"},
    {"\"rope_type\":",
     "\"factor\": 4, \"original_max_position_embeddings\": null, \"rope_type\": \"yarn\", \"x\":",
     "original_max_position_embeddings is null"},
    {"\"rope_type\":", "\"factor\": 4, \"truncate\": false, \"rope_type\": \"yarn\", \"x\":",
     "truncate is false"},
    {"\"rope_parameters\":", "\"rope_parameters\": [], \"x\":", "rope_parameters is not an object"},
    {"deepseek_v3\"", "deepseek_v32\"", "q_lora_rank is null"},
    {"\"deepseek_v3\"", "3", "model_type is not a string"},
    {"\"eos_token_id\":", "\"eos_token_id\": 300, \"x\":", "eos_token_id is 300"},
    {"\"eos_token_id\":", "\"eos_token_id\": [\"a\"], \"x\":", "eos_token_id is not a token id"},
    {"\"model_type\"", "\"mlp_bias\": true, \"model_type\"", "mlp_bias is true"},
    {"}", "", "config.json"},
    {"{", "[", "config.json"},
};

Test(config, broken_files_are_named) {
    ModelConfig cfg;
    cr_assert(config_preset(&cfg, "nano", &err) == 0);
    cfg.vocab_size = 300;
    Scratch scratch = scratch_open();
    const char *folder = scratch.directory;
    char text[8192];
    cr_assert(config_load(&cfg, "/proc/none", &err) == -1 &&
                  strstr(err.text, "/proc/none/config.json"),
              "%s", err.text);
    const char *path = path_in(folder, "config.json");
    check_ok(make_directories(folder, &err) || config_save(&cfg, NULL, folder, &err), &err);
    size_t size;
    const char *good = file_text(path, &size);
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        char *at = strstr(good, broken[i].from);
        cr_assert(at, "case %zu: '%s' is not in the file", i, broken[i].from);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, broken[i].to,
                 at + strlen(broken[i].from));
        scratch_write(&scratch, "config.json", text, strlen(text));
        ModelConfig back;
        cr_assert(config_load(&back, folder, &err) == -1, "case %zu was accepted", i);
        cr_assert(strstr(err.text, broken[i].message) && strstr(err.text, "config.json"),
                  "case %zu: %s", i, err.text);
    }
}

/* The files that DeepSeek published, but for keys that say nothing about the model: the old
 * spelling, FP8's settings, eos as a number, keys of other programs. */
#define PUBLISHED_ROPE                                                                      \
    "\"rope_theta\": 10000, \"max_position_embeddings\": 163840, \"rms_norm_eps\": 1e-06, " \
    "\"hidden_act\": \"silu\", \"attention_bias\": false, \"initializer_range\": 0.02, "    \
    "\"tie_word_embeddings\": false, \"ep_size\": 1, \"moe_layer_freq\": 1, "               \
    "\"torch_dtype\": \"bfloat16\", \"use_cache\": true, \"kv_lora_rank\": 512, "           \
    "\"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, \"v_head_dim\": 128, "
#define PUBLISHED_V3                                                                           \
    PUBLISHED_ROPE                                                                             \
    "\"rope_scaling\": {\"beta_fast\": 32, \"beta_slow\": 1, \"factor\": 40, "                 \
    "\"mscale\": 1.0, \"mscale_all_dim\": 1.0, \"original_max_position_embeddings\": 4096, "   \
    "\"type\": \"yarn\"}, \"bos_token_id\": 0, \"eos_token_id\": 1, "                          \
    "\"first_k_dense_replace\": 3, \"hidden_size\": 7168, \"intermediate_size\": 18432, "      \
    "\"moe_intermediate_size\": 2048, \"n_group\": 8, \"n_routed_experts\": 256, "             \
    "\"n_shared_experts\": 1, \"norm_topk_prob\": true, \"num_attention_heads\": 128, "        \
    "\"num_experts_per_tok\": 8, \"num_hidden_layers\": 61, \"num_key_value_heads\": 128, "    \
    "\"num_nextn_predict_layers\": 1, \"q_lora_rank\": 1536, \"routed_scaling_factor\": 2.5, " \
    "\"quantization_config\": {\"quant_method\": \"fp8\"}, \"scoring_func\": \"sigmoid\", "    \
    "\"topk_group\": 4, \"topk_method\": \"noaux_tc\", \"vocab_size\": 129280}"

Test(config, published_files_are_the_presets) {
    static const struct {
        const char *preset, *json;
    } files[] = {
        {"v3", "{\"model_type\": \"deepseek_v3\", " PUBLISHED_V3},
        {"v3.2", "{\"model_type\": \"deepseek_v32\", \"index_head_dim\": 128, "
                 "\"index_n_heads\": 64, \"index_topk\": 2048, " PUBLISHED_V3},
        {"v2-lite",
         "{\"model_type\": \"deepseek_v2\", " PUBLISHED_ROPE
         "\"rope_scaling\": {\"beta_fast\": 32, \"beta_slow\": 1, \"factor\": 40, "
         "\"mscale\": 0.707, \"mscale_all_dim\": 0.707, "
         "\"original_max_position_embeddings\": 4096, \"type\": \"yarn\"}, "
         "\"bos_token_id\": 100000, \"eos_token_id\": 100001, \"first_k_dense_replace\": 1, "
         "\"hidden_size\": 2048, \"intermediate_size\": 10944, \"moe_intermediate_size\": 1408, "
         "\"n_group\": 1, \"n_routed_experts\": 64, \"n_shared_experts\": 2, "
         "\"norm_topk_prob\": false, \"num_attention_heads\": 16, \"num_experts_per_tok\": 6, "
         "\"num_hidden_layers\": 27, \"num_key_value_heads\": 16, \"q_lora_rank\": null, "
         "\"routed_scaling_factor\": 1.0, \"scoring_func\": \"softmax\", \"seq_aux\": true, "
         "\"aux_loss_alpha\": 0.001, \"topk_group\": 1, \"topk_method\": \"greedy\", "
         "\"vocab_size\": 102400}"},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        Scratch scratch = scratch_open();
        ModelConfig preset, read;
        Error err = {0};
        scratch_write(&scratch, "config.json", files[i].json, strlen(files[i].json));
        check_ok(config_preset(&preset, files[i].preset, &err), &err);
        check_ok(config_load(&read, scratch.directory, &err), &err);
        RopeConfig a = config_rope(&preset), b = config_rope(&read);
        cr_assert(config_parameters(&read) == config_parameters(&preset) &&
                      config_active_parameters(&read) == config_active_parameters(&preset),
                  "%s", files[i].preset);
        check_all(rope_softmax_factor(&a) == rope_softmax_factor(&b),
                  rope_attention_factor(&a) == rope_attention_factor(&b), a.factor == b.factor,
                  a.original_max_position_embeddings == b.original_max_position_embeddings);
        check_all(read.n_group == preset.n_group, read.topk_method == preset.topk_method,
                  read.routed_scaling_factor == preset.routed_scaling_factor,
                  read.norm_topk_prob == preset.norm_topk_prob,
                  read.eos_token_id == preset.eos_token_id, read.index_topk == preset.index_topk);
    }
}

/* ---- the table: a new key is covered by its line ---- */

/* No key has the value that it has without being given, so that one which is not written, or not
 * read, shows. */
static ModelConfig all_keys(ModelType type) {
    ModelConfig cfg = tiny_config(300);
    cfg.model_type = type;
    cfg.attention_bias = cfg.tie_word_embeddings = true;
    cfg.index_n_heads = 3, cfg.index_head_dim = 8, cfg.index_topk = 5;
    cfg.n_group = 3, cfg.topk_group = 2, cfg.n_shared_experts = 3;
    cfg.topk_method = type == DEEPSEEK_V2 ? TOPK_GROUP_LIMITED_GREEDY : TOPK_NOAUX_TC;
    cfg.norm_topk_prob = type == DEEPSEEK_V2;
    cfg.rope_type = ROPE_YARN, cfg.rope_factor = 4, cfg.original_max_position_embeddings = 16;
    cfg.rope_beta_fast = 20, cfg.rope_beta_slow = 2.5, cfg.rope_attention_factor = 1.25;
    cfg.rope_mscale = 0.707, cfg.rope_mscale_all_dim = 0.6;
    cfg.rope_interleave = type == DEEPSEEK_V2; /* which has no such key */
    cfg.bos_token_id = 3, cfg.eos_token_id = 4, cfg.num_nextn_predict_layers = 3;
    cfg.trained_context_length = 7;
    return cfg;
}

enum { TYPES = 3 };

Test(config_table, every_key_is_written_and_read) {
    Scratch scratch = scratch_open();
    const ConfigKey *key;
    for (int type = 0; type < TYPES; type++) {
        ModelConfig cfg = all_keys((ModelType)type), back;
        check_ok(config_save(&cfg, NULL, scratch.directory, &err) ||
                     config_load(&back, scratch.directory, &err),
                 &err);
        for (int i = 0; (key = config_key(i)); i++) {
            if (!config_key_applies(key, &cfg)) continue;
            double value = config_key_get(key, &cfg);
            cr_expect(key->low == key->high || value != key->absent[type],
                      "all_keys: give %s a value", key->key);
            cr_expect(config_key_get(key, &back) == value, "%s: %g was read as %g", key->key, value,
                      config_key_get(key, &back));
        }
    }
}

/* In memory and in a file. What is wrong about a type, no range can say. */
Test(config_table, every_key_has_its_range) {
    Scratch scratch = scratch_open();
    const ConfigKey *key;
    for (int type = 0; type < TYPES; type++)
        for (int i = 1; (key = config_key(i)); i++)
            for (int side = 0; side < 2; side++) {
                ModelConfig cfg = all_keys((ModelType)type), back;
                if (!config_key_applies(key, &cfg) || key->kind == CONFIG_BOOL) continue;
                bool may_be_none = key->kind == CONFIG_TOKEN || key->kind == CONFIG_INT_OR_NULL;
                if (may_be_none && side == 0) continue; /* -1, or 0, is none */
                double step = key->kind == CONFIG_FLOAT ? 1e31 : 1;
                config_key_set(key, &cfg, side ? key->high + step : key->low - step);
                cr_expect(config_check(&cfg, &err) == -1 && strstr(err.text, key->key), "%s: %s",
                          key->key, err.text);
                if (key->kind == CONFIG_NAME) continue; /* it would have no name */
                check_ok(config_save(&cfg, NULL, scratch.directory, &err), &err);
                cr_expect(config_load(&back, scratch.directory, &err) == -1 &&
                              strstr(err.text, key->key),
                          "%s: %s", key->key, err.text);
            }
}

/* A run that is resumed with another value of any key that matters is refused by its name. */
Test(config_table, every_setting_is_compared) {
    const ConfigKey *key;
    for (int type = 0; type < TYPES; type++) {
        ModelConfig cfg = all_keys((ModelType)type);
        Settings settings = {0};
        settings_of_model(&settings, &cfg);
        for (int i = 1; (key = config_key(i)); i++) {
            if (!config_key_applies(key, &cfg) || key->low == key->high) continue;
            double value = config_key_get(key, &cfg);
            ModelConfig other = cfg;
            config_key_set(key, &other,
                           key->kind == CONFIG_BOOL    ? !value
                           : key->kind == CONFIG_NAME  ? key->low
                           : key->kind == CONFIG_FLOAT ? value * 1.0001
                                                       : value + 1);
            Settings changed = {0};
            settings_of_model(&changed, &other);
            bool seen = false;
            for (int j = 0; j < settings.count && j < changed.count; j++)
                seen |= !strcmp(settings.list[j].name, key->key) &&
                        strcmp(settings.list[j].value, changed.list[j].value);
            cr_expect(seen == key->setting, "%s: a change is %s", key->key,
                      seen ? "compared" : "not seen");
        }
    }
}

/* A V2 model's file has no such key, so it must have no such modules. */
Test(config, modules_are_v3s) {
    ModelConfig cfg = all_keys(DEEPSEEK_V2);
    cfg.num_nextn_predict_layers = 0;
    check_ok(config_check(&cfg, &err), &err);
    cfg.num_nextn_predict_layers = 1;
    cr_assert(config_check(&cfg, &err) == -1);
    cr_assert(strstr(err.text, "num_nextn_predict_layers"), "%s", err.text);
}

/* Their values as they stand in the text, the last of two; what has a new spelling goes. */
Test(config, keys_that_are_not_known_travel_on) {
    static const char theirs[] =
        "\xEF\xBB\xBF"
        "{ \"aux_loss_alpha\":1.0, \"big\": 12345678901234567890,\n\"model_type\" : \"x\", "
        "\"rope_scaling\": {\"type\": \"yarn\", \"of_tomorrow\": 2.50, \"factor\": 9}, "
        "\"rope_theta\": 7, \"rope_parameters\": {\"not_this\": 1}, \"torch_dtype\": \"float16\", "
        "\"twice\": [1, {\"a\": \"}\"}], \"q\\u0075ote\\\"d\": null, \"twice\": [2.0 , \"\\\"]\"],"
        "\"quantization_config\": {}, \"num_experts\": 4, \"auto_map\": {\"A\": \"b.C\"} }";
    Scratch from = scratch_open(), to = scratch_open();
    ModelConfig cfg = all_keys(DEEPSEEK_V3), back;
    scratch_write(&from, "config.json", theirs, sizeof theirs - 1);
    check_ok(config_save(&cfg, NULL, to.directory, &err) ||
                 config_keep_others(from.directory, to.directory, &err) ||
                 config_load(&back, to.directory, &err),
             &err);
    const ConfigKey *key;
    for (int i = 0; (key = config_key(i)); i++)
        cr_expect(!config_key_applies(key, &cfg) ||
                      config_key_get(key, &cfg) == config_key_get(key, &back),
                  "%s", key->key);
    size_t size;
    const char *text = file_text(path_in(to.directory, "config.json"), &size);
    static const char *const kept[] = {
        "\"aux_loss_alpha\":\t1.0,",     "\"big\":\t12345678901234567890,",
        "\"of_tomorrow\":\t2.50}",       "\"quote\\\"d\":\tnull",
        "\"twice\":\t[2.0 , \"\\\"]\"]", "\"auto_map\":\t{\"A\": \"b.C\"}"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        cr_expect(strstr(text, kept[i]), "%s in %s", kept[i], text);
    static const char *const gone[] = {
        "rope_scaling", "rope_theta\":\t7", "not_this", "torch_dtype",
        "quantization", "num_experts\"",    "\"x\"",    "[1, {"};
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++)
        cr_expect(!strstr(text, gone[i]), "%s in %s", gone[i], text);
}
