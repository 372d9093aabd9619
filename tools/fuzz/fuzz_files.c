/*
 * Targets that get the files of models and runs.
 */
#include "tools/fuzz/fuzz.h"

#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/data/shards.h"
#include "10_full_model/data/token_source.h"
#include "10_full_model/model/config_table.h"
#include "10_full_model/train/training_state.h"
#include "common/core/memory.h"
#include "common/files/csv.h"
#include "common/files/files.h"
#include "common/files/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- safetensors ---- */

/* Every tensor is aligned, and every byte of it can be read. */
static void read_all(const SafeTensors *file) {
    static volatile unsigned char sum;
    for (int i = 0; i < safetensors_count(file); i++) {
        const Tensor *t = safetensors_at(file, i);
        size_t bytes = (size_t)tensor_bytes(t), unit = t->dtype == F32 ? 4 : 1;
        REQUIRE((uintptr_t)t->data % unit == 0, "'%s' is not aligned", t->name);
        for (size_t j = 0; j < bytes; j++) sum += ((const unsigned char *)t->data)[j];
        REQUIRE(safetensors_find(file, t->name) == t, "'%s' is not found", t->name);
    }
    safetensors_metadata(file, "format");
}

static void safetensors(Bytes input) {
    Error err;
    fuzz_file("a.safetensors", input);
    SafeTensors *file = safetensors_open(FUZZ_FOLDER "/a.safetensors", &err);
    if (!file) return;
    read_all(file);
    safetensors_close(file);
}

/* ---- config.json ---- */

/* What loads is within its ranges, and is the same when it is saved, with what we do not know, and
 * loaded again. */
static void config(Bytes input) {
    Error err;
    ModelConfig cfg, again;
    fuzz_file("config.json", input);
    if (config_load(&cfg, FUZZ_FOLDER, &err)) return;
    REQUIRE(config_check(&cfg, &err) == 0, "%s", err.text);
    REQUIRE(config_parameters(&cfg) > 0, "%lld parameters", (long long)config_parameters(&cfg));
    char directory[200];
    snprintf(directory, sizeof directory, "%s", fuzz_scratch("."));
    REQUIRE(config_save(&cfg, NULL, directory, &err) == 0, "not saved: %s", err.text);
    for (int others = 0; others < 2; others++) {
        if (others)
            REQUIRE(config_keep_others(FUZZ_FOLDER, directory, &err) == 0, "others: %s", err.text);
        REQUIRE(config_load(&again, directory, &err) == 0, "not loaded again: %s", err.text);
        const ConfigKey *key;
        for (int i = 0; (key = config_key(i)); i++)
            REQUIRE(!config_key_applies(key, &cfg) || !cfg.n_routed_experts ||
                        config_key_get(key, &cfg) == config_key_get(key, &again),
                    "%s: %.17g became %.17g", key->key, config_key_get(key, &cfg),
                    config_key_get(key, &again));
    }
}

/* ---- a model's folder ---- */

/* config.json, index, up to three files of weights: what loads computes finite or infinite numbers
 * in its memory. */
static void model_folder(Bytes input) {
    static const char *const shards[] = {"model-00001-of-00003.safetensors",
                                         "model-00002-of-00003.safetensors",
                                         "model-00003-of-00003.safetensors"};
    static Context ctx;
    static bool open;
    Error err;
    Model model;
    ModelConfig cfg;
    if (!open && context_init(&ctx, CPU, F32, 1, &err)) abort();
    open = true;
    context_reset(&ctx); /* of an input that ended in the middle */
    fuzz_file("config.json", fuzz_part(&input));
    Bytes index = fuzz_part(&input);
    if (index.size) fuzz_file("model.safetensors.index.json", index);
    for (int i = 0; i < (index.size ? 3 : 1); i++)
        fuzz_file(index.size ? shards[i] : "model.safetensors", fuzz_part(&input));
    if (config_load(&cfg, FUZZ_FOLDER, &err) || cfg.max_position_embeddings > 4096) return;
    if (checkpoint_load_model(&model, &ctx, FUZZ_FOLDER, &cfg, LOAD_TO_RUN, &err)) return;
    int32_t ids[3];
    for (int i = 0; i < 3; i++) ids[i] = (int32_t)((int64_t)i * cfg.vocab_size / 3);
    int count = cfg.max_position_embeddings < 3 ? cfg.max_position_embeddings : 3;
    Tensor *logits =
        model_forward(&model, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, count)), NULL);
    REQUIRE(tensor_count(logits) == (int64_t)count * cfg.vocab_size, "other logits");
    context_reset(&ctx);
    model_free(&model);
}

/* ---- shards ---- */

/* index.json and two shards; the tokenizer's hash is made to fit. Windows and documents lie within
 * the shards. */
