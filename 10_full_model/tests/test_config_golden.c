/*
 * config.json against transformers: every key absent, null, in each spelling and with odd values.
 *
 * Each case of goldens/configs.json is an edit of a folder there, and says what transformers made
 * of it (tools/goldens/10_configs.py): the settings, the positions' numbers, the logits that the
 * folder's weights give under it, or that it stops. We must do the same, but where the case says
 * otherwise: those are what we read although transformers refuses it, and what we refuse, with a
 * part of the message.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/model/config_table.h"
#include "10_full_model/tests/test_world.h"
#include "common/files/files.h"
#include "common/files/json.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct Case {
    const cJSON *json, *base; /* the case, and the one without an edit */
    const char *type, *folder, *name;
    Scratch scratch;
} Case;

static const cJSON *get(const cJSON *json, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(json, key);
}

/* "rope_parameters.factor" is a key of an object. */
static cJSON *object_of(cJSON *json, const char *path, const char **key) {
    const char *dot = strchr(path, '.');
    *key = dot ? dot + 1 : path;
    if (!dot) return json;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(dot - path), path);
    return cJSON_GetObjectItemCaseSensitive(json, name);
}

/* The folder's files under the case's config.json. */
static void make_folder(Case *c) {
    Error err;
    char path[400], found[400], text[6000];
    snprintf(path, sizeof path, "10_full_model/goldens/%s", c->folder);
    check_ok(project_path(found, sizeof found, path, &err), &err);
    cJSON *json = json_load(file_path(found, "config.json").text, &err);
    const cJSON *item;
    const char *key;
    cJSON_ArrayForEach(item, get(c->json, "drop")) {
        cJSON *object = object_of(json, item->valuestring, &key);
        cJSON_DeleteItemFromObjectCaseSensitive(object, key);
    }
    cJSON_ArrayForEach(item, get(c->json, "set")) {
        cJSON *object = object_of(json, item->string, &key);
        cJSON_DeleteItemFromObjectCaseSensitive(object, key);
        cJSON_AddItemToObject(object, key, cJSON_Duplicate(item, true));
    }
    char *printed = cJSON_PrintUnformatted(json);
    printed[strlen(printed) - 1] = 0;
    const cJSON *raw = get(c->json, "raw");
    snprintf(text, sizeof text, "%s%s%s}", printed, raw ? ", " : "", raw ? raw->valuestring : "");
    scratch_write(&c->scratch, "config.json", text, strlen(text));
    cJSON_free(printed);
    cJSON_Delete(json);
    static const char *const files[] = {
        "model.safetensors", "model.safetensors.index.json", "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        PathText link = file_path(c->scratch.directory, files[i]);
        PathText target = file_path(found, files[i]);
        char whole[PATH_MAX];
        unlink(link.text);
        if (realpath(target.text, whole)) cr_assert(symlink(whole, link.text) == 0);
    }
}

/* What transformers holds under a key of ours: a number, whatever it is there. */
static double value_of(const ConfigKey *key, const cJSON *item) {
    if (cJSON_IsArray(item)) item = item->child; /* ids that end a text: the first */
    if (cJSON_IsNull(item)) return key->null == CONFIG_REQUIRED ? 0 : key->null;
    if (cJSON_IsBool(item)) return cJSON_IsTrue(item);
    for (int i = 0; cJSON_IsString(item) && key->names[i]; i++)
        if (!strcmp(key->names[i], item->valuestring)) return i;
    return item->valuedouble;
}

static int same_values(const Case *c, const ModelConfig *cfg, char *why) {
    const ConfigKey *key;
    for (int i = 0; (key = config_key(i)); i++) {
        const cJSON *item = get(get(c->json, "values"), key->key);
        if (!item) item = get(get(c->base, "values"), key->key);
        if (!item || !config_key_applies(key, cfg)) continue;
        double right = value_of(key, item), ours = config_key_get(key, cfg);
        if (key->size == sizeof(float)) right = (float)right;
        if (ours != right) return sprintf(why, "%s is %g, not %g", key->key, ours, right);
    }
    return 0;
}

