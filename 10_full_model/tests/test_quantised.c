/*
 * Quantised folders of others (tools/goldens/10_quantised.py), and our own way there and back:
 * every number is what their layout says, and what is broken is named before anything is kept.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/checkpoint/stored.h"
#include "10_full_model/tests/test_world.h"

#include "common/files/files.h"

#include <math.h>
#include <stdio.h>

static const char *golden_folder(const char *name) {
    char path[200];
    static char found[400];
    snprintf(path, sizeof path, "10_full_model/goldens/quantised_%s", name);
    check_ok(project_path(found, sizeof found, path, &err), &err);
    return found;
}

static const char *const names[] = {"fp8", "int4_groups", "int4_rows", "int8_rows"};
enum { NAMES = sizeof names / sizeof *names };

static uint32_t crc32_of(const void *data, size_t size) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= ((const uint8_t *)data)[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* All weights of the folder, experts one by one, have the numbers of expected.safetensors. */
static void numbers_are(Model *model, SafeTensors *expected, const char *name) {
    Tensor *weight;
    int checked = 0;
    for (int i = 0; (weight = weights_at(&model->params, i)); i++) {
        float *values = test_floats(tensor_count(weight));
        params_get(&model->params, weight, values);
        for (int j = 0; j < weight_parts(weight); j++, checked++) {
            WeightPart part = weight_part(weight, j);
            char key[220];
            snprintf(key, sizeof key, "crc.%s", part.name);
            const Tensor *want = safetensors_get(expected, key, SHAPE(1), &err);
            if (!want) cr_assert_fail("%s", err.text);
            cr_assert(crc32_of(values + part.offset, (size_t)part.count * sizeof *values) ==
                          *(const int64_t *)want->data,
                      "%s: %s has other numbers", name, part.name);
        }
    }
    int crcs = 0; /* repetitions for a module are there, too, and are not the model's */
    for (int i = 0; i < safetensors_count(expected); i++)
        crcs += !strncmp(safetensors_at(expected, i)->name, "crc.", 4);
    cr_assert(checked + 2 * model->mtp.depth + model->cfg.tie_word_embeddings >= crcs,
              "%s: %d weights of %d", name, checked, crcs);
}

static int count_quantised(const Model *model) {
    int count = 0;
    for (int i = 0; i < model->params.count; i++) count += !!model->params.list[i]->quantised;
    return count;
}

/* Of all logits from the expected ones; and that of the middle one of the rows, each by itself. */
typedef struct Distance {
    double all, middle;
} Distance;

