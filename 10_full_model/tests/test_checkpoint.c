/*
 * A model's folder: what is written is read, in every shape it can have; what is broken is
 * named; and whatever stops a save, the old model is whole.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/checkpoint/weight_files.h"
#include "10_full_model/checkpoint/weights_map.h"
#include "10_full_model/tests/test_world.h"

#include <stdio.h>
#include <sys/resource.h>

static void world_open(World *w, ModelConfig cfg) {
    world_model(w, CPU, F32, cfg, false);
    w->scratch = scratch_open();
    Tensor *weight; /* biases of routers too, which begin at zero */
    for (int i = 0; (weight = weights_at(&w->model.params, i)); i++)
        if (i >= w->model.params.count) params_normal(&w->model.params, weight, 0.3f);
    check_ok(checkpoint_write_setup(&cfg, NULL, w->scratch.directory, F32, &err), &err);
}

static void save(World *w, DType dtype, int64_t shard_size) {
    SaveOptions options = {.dtype = dtype, .shard_size = shard_size, .step = 3};
    check_ok(checkpoint_write_weights(&w->model, w->scratch.directory, &options, &err), &err);
}

/* Every number of the folder is the model's, rounded if dtype says so. */
static void loads_as(World *w, DType dtype) {
    Model back;
    check_ok(checkpoint_load_model(&back, &w->ctx, w->scratch.directory, NULL, LOAD_TO_RUN, &err),
             &err);
    Tensor *a, *b;
    for (int i = 0; (a = weights_at(&w->model.params, i)); i++) {
        b = weights_at(&back.params, i);
        const float *x = a->data, *y = b->data;
        bool rounded = dtype == BF16 && i < w->model.params.count;
        for (int64_t j = 0; j < tensor_count(a); j++) {
            float want = rounded ? bf16_to_float(bf16_from_float(x[j])) : x[j];
            cr_assert(y[j] == want, "%s [%lld] is %g, not %g", a->name, (long long)j, y[j], want);
        }
    }
}

/* Loading fails, says `message`, and leaves nothing. */
static void refused(World *w, const char *what, const char *message) {
    Model back;
    cr_assert(
        checkpoint_load_model(&back, &w->ctx, w->scratch.directory, NULL, LOAD_TO_RUN, &err) == -1,
        "%s: accepted", what);
    cr_assert(strstr(err.text, message), "%s: \"%s\" does not say \"%s\"", what, err.text, message);
    cr_assert(strstr(err.text, w->scratch.directory), "%s: no file is named: %s", what, err.text);
    cr_assert(!back.ctx && !back.decoder.layers, "%s: a model was left", what);
}

/* ---- whole folders ---- */

Test(checkpoint, every_way_of_saving_is_read) {
    World w;
    world_open(&w, tiny_config(19));
    static const struct {
        DType dtype;
        int64_t shard_size;
        int files; /* all in the folder: these, and config.json */
    } ways[] = {{F32, 0, 2},     {BF16, 0, 2}, {F32, 9000, 6}, {F32, 5000, 0},
                {BF16, 9000, 0}, {F32, 1, 0},  {F32, 9000, 6}, {F32, 0, 2}};
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        save(&w, ways[i].dtype, ways[i].shard_size);
        loads_as(&w, ways[i].dtype);
        int files = scratch_count(&w.scratch); /* nothing of the way before is left */
        cr_assert(!ways[i].files || files == ways[i].files, "way %zu: %d files", i, files);
    }
}

Test(checkpoint, other_models_too) {
    for (int i = 0; i < 5; i++) {
        ModelConfig cfg = tiny_config(19);
        cfg.tie_word_embeddings = cfg.attention_bias = i & 1;
        if (i & 1) cfg.q_lora_rank = 0;
        if (i & 2) {
            cfg.model_type = DEEPSEEK_V2;
            cfg.topk_method = TOPK_GROUP_LIMITED_GREEDY;
            cfg.rope_interleave = true;
        }
        if (i == 3) cfg.first_k_dense_replace = cfg.num_hidden_layers;
        if (i == 4) { /* multi-head attention: null in the file */
            cfg.q_lora_rank = cfg.kv_lora_rank = cfg.qk_nope_head_dim = 0;
            cfg.v_head_dim = cfg.qk_rope_head_dim;
            cfg.num_nextn_predict_layers = 1;
        }
        World w;
        world_open(&w, cfg);
        save(&w, F32, 7000);
        loads_as(&w, F32);
    }
}