/* Both are formulas in F32 there and in double here. */
static int same_positions(const Case *c, const ModelConfig *cfg, char *why) {
    const cJSON *right = get(c->json, "rope");
    if (!right) right = get(c->base, "rope");
    RopeConfig rope = config_rope(cfg);
    double f[128] = {0};
    int half = rope.dim / 2;
    if (cJSON_GetArraySize(right) != half + 2) return sprintf(why, "%d frequencies", half);
    rope_frequencies(&rope, f);
    f[half] = rope_attention_factor(&rope), f[half + 1] = rope_softmax_factor(&rope);
    for (int i = 0; i < half + 2; i++) {
        double theirs = cJSON_GetArrayItem(right, i)->valuedouble;
        if (!(fabs(f[i] - theirs) <= 1e-6 * fabs(theirs)))
            return sprintf(why, "number %d of the positions is %g, not %g", i, f[i], theirs);
    }
    return 0;
}

/* 1e-5 of numbers about 1: transformers' and ours are F32, of some thirty operations each. */
static int same_logits(const Case *c, Model *model, char *why) {
    const cJSON *right = get(c->json, "logits");
    if (!right) right = get(c->base, "logits");
    char path[200];
    snprintf(path, sizeof path, "10_full_model/goldens/%s/expected.safetensors", c->folder);
    const Tensor *ids = safetensors_find(golden_open(path), "input_ids");
    int tokens = (int)ids->shape[1], vocab = model->cfg.vocab_size;
    Tensor *input = tensor_copy_in(model->ctx, "ids", I32, ids->data, SHAPE(1, tokens));
    const float *logits = test_values(model->ctx, model_forward(model, input, NULL));
    logits += (tokens - 1) * vocab;
    for (int i = 0; i < 4; i++) {
        double theirs = cJSON_GetArrayItem(right, i)->valuedouble;
        if (!(fabs(logits[i] - theirs) <= 1e-5 * (1 + fabs(theirs))))
            return sprintf(why, "logit %d is %g, not %g", i, (double)logits[i], theirs);
    }
    return 0;
}

/* 0, or what is not as it should be. */
static int compare(Case *c, char *why) {
    const cJSON *ours = get(c->json, "ours"), *refused = get(c->json, "refused");
    bool reads = ours && !strcmp(ours->valuestring, "reads it");
    bool runs = strcmp(c->type, "deepseek_v32") != 0;
    ModelConfig cfg;
    Model model = {0};
    Context ctx = test_context(CPU, F32);
    Error err = {0};
    make_folder(c);
    int status = config_load(&cfg, c->scratch.directory, &err), wrong = 0;
    if (!status && runs && !(get(c->json, "values") && refused))
        status = checkpoint_load_model(&model, &ctx, c->scratch.directory, &cfg, LOAD_TO_RUN, &err);
    else if (!status && runs)
        status = same_values(c, &cfg, why) ||
                 checkpoint_load_model(&model, &ctx, c->scratch.directory, &cfg, LOAD_TO_RUN, &err);
    if (ours && !reads)
        wrong = !status || !strstr(err.text, ours->valuestring);
    else if (refused && !reads)
        wrong = !status;
    else
        wrong = status != 0;
    if (wrong)
        sprintf(why, "%s %.300s", status ? "refused:" : "accepted", status ? err.text : "");
    else if (!status && !refused)
        wrong = same_values(c, &cfg, why) || same_positions(c, &cfg, why) ||
                (runs && same_logits(c, &model, why));
    model_free(&model);
    context_reset(&ctx);
    context_free(&ctx);
    return wrong;
}

static void check_type(const char *type) {
    Error err;
    char path[400], why[600];
    check_ok(project_path(path, sizeof path, "10_full_model/goldens/configs.json", &err), &err);
    cJSON *all = json_load(path, &err);
    cr_assert(all, "%s", err.text);
    Case c = {.type = type, .scratch = scratch_open()};
    check_ok(make_directories(c.scratch.directory, &err), &err);
    int count = 0;
    cJSON_ArrayForEach(c.json, all) {
        if (strcmp(get(c.json, "type")->valuestring, type)) continue;
        if (count++ == 0) c.base = c.json;
        c.folder = get(c.base, "base")->valuestring;
        c.name = get(c.json, "name")->valuestring;
        cr_expect(!compare(&c, why), "%s, %s: %s", type, c.name, why);
    }
    cr_assert(count > 50, "%d cases", count);
    cJSON_Delete(all);
}

Test(config_golden, deepseek_v3) { check_type("deepseek_v3"); }
Test(config_golden, deepseek_v2) { check_type("deepseek_v2"); }
Test(config_golden, deepseek_v32) { check_type("deepseek_v32"); }