static int compare_numbers(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static Distance logits_distance(Model *model, SafeTensors *expected) {
    Tensor *ids = golden_tensor(model->ctx, expected, "input_ids");
    float *logits = test_values(model->ctx, model_forward(model, ids, NULL));
    const float *want = golden_values(expected, "logits");
    double difference = 0, size = 0, rows[64];
    int64_t count = tensor_count(ids), vocab = model->cfg.vocab_size;
    for (int64_t r = 0; r < count; r++) {
        double lost = 0, all = 0;
        for (int64_t i = r * vocab; i < (r + 1) * vocab; i++) {
            lost += ((double)logits[i] - want[i]) * ((double)logits[i] - want[i]);
            all += (double)want[i] * want[i];
        }
        rows[r] = sqrt(lost / all);
        difference += lost, size += all;
    }
    qsort(rows, (size_t)count, sizeof *rows, compare_numbers);
    context_reset(model->ctx);
    return (Distance){sqrt(difference / size), rows[count / 2]};
}

/* Weights: bit by bit. Logits in F32: the tolerance of test_golden.c. Activations of 8 bits are
 * 0.01 wrong, in each of some ten products one after the other: 0.03 was seen in the middle, and
 * 0.7 where another expert was chosen. */
static void folders_of_others(Context ctx) {
    for (int i = 0; i < NAMES; i++) {
        char path[300];
        snprintf(path, sizeof path, "10_full_model/goldens/quantised_%s/expected.safetensors",
                 names[i]);
        SafeTensors *expected = golden_open(path);
        for (LoadKind kind = LOAD_TO_RUN; kind <= LOAD_PLAIN; kind++) {
            Model model;
            check_ok(checkpoint_load_model(&model, &ctx, golden_folder(names[i]), NULL, kind, &err),
                     &err);
            bool kept = kind == LOAD_TO_RUN || kind == LOAD_WEIGHT_ONLY;
            cr_assert((count_quantised(&model) >= 14) == kept, "%s, %d: %d quantised", names[i],
                      kind, count_quantised(&model));
            cr_assert((model.cfg.quant_method != STORED_PLAIN) == kept);
            numbers_are(&model, expected, names[i]);
            Distance d = logits_distance(&model, expected);
            bool rounds = kind == LOAD_TO_RUN && (ctx.device == CUDA || strcmp(names[i], "fp8"));
            printf("%-12s %d: logits %.1e, %.1e\n", names[i], kind, d.all, d.middle);
            cr_assert(rounds ? d.middle <= 0.08 : d.all <= 4e-6, "%s, %d: logits are %g, %g away",
                      names[i], kind, d.all, d.middle);
            model_free(&model);
        }
    }
}

Test(quantised, folders_of_others_are_read_bit_by_bit) {
    folders_of_others(test_context(CPU, F32));
}

Test(quantised, folders_of_others_are_read_bit_by_bit_cuda) {
    test_needs_gpu();
    folders_of_others(test_context(CUDA, F32));
}

/* What is written of a quantised model is its codes and scales, in files of any size. */
CPU_TEST(quantised, saved_as_they_are) {
    for (int i = 0; i < 2 * NAMES; i++) {
        Model model, back;
        Scratch scratch = scratch_open();
        const char *from = golden_folder(names[i / 2]);
        SaveOptions save = {.dtype = i & 1 ? BF16 : F32, .shard_size = i & 1 ? 9000 : 0};
        check_ok(checkpoint_load_model(&model, &ctx, from, NULL, LOAD_WEIGHT_ONLY, &err), &err);
        check_ok(checkpoint_save(&model, NULL, scratch.directory, &save, &err), &err);
        check_ok(
            checkpoint_load_model(&back, &ctx, scratch.directory, NULL, LOAD_WEIGHT_ONLY, &err),
            &err);
        Tensor *a, *b;
        for (int w = 0; (a = weights_at(&model.params, w)); w++) {
            b = weights_at(&back.params, w);
            cr_assert(a->dtype == b->dtype && !a->quantised == !b->quantised, "%s", a->name);
            cr_assert(!memcmp(a->data, b->data, tensor_bytes(a)), "%s: %s", from, a->name);
            if (!a->quantised) continue;
            const Tensor *s = &a->quantised->scale, *t = &b->quantised->scale;
            cr_assert(!memcmp(s->data, t->data, tensor_bytes(s)), "%s: scales of %s", from,
                      a->name);
        }
        model_free(&model);
        model_free(&back);
    }
}

/* ---- what is broken ---- */

typedef enum Harm { DROP, REPLACE, NUMBER } Harm;

typedef struct BadFolder {
    const char *folder;
    Harm harm;
    const char *tensor;
    DType dtype; /* of a tensor that REPLACE puts there, filled with bytes of 0x22 */
    int64_t shape[2];
    float number;          /* NUMBER: the first of the tensor's; of bytes its code */
    const char *from, *to; /* in config.json */
    const char *says[2];
} BadFolder;

#define MLP1 "model.layers.1.mlp."
static const BadFolder bad[] = {
    {"fp8", DROP, MLP1 "shared_experts.down_proj.weight_scale_inv",
     .says = {MLP1 "shared_experts.down_proj.weight_scale_inv' is missing",
              "'" MLP1 "shared_experts.down_proj.weight' is F8_E4M3"}},
    {"fp8", DROP, "model.layers.0.self_attn.o_proj.scale",
     .says = {"model.layers.0.self_attn.o_proj.weight_scale_inv' is missing"}},
    {"fp8",
     REPLACE,
     MLP1 "shared_experts.down_proj.weight_scale_inv",
     F32,
     {1, 1},
     .says = {"has shape [1, 1], but a scale for each tile", "needs [2, 1]"}},
    {"fp8",
     REPLACE,
     MLP1 "shared_experts.down_proj.weight_scale_inv",
     I32,
     {2, 1},
     .says = {"down_proj.weight_scale_inv' is I32; scales are read as"}},
    {"fp8",
     REPLACE,
     MLP1 "shared_experts.down_proj.weight",
     F8_E4M3,
     {136, 13},
     .says = {"down_proj.weight' has shape [136, 13]", "needs [136, 12]"}},
    {"fp8",
     REPLACE,
     MLP1 "shared_experts.down_proj.weight",
     F8_E5M2,
     {136, 12},
     .says = {"down_proj.weight' is F8_E5M2; weights are read as"}},
    {"fp8",
     REPLACE,
     MLP1 "shared_experts.down_proj.weight",
     BF16,
     {136, 12},
     .says = {"down_proj.weight_scale_inv' is a scale of FP8 weights"}},
    {"fp8", NUMBER, MLP1 "shared_experts.down_proj.weight_scale_inv", .number = 0,
     .says = {"number 0 of '" MLP1 "shared_experts.down_proj.weight_scale_inv' is 0"}},
    {"fp8", NUMBER, MLP1 "shared_experts.down_proj.weight_scale_inv", .number = NAN,
     .says = {"weight_scale_inv' is nan"}},
    {"fp8", NUMBER, MLP1 "shared_experts.down_proj.weight_scale_inv", .number = INFINITY,
     .says = {"weight_scale_inv' is inf"}},
    {"fp8", NUMBER, MLP1 "shared_experts.down_proj.weight_scale_inv", .number = -1,
     .says = {"weight_scale_inv' is -1"}},
    {"fp8", NUMBER, "model.layers.0.self_attn.o_proj.scale", .number = 255,
     .says = {"model.layers.0.self_attn.o_proj.scale' is nan"}},
    {"fp8", NUMBER, MLP1 "shared_experts.down_proj.weight", .number = 255,
     .says = {"number [0, 0] of '" MLP1 "shared_experts.down_proj.weight' is NaN"}},
    {"fp8", .from = "\"quant_method\": \"fp8\"", .to = "\"quant_method\": \"gptq\"",
     .says = {"quant_method is gptq; this program knows: fp8, compressed-tensors"}},
    {"fp8", .from = "\"quantization_config\"", .to = "\"forgotten\"",
     .says = {"is F8_E4M3; weights are read as F32, BF16 or F16", "quant_method fp8"}},
    {"int4_groups", DROP, MLP1 "experts.3.up_proj.weight_scale",
     .says = {MLP1 "experts.3.up_proj.weight_scale' is missing", "weight_packed' is there"}},
    {"int4_groups", DROP, MLP1 "experts.3.up_proj.weight_shape",
     .says = {MLP1 "experts.3.up_proj.weight_shape' is missing"}},
    {"int4_groups", DROP, MLP1 "experts.3.up_proj.weight_packed",
     .says = {"1 of the model's tensors are not in its files: " MLP1 "experts.3.up_proj.weight"}},
    {"int4_groups",
     REPLACE,
     MLP1 "experts.3.up_proj.weight_scale",
     F32,
     {32, 1},
     .says = {"up_proj.weight_scale' has shape [32, 1], but group_size 32 needs [32, 2]"}},
    {"int4_groups",
     REPLACE,
     MLP1 "experts.3.up_proj.weight_scale",
     U8,
     {32, 2},
     .says = {"up_proj.weight_scale' is U8; scales are read as F32, BF16 or F16"}},
    {"int4_groups",
     REPLACE,
     MLP1 "experts.3.up_proj.weight_packed",
     I32,
     {32, 16},
     .says = {"has shape [32, 16], but a matrix [32, 64] of INT4 needs [32, 8]"}},
    {"int4_groups",
     REPLACE,
     MLP1 "experts.3.up_proj.weight_packed",
     F32,
     {32, 8},
     .says = {"up_proj.weight_packed' is F32; packed integers are I32"}},
    {"int4_groups",
     REPLACE,
     MLP1 "experts.3.up_proj.weight_shape",
     I64,
     {1, 2},
     .says = {"up_proj.weight_shape' says [2459565876494606882, ", "needs [32, 64]"}},
    {"int4_groups",
     REPLACE,
     MLP1 "experts.3.up_proj.weight_shape",
     I64,
     {3, 1},
     .says = {"up_proj.weight_shape' says [0, 0]"}},
    {"int4_groups", NUMBER, MLP1 "experts.3.up_proj.weight_scale", .number = 0,
     .says = {"number 0 of '" MLP1 "experts.3.up_proj.weight_scale' is 0"}},
    {"int4_groups", .from = "\"group_size\": 32", .to = "\"group_size\": 48",
     .says = {"group_size 48 does not divide its rows of 64 numbers"}},
    {"int4_groups", .from = "\"num_bits\": 4", .to = "\"num_bits\": 8", .says = {"of INT8 needs"}},
    {"int4_groups", .from = "\"quantization_config\"", .to = "\"forgotten\"",
     .says = {"weight_packed' is packed, but config.json has no quantization_config"}},
};

/* The golden folder with the harm done. */
static void harm(const BadFolder *b, Scratch *scratch) {
    SafeTensors *file =
        safetensors_open(file_path(golden_folder(b->folder), WEIGHTS_FILE).text, &err);
    Tensor list[200];
    int count = 0;
    bool done = !b->tensor;
    for (int i = 0; i < safetensors_count(file); i++) {
        Tensor t = *safetensors_at(file, i);
        if (b->tensor && !strcmp(t.name, b->tensor)) {
            done = true;
            if (b->harm == DROP) continue;
            if (b->harm == REPLACE) t = tensor_view(NULL, t.name, b->dtype, CPU, b->shape, 2);
            size_t bytes = tensor_bytes(&t);
            void *data = must_alloc(bytes, 1);
            memset(data, 0x22, bytes);
            if (b->harm == NUMBER && dtype_size(t.dtype) == 1)
                *(uint8_t *)data = (uint8_t)b->number;
            if (b->harm == NUMBER && t.dtype == F32) *(float *)data = b->number;
            if (b->harm == NUMBER && t.dtype == BF16)
                *(uint16_t *)data = bf16_from_float(b->number);
            t.data = data;
        }
        list[count++] = t;
    }
    cr_assert(done, "%s has no %s", b->folder, b->tensor);
    check_ok(safetensors_write(scratch_path(scratch, WEIGHTS_FILE), list, count, NULL, 0, &err),
             &err);
    safetensors_close(file);
    size_t bytes;
    char *config = file_text(path_in(golden_folder(b->folder), "config.json"), &bytes);
    char *at = b->from ? strstr(config, b->from) : config + bytes;
    cr_assert_not_null(at, "%s: no %s", b->folder, b->from);
    char *changed = must_alloc(bytes + 100, 1);
    snprintf(changed, bytes + 100, "%.*s%s%s", (int)(at - config), config, b->from ? b->to : "",
             at + (b->from ? strlen(b->from) : 0));
    scratch_write(scratch, "config.json", changed, strlen(changed));
}

CPU_TEST(quantised, what_is_broken_is_named) {
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Scratch scratch = scratch_open();
        harm(&bad[i], &scratch);
        for (LoadKind kind = LOAD_TO_RUN; kind <= LOAD_PLAIN; kind++) {
            Model model;
            cr_assert(checkpoint_load_model(&model, &ctx, scratch.directory, NULL, kind, &err) ==
                          -1,
                      "case %zu: accepted", i);
            for (int k = 0; k < 2 && bad[i].says[k]; k++)
                cr_assert(strstr(err.text, bad[i].says[k]), "case %zu: \"%s\" does not say \"%s\"",
                          i, err.text, bad[i].says[k]);
            cr_assert(strstr(err.text, scratch.directory), "no file is named: %s", err.text);
            cr_assert(!model.ctx, "case %zu: a model was left", i);
        }
    }
}