/* n_routed_experts null, and none of the keys that experts need */
Test(checkpoint, a_dense_model_needs_no_word_of_experts) {
    ModelConfig cfg = tiny_config(19);
    cfg.n_routed_experts = 0;
    cfg.num_nextn_predict_layers = 1; /* its block is dense, too */
    World w;
    world_open(&w, cfg);
    save(&w, F32, 0);
    loads_as(&w, F32);
    static const char json[] =
        "{\"model_type\": \"deepseek_v3\", \"vocab_size\": 19, \"hidden_size\": 12, "
        "\"intermediate_size\": 20, \"num_hidden_layers\": 3, \"num_attention_heads\": 3, "
        "\"q_lora_rank\": 7, \"kv_lora_rank\": 8, \"qk_nope_head_dim\": 5, "
        "\"qk_rope_head_dim\": 4, \"v_head_dim\": 6, "
        "\"n_routed_experts\": null, \"max_position_embeddings\": 64, "
        "\"num_nextn_predict_layers\": 1, \"rms_norm_eps\": 1e-6}";
    scratch_write(&w.scratch, "config.json", json, sizeof json - 1);
    loads_as(&w, F32);
}

/* ---- files made by hand ---- */

enum { MOST = 400 };

typedef struct File {
    Tensor tensors[MOST];
    char names[MOST][160];
    int count;
} File;

/* The model as it would be saved, in memory, to be changed. */
static File *file_of(World *w) {
    File *f = calloc(1, sizeof *f);
    Tensor *weight;
    for (int i = 0; (weight = weights_at(&w->model.params, i)); i++)
        for (int j = 0; j < weight_parts(weight); j++) {
            WeightPart part = weight_part(weight, j);
            snprintf(f->names[f->count], sizeof f->names[0], "%s", part.name);
            f->tensors[f->count] = tensor_view((float *)weight->data + part.offset,
                                               f->names[f->count], F32, CPU, part.shape, part.ndim);
            f->count++;
        }
    return f;
}

static Tensor *file_find(File *f, const char *name) {
    for (int i = 0; i < f->count; i++)
        if (!strcmp(f->names[i], name)) return &f->tensors[i];
    cr_assert_fail("the file has no %s", name);
    return NULL;
}

static void file_add(File *f, const char *name, Tensor like) {
    snprintf(f->names[f->count], sizeof f->names[0], "%s", name);
    like.name = f->names[f->count];
    f->tensors[f->count++] = like;
}

static void file_write(World *w, const File *f) {
    check_ok(safetensors_write(scratch_path(&w->scratch, WEIGHTS_FILE), f->tensors, f->count, NULL,
                               0, &err),
             &err);
}

static void rename_tensor(File *f, const char *from, const char *to) {
    snprintf((char *)file_find(f, from)->name, sizeof f->names[0], "%s", to);
}

static void no_norm(File *f) { rename_tensor(f, "model.norm.weight", "model.norn.weight"); }
static void other_shape(File *f) { file_find(f, "lm_head.weight")->shape[0] = 18; }
static void flat(File *f) {
    Tensor *t = file_find(f, "model.layers.1.mlp.experts.4.up_proj.weight");
    t->shape[0] *= t->shape[1];
    t->ndim = 1;
}
static void integers(File *f) { file_find(f, "model.norm.weight")->dtype = I32; }
static void fp8(File *f) {
    file_find(f, "model.layers.0.self_attn.o_proj.weight")->dtype = F8_E4M3;
}
static void fp8_scale(File *f) {
    file_add(f, "model.layers.2.self_attn.o_proj.weight_scale_inv",
             *file_find(f, "model.norm.weight"));
}
static void one_more(File *f) {
    file_add(f, "model.layers.0.self_attn.o_proj.bias", *file_find(f, "model.norm.weight"));
}
static void half_fused(File *f) {
    Tensor t = *file_find(f, "model.norm.weight");
    file_add(f, "model.layers.1.mlp.experts.gate_up_proj", t);
}
static void one_expert_less(File *f) {
    rename_tensor(f, "model.layers.2.mlp.experts.5.down_proj.weight",
                  "model.layers.2.mlp.experts.6.down_proj.weight");
}
static void no_bias(File *f) {
    rename_tensor(f, "model.layers.1.mlp.gate.e_score_correction_bias",
                  "model.layers.3.mlp.gate.e_score_correction_bias");
}
static void nothing(File *f) { f->count = 0; }