static void shards(Bytes input) {
    Error err;
    Shards s;
    fuzz_file("index.json", fuzz_part(&input));
    fuzz_file("tokenizer.json", (Bytes){"{}", 2});
    fuzz_file("train-00000.shard", fuzz_part(&input));
    fuzz_file("train-00001.shard", fuzz_part(&input));
    fuzz_file("validation-00000.shard", fuzz_part(&input));
    for (int verify = 0; verify < 2; verify++) {
        if (shards_open(&s, FUZZ_FOLDER, verify, &err)) continue;
        for (int part = 0; part < SHARD_PARTS; part++) {
            int64_t tokens = s.parts[part].tokens, first, count;
            int32_t ids[5];
            for (int64_t i = 0; i < s.parts[part].documents && i < 50; i++) {
                shards_document(&s, (ShardPart)part, i, &first, &count);
                REQUIRE(first >= 0 && count > 0 && first + count <= tokens,
                        "document %lld: %lld tokens from %lld on", (long long)i, (long long)count,
                        (long long)first);
            }
            for (uint64_t i = 0; part == SHARD_TRAIN && tokens > 5 && i < 20; i++) {
                first = shards_window(&s, 1, i, 4);
                REQUIRE(first >= 0 && first + 5 <= tokens, "window at %lld", (long long)first);
                shards_read(&s, SHARD_TRAIN, first, 5, ids);
            }
        }
        shards_close(&s);
    }
}

/* ---- a run's state ---- */

static uint64_t fingerprint(const Model *model, const TrainingState *state) {
    uint64_t h = (uint64_t)state->adamw.step * 31 + (uint64_t)state->best_step;
    const Params *p = &model->params;
    for (int i = 0; i < p->count; i++)
        for (int64_t j = 0; j < tensor_bytes(p->list[i]); j++)
            h = h * 1099511628211u + ((const unsigned char *)p->list[i]->data)[j];
    return h;
}

/* A file that is refused has changed nothing. */
static void training_state(Bytes input) {
    static Context ctx;
    static Model model;
    static bool open;
    Error err;
    if (!open) {
        open = true;
        if (context_init(&ctx, CPU, F32, 1, &err)) abort();
        ModelConfig cfg;
        config_preset(&cfg, "nano", &err);
        cfg.vocab_size = 3, cfg.num_hidden_layers = 1, cfg.n_routed_experts = 2;
        cfg.num_attention_heads = 1, cfg.qk_nope_head_dim = cfg.v_head_dim = 1;
        cfg.qk_rope_head_dim = 2, cfg.first_k_dense_replace = 0, cfg.moe_intermediate_size = 1;
        cfg.hidden_size = cfg.intermediate_size = cfg.kv_lora_rank = 2;
        REQUIRE(model_init(&model, &ctx, &cfg, true, &err) == 0, "%s", err.text);
        model_randomize(&model);
    }
    TrainingState state = {.schedule = {.steps = 10, .peak = 1, .floor = 1}};
    Settings settings = {0};
    settings_integer(&settings, "seed", 1);
    if (!input.size) { /* how the seed was made */
        const char *directory = getenv("FUZZ_SEEDS");
        if (directory) training_state_save(&model, &state, &settings, directory, &err);
        return;
    }
    fuzz_file("training.safetensors", input);
    uint64_t before = fingerprint(&model, &state);
    if (training_state_load(&model, &state, &settings, FUZZ_FOLDER, &err))
        REQUIRE(fingerprint(&model, &state) == before, "refused, but changed");
    before = fingerprint(&model, &state);
    RewardState rewards = {.accuracy_first = 0.5}, old = rewards;
    state.rewards = &rewards;
    if (training_state_load(&model, &state, &settings, FUZZ_FOLDER, &err))
        REQUIRE(fingerprint(&model, &state) == before && !memcmp(&rewards, &old, sizeof old),
                "refused, but changed");
}

/* ---- metrics.csv ---- */

/* Rows that stay are those of steps up to 3, and nothing is invented. */
static void csv(Bytes input) {
    static const char columns[] = "step,loss";
    Error err;
    Csv csv;
    char path[200];
    snprintf(path, sizeof path, "%s", fuzz_scratch("metrics.csv"));
    FILE *file = fopen(path, "wb");
    if (fwrite(input.data, 1, input.size, file) != input.size || fclose(file)) abort();
    if (csv_continue(&csv, path, columns, 3, "cpu", 1, &err)) return;
    csv_row(&csv, "%d,%g", 4, 1.5);
    REQUIRE(csv_close(&csv, &err) == 0, "%s", err.text);
    MappedFile result;
    REQUIRE(file_map(&result, path, &err) == 0, "%s", err.text);
    REQUIRE(result.size > 6 && !memcmp(result.data + result.size - 6, "4,1.5\n", 6), "no row");
    file_unmap(&result);
}

const FuzzTarget fuzz_file_targets[] = {{"safetensors", safetensors},
                                        {"config", config},
                                        {"model", model_folder},
                                        {"shards", shards},
                                        {"state", training_state},
                                        {"csv", csv},
                                        {NULL, NULL}};