/* Layers' names of DeepSeek-V3.2's indexer, of modules, and what is never quantised. */
Test(quantised, which_weights_can_be) {
    static const struct {
        const char *name;
        bool can;
    } all[] = {{"model.layers.0.self_attn.q_a_proj.weight", true},
               {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", true},
               {"model.layers.61.self_attn.kv_b_proj.weight", true},
               {"model.layers.3.mlp.experts.gate_proj.weight", true},
               {"model.layers.3.mlp.shared_experts.down_proj.weight", true},
               {"model.layers.3.self_attn.indexer.wq_b.weight", true},
               {"model.layers.3.self_attn.indexer.wk.weight", true},
               {"model.layers.3.self_attn.indexer.weights_proj.weight", false},
               {"model.layers.3.mlp.gate.weight", false},
               {"model.layers.61.eh_proj.weight", false},
               {"model.embed_tokens.weight", false},
               {"lm_head.weight", false}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cr_expect(size_quantisable(&(Tensor){.name = all[i].name, .ndim = 2}) == all[i].can, "%s",
                  all[i].name);
    cr_expect(!size_quantisable(
        &(Tensor){.name = "model.layers.0.self_attn.q_a_layernorm.weight", .ndim = 1}));
}

/* ---- quantization_config ---- */

#define FP8(more)       "{\"quant_method\": \"fp8\"" more "}"
#define WEIGHTS(scheme) "{\"weights\": {" scheme "}, \"input_activations\": null}"
#define PACKED(groups, more)                                                      \
    "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", " \
    "\"config_groups\": {" groups "}, \"quantization_status\": \"compressed\"" more "}"
#define INT4 "\"num_bits\": 4, \"strategy\": \"group\", \"group_size\": 64"

static const struct {
    const char *json;
    StoredAs method;
    ScaleFormat scale;
    int bits, group;
} good_configs[] = {
    {"null", STORED_PLAIN, SCALE_FLOAT, 0, 0},
    {"{}", STORED_PLAIN, SCALE_FLOAT, 0, 0},
    {FP8(""), STORED_FP8, SCALE_FLOAT, 0, 0},
    {FP8(", \"fmt\": \"e4m3\", \"activation_scheme\": \"dynamic\", \"weight_block_size\": "
         "[128, 128], \"modules_to_not_convert\": [\"lm_head\"]"),
     STORED_FP8, SCALE_FLOAT, 0, 0},
    {FP8(", \"scale_fmt\": \"ue8m0\""), STORED_FP8, SCALE_UE8M0, 0, 0},
    {PACKED("\"a\": " WEIGHTS(INT4), ""), STORED_PACKED, SCALE_FLOAT, 4, 64},
    {PACKED("\"a\": " WEIGHTS(INT4) ", \"b\": " WEIGHTS(INT4), ", \"sparsity_config\": {}"),
     STORED_PACKED, SCALE_FLOAT, 4, 64},
    {PACKED("\"a\": " WEIGHTS("\"num_bits\": 8, \"group_size\": -1, \"actorder\": \"static\""), ""),
     STORED_PACKED, SCALE_FLOAT, 8, 0},
    {PACKED("\"a\": " WEIGHTS("\"num_bits\": 8, \"strategy\": \"channel\", \"group_size\": null"),
            ", \"kv_cache_scheme\": null"),
     STORED_PACKED, SCALE_FLOAT, 8, 0},
};

static const struct {
    const char *json, *says;
} bad_configs[] = {
    {"[]", "quantization_config is not an object"},
    {"{\"fmt\": \"e4m3\"}", "quant_method is missing"},
    {"{\"quant_method\": \"awq\"}", "quant_method is awq; this program knows: fp8, compressed"},
    {FP8(", \"fmt\": \"e5m2\""), "fmt is e5m2; only e4m3 is known"},
    {FP8(", \"activation_scheme\": \"static\""), "activation_scheme is static; only dynamic"},
    {FP8(", \"weight_block_size\": [64, 128]"), "weight_block_size is [64,128]; only [128,128]"},
    {FP8(", \"weight_block_size\": null"), "weight_block_size is null"},
    {FP8(", \"scale_fmt\": \"e5m3\""), "scale_fmt is e5m3; this program knows: float, ue8m0"},
    {PACKED("", ""), "config_groups is missing, or empty"},
    {PACKED("\"a\": {}", ""), "config_groups: a does not say how weights are quantised"},
    {PACKED("\"a\": " WEIGHTS(INT4) ", \"b\": " WEIGHTS("\"num_bits\": 8"), ""),
     "not all quantised in the same way"},
    {PACKED("\"a\": {\"weights\": {" INT4 "}, \"input_activations\": {\"num_bits\": 8}}", ""),
     "input_activations is {\"num_bits\":8}; only null"},
    {PACKED("\"a\": " WEIGHTS(INT4 ", \"symmetric\": false"), ""), "symmetric is false"},
    {PACKED("\"a\": " WEIGHTS(INT4 ", \"type\": \"float\""), ""), "type is float; only int"},
    {PACKED("\"a\": " WEIGHTS(INT4 ", \"dynamic\": true"), ""), "dynamic is true"},
    {PACKED("\"a\": " WEIGHTS(INT4 ", \"actorder\": \"group\""), ""), "actorder is group"},
    {PACKED("\"a\": " WEIGHTS("\"num_bits\": 4, \"strategy\": \"tensor\""), ""),
     "strategy is tensor; only channel"},
    {PACKED("\"a\": " WEIGHTS("\"num_bits\": 4, \"strategy\": \"group\""), ""),
     "strategy is group; only channel"},
    {PACKED("\"a\": " WEIGHTS("\"num_bits\": 6, \"group_size\": 32"), ""), "num_bits is 6; only 4"},
    {PACKED("\"a\": " WEIGHTS("\"num_bits\": 2"), ""), "num_bits must be a whole number in 4 .. 8"},
    {PACKED("\"a\": " WEIGHTS("\"group_size\": 32"), ""), "num_bits is missing"},
    {PACKED("\"a\": " WEIGHTS("\"num_bits\": 4, \"group_size\": 0"), ""), "group_size must be"},
    {PACKED("\"a\": " WEIGHTS(INT4), ", \"kv_cache_scheme\": {\"num_bits\": 8}"),
     "kv_cache_scheme is {\"num_bits\":8}"},
    {PACKED("\"a\": " WEIGHTS(INT4), ", \"sparsity_config\": {\"format\": \"x\"}"),
     "sparsity_config is"},
    {"{\"quant_method\": \"compressed-tensors\", \"format\": \"int-quantized\", "
     "\"config_groups\": {\"a\": " WEIGHTS(INT4) "}}",
     "format is int-quantized; only pack-quantized is known"},
};

/* A folder with the golden one's config.json, but for quantization_config. */
static int load_config(ModelConfig *cfg, const char *quantisation) {
    Scratch scratch = scratch_open();
    size_t bytes;
    char json[6000];
    char *text = file_text(path_in(golden_folder("int4_groups"), "config.json"), &bytes);
    *strstr(text, "\"quantization_config\"") = 0;
    snprintf(json, sizeof json, "%s\"quantization_config\": %s}", text, quantisation);
    scratch_write(&scratch, "config.json", json, strlen(json));
    return config_load(cfg, scratch.directory, &err);
}

/* What is read is written as the same, and with it the names of what is plain. */
Test(quantised, configs_are_read_and_written) {
    for (size_t i = 0; i < sizeof good_configs / sizeof *good_configs; i++) {
        ModelConfig cfg, back;
        Scratch again = scratch_open();
        size_t bytes;
        check_ok(load_config(&cfg, good_configs[i].json), &err);
        check_all(cfg.quant_method == good_configs[i].method,
                  cfg.scale_fmt == good_configs[i].scale, cfg.num_bits == good_configs[i].bits,
                  cfg.group_size == good_configs[i].group);
        const char *const high[] = {"lm_head", "model.layers.0.mlp.gate", NULL};
        check_ok(config_save(&cfg, high, again.directory, &err), &err);
        check_ok(config_load(&back, again.directory, &err), &err);
        check_all(cfg.quant_method == back.quant_method, cfg.scale_fmt == back.scale_fmt,
                  cfg.num_bits == back.num_bits, cfg.group_size == back.group_size);
        const char *written = file_text(path_in(again.directory, "config.json"), &bytes);
        const char *list = strstr(written, "[\"lm_head\", \"model.layers.0.mlp.gate\"]");
        cr_expect(!list == !cfg.quant_method, "%s", written);
    }
}

Test(quantised, configs_that_say_something_else) {
    for (size_t i = 0; i < sizeof bad_configs / sizeof *bad_configs; i++) {
        ModelConfig cfg;
        cr_assert(load_config(&cfg, bad_configs[i].json) == -1, "%s: accepted",
                  bad_configs[i].json);
        cr_expect(strstr(err.text, bad_configs[i].says), "%s: %s", bad_configs[i].json, err.text);
    }
}