static const struct {
    const char *what;
    void (*change)(File *f);
    const char *message;
} wrong_weights[] = {
    {"a weight is missing", no_norm,
     "1 of the model's tensors are not in its files: model.norm.weight"},
    {"an expert is missing", one_expert_less, "model.layers.2.mlp.experts.5.down_proj.weight"},
    {"the bias is missing", no_bias, "model.layers.1.mlp.gate.e_score_correction_bias"},
    {"nothing is there", nothing,
     "model.embed_tokens.weight, model.layers.0.input_layernorm.weight"},
    {"nothing is there, and more", nothing, ", ..."},
    {"another shape", other_shape,
     "'lm_head.weight' has shape [18, 12], but the model of config.json needs [19, 12]"},
    {"another number of dimensions", flat,
     "has shape [108], but the model of config.json needs [9, 12]"},
    {"integers", integers, "'model.norm.weight' is I32"},
    {"FP8", fp8,
     "'model.layers.0.self_attn.o_proj.weight' is F8_E4M3; weights are read as F32, BF16 or F16, "
     "and as F8_E4M3 where"},
    {"FP8's scale", fp8_scale,
     "'model.layers.2.self_attn.o_proj.weight_scale_inv' is a scale of FP8 weights"},
    {"a tensor too many", one_more,
     "1 tensors that the model of config.json does not have: model.layers.0.self_attn.o_proj.bias"},
    {"fused experts of another shape", half_fused,
     "'model.layers.1.mlp.experts.gate_up_proj' has shape [12], but the model of config.json needs "
     "[6, 18, 12]"},
};

Test(checkpoint, weights_that_do_not_fit_are_named) {
    World w;
    world_open(&w, tiny_config(19));
    for (size_t i = 0; i < sizeof wrong_weights / sizeof wrong_weights[0]; i++) {
        File *f = file_of(&w);
        wrong_weights[i].change(f);
        file_write(&w, f);
        refused(&w, wrong_weights[i].what, wrong_weights[i].message);
    }
}

/* Of other programs: a head that is tied, RoPE's table. A layer behind the last is none. */
Test(checkpoint, tensors_of_no_use_are_passed_over) {
    ModelConfig cfg = tiny_config(19);
    cfg.tie_word_embeddings = true;
    World w;
    world_open(&w, cfg);
    File *f = file_of(&w);
    Tensor norm = *file_find(f, "model.norm.weight");
    file_add(f, "model.layers.1.self_attn.rotary_emb.inv_freq", norm);
    file_add(f, "lm_head.weight", *file_find(f, "model.embed_tokens.weight"));
    file_write(&w, f);
    loads_as(&w, F32);
    file_add(f, "model.layers.3.enorm.weight", norm);
    file_write(&w, f), free(f);
    refused(&w, "a layer too many", "model.layers.3.enorm.weight");
}

/* Two fused tensors a layer, as transformers 5 holds them in memory. */
Test(checkpoint, fused_experts_are_read) {
    World w;
    world_open(&w, tiny_config(19));
    File *f = file_of(&w), *g = calloc(1, sizeof *g);
    for (int i = 0; i < f->count; i++)
        if (!strstr(f->names[i], ".mlp.experts.")) file_add(g, f->names[i], f->tensors[i]);
    float *all[4];
    for (int layer = 1; layer < 3; layer++) {
        const Moe *moe = &w.model.decoder.layers[layer].moe;
        int64_t E = moe->gate_proj->shape[0], one = tensor_count(moe->gate_proj) / E;
        int64_t I = moe->gate_proj->shape[1], H = moe->gate_proj->shape[2];
        float *both = all[2 * layer - 2] = test_floats(2 * E * one);
        all[2 * layer - 1] = moe->down_proj->data;
        for (int64_t e = 0; e < E; e++) {
            size_t bytes = (size_t)one * sizeof(float);
            memcpy(both + 2 * e * one, (float *)moe->gate_proj->data + e * one, bytes);
            memcpy(both + (2 * e + 1) * one, (float *)moe->up_proj->data + e * one, bytes);
        }
        char name[100];
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.gate_up_proj", layer);
        file_add(g, name, tensor_view(both, "", F32, CPU, SHAPE(E, 2 * I, H)));
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.down_proj", layer);
        file_add(g, name, tensor_view(all[2 * layer - 1], "", F32, CPU, SHAPE(E, H, I)));
    }
    file_write(&w, g);
    loads_as(&w, F32);
}

/* ---- broken files ---- */

static const struct {
    const char *what, *json, *message;
} wrong_indexes[] = {
    {"no JSON", "{", "index.json"},
    {"no map", "{\"metadata\": {}}", "there is no weight_map"},
    {"an empty map", "{\"weight_map\": {}}", "there is no weight_map, or it is empty"},
    {"a map that is a list", "{\"weight_map\": [\"a\"]}", "there is no weight_map"},
    {"a number for a file", "{\"weight_map\": {\"model.norm.weight\": 3}}",
     "'model.norm.weight' has no file name"},
    {"a path", "{\"weight_map\": {\"model.norm.weight\": \"../model.safetensors\"}}",
     "lie beside the index"},
    {"an absent file",
     "{\"weight_map\": {\"model.norm.weight\": \"model-00007-of-00009.safetensors\"}}",
     "names model-00007-of-00009.safetensors, but there is no such file"},
    {"a tensor that is not there",
     "{\"weight_map\": {\"model.nose.weight\": \"model-00001-of-00004.safetensors\"}}",
     "'model.nose.weight' should be in model-00001-of-00004.safetensors, but is not"},
    {"tensors it does not name",
     "{\"weight_map\": {\"model.embed_tokens.weight\": \"model-00001-of-00004.safetensors\"}}",
     "but the index says nothing of it"},
    {"the same name twice", "{\"weight_map\": {\"a\": \"b\", \"a\": \"c\"}}", "index.json"},
};

Test(checkpoint, indexes_that_lie_are_named) {
    World w;
    world_open(&w, tiny_config(19));
    save(&w, F32, 9000);
    for (size_t i = 0; i < sizeof wrong_indexes / sizeof wrong_indexes[0]; i++) {
        scratch_write(&w.scratch, WEIGHTS_INDEX, wrong_indexes[i].json,
                      strlen(wrong_indexes[i].json));
        refused(&w, wrong_indexes[i].what, wrong_indexes[i].message);
    }
}

/* A file cut anywhere is refused, and so is each of several. */
Test(checkpoint, truncated_files_are_refused) {
    World w;
    world_open(&w, tiny_config(19));
    for (int sharded = 0; sharded < 2; sharded++) {
        save(&w, F32, sharded ? 9000 : 0);
        const char *name = sharded ? "model-00002-of-00004.safetensors" : WEIGHTS_FILE;
        size_t size;
        char *copy = file_text(scratch_path(&w.scratch, name), &size);
        for (size_t length = 0; length < size; length += 1 + size / 97) {
            scratch_write(&w.scratch, name, copy, length);
            refused(&w, "truncated", name);
        }
        unlink(scratch_path(&w.scratch, name));
        refused(&w, "absent", name);
    }
}

/* ---- tokenizer and model ---- */

Test(checkpoint, a_tokenizer_with_more_ids_than_the_model_is_refused) {
    static const char text[] = "aa ab ab ab abc abc abcd abcd";
    Tokenizer *tokenizer = tokenizer_train(text, sizeof text - 1, 260, NULL, NULL, &err), *read;
    cr_assert(tokenizer, "%s", err.text);
    int size = tokenizer_vocab_size(tokenizer);
    for (int more = -1; more <= 5;
         more += 1) { /* a table that is larger than it need be is usual */
        World w;
        world_open(&w, tiny_config(size + more));
        save(&w, F32, 0);
        Model back;
        cr_assert(checkpoint_load(&back, &read, &w.ctx, w.scratch.directory, &err) == -1);
        cr_assert(strstr(err.text, "tokenizer.json"), "absent: %s", err.text);
        ModelConfig cfg = w.model.cfg;
        cfg.vocab_size = size + 5;
        check_ok(checkpoint_write_setup(&cfg, tokenizer, w.scratch.directory, F32, &err), &err);
        check_ok(config_save(&w.model.cfg, NULL, w.scratch.directory, &err), &err);
        int status = checkpoint_load(&back, &read, &w.ctx, w.scratch.directory, &err);
        cr_assert(status == (more < 0 ? -1 : 0), "%d more: %s", more, err.text);
        if (status) {
            cr_assert(strstr(err.text, "do not belong together") && !read && !back.ctx, "%s",
                      err.text);
        }
    }
}

/* ---- a full disk ---- */

/* No file may grow beyond `bytes`: what a full disk does, at every place where it can. */
static void disk_of(rlim_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){bytes, RLIM_INFINITY});
}

Test(checkpoint, a_full_disk_leaves_the_old_model) {
    World w;
    world_open(&w, tiny_config(19));
    Model other;
    ModelConfig cfg = w.model.cfg;
    check_ok(model_init(&other, &w.ctx, &cfg, false, &err), &err);
    static const int64_t before[] = {0, 9000, 9000, 0}, after[] = {9000, 9000, 0, 0};
    for (int i = 0; i < 4; i++) {
        save(&w, F32, before[i]);
        int files = scratch_count(&w.scratch);
        SaveOptions options = {.dtype = F32, .shard_size = after[i]};
        /* ever larger disks, until it fits: each file is once the one that fails */
        int status = -1;
        for (rlim_t limit = 0; status; limit += 389) {
            disk_of(limit);
            status = checkpoint_write_weights(&other, w.scratch.directory, &options, &err);
            disk_of(RLIM_INFINITY);
            cr_assert(limit < 100000, "it never fits: %s", err.text);
            if (!status) break;
            cr_assert(strstr(err.text, w.scratch.directory), "case %d: %s", i, err.text);
            loads_as(&w, F32);
            cr_assert(scratch_count(&w.scratch) == files, "case %d: files were left", i);
        }
    }
}

/* ---- the map ---- */

Test(weights_map, every_number_once) {
    World w;
    world_open(&w, tiny_config(19));
    Tensor *weight;
    for (int i = 0; (weight = weights_at(&w.model.params, i)); i++) {
        int64_t next = 0;
        for (int j = 0; j < weight_parts(weight); j++) {
            WeightPart part = weight_part(weight, j);
            int64_t count = 1;
            for (int d = 0; d < part.ndim; d++) count *= part.shape[d];
            cr_assert(part.offset == next && part.count == count && part.ndim <= 2, "%s",
                      part.name);
            next += count;
        }
        cr_assert(next == tensor_count(weight), "%s", weight->name);
    }
}

Test(weights_map, names_are_hugging_face_s) {
    World w;
    world_open(&w, tiny_config(19));
    Params *params = &w.model.params;
    WeightPart part =
        weight_part(params_find(params, "model.layers.2.mlp.experts.up_proj.weight"), 4);
    cr_assert_str_eq(part.name, "model.layers.2.mlp.experts.4.up_proj.weight");
    check_all(part.ndim == 2, part.shape[0] == 9, part.shape[1] == 12, part.offset == 4 * 9 * 12);
    Tensor *shared = params_find(params, "model.layers.2.mlp.shared_experts.up_proj.weight");
    part = weight_part(shared, 0);
    check_all(weight_parts(shared) == 1, part.offset == 0, part.count == 9 * 12);
    cr_assert_str_eq(part.name, shared->name);
}

Test(weight_files, f16_is_read_exactly) {
    static const struct {
        uint16_t bits;
        float value;
    } cases[] = {{0x0000, 0},        {0x3c00, 1},          {0xc000, -2},
                 {0x7bff, 65504},    {0x0001, 0x1p-24f},   {0x83ff, -0x3ffp-24f},
                 {0x0400, 0x1p-14f}, {0x3555, 0x1.554p-2f}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert(f16_to_float(cases[i].bits) == cases[i].value, "%04x is %g", cases[i].bits,
                  f16_to_float(cases[i].bits));
    float infinite = f16_to_float(0x7c00), nan = f16_to_float(0x7e01);
    check_all(infinite > 3e38f, nan != nan);
}
