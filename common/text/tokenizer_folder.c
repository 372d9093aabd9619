/*
 * Files are kept as bytes and looked into when something is asked of them. Only where the end of a
 * text has been set anew (shards that end their documents with another token) are the keys that
 * name it changed on the way out.
 */
#include "common/text/tokenizer_folder.h"

#include "common/files/files.h"
#include "common/files/json.h"
#include "common/text/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOKENIZER_FILE  "tokenizer.json"
#define CONFIG_FILE     "tokenizer_config.json"
#define GENERATION_FILE "generation_config.json"

const char *const tokenizer_folder_files[] = {TOKENIZER_FILE,
                                              CONFIG_FILE,
                                              GENERATION_FILE,
                                              "special_tokens_map.json",
                                              "added_tokens.json",
                                              "chat_template.json",
                                              "chat_template.jinja",
                                              "vocab.json",
                                              "merges.txt",
                                              "tokenizer.model",
                                              NULL};

/* ---- keeping ---- */

static int keep_file(Tokenizer *tokenizer, const char *directory, const char *name, Error *err) {
    PathText path = file_path(directory, name);
    MappedFile file;
    if (access(path.text, F_OK)) return 0;
    if (file_map(&file, path.text, err)) return -1;
    tokenizer->kept =
        must_realloc(tokenizer->kept, (size_t)tokenizer->kept_count + 1, sizeof *tokenizer->kept);
    KeptFile *kept = &tokenizer->kept[tokenizer->kept_count++];
    *kept = (KeptFile){.name = name, .bytes = must_alloc(file.size + 1, 1), .size = file.size};
    if (file.size) memcpy(kept->bytes, file.data, file.size);
    file_unmap(&file);
    return 0;
}

static int keep_all(Tokenizer *tokenizer, const char *directory, Error *err) {
    for (int i = 0; tokenizer_folder_files[i]; i++)
        if (keep_file(tokenizer, directory, tokenizer_folder_files[i], err)) return -1;
    return 0;
}

static const KeptFile *kept_file(const Tokenizer *tokenizer, const char *name) {
    for (int i = 0; i < tokenizer->kept_count; i++)
        if (!strcmp(tokenizer->kept[i].name, name)) return &tokenizer->kept[i];
    return NULL;
}

/* NULL: it is not there. What is there is JSON, as find_ends() has seen. */
static cJSON *kept_json(const Tokenizer *tokenizer, const char *name) {
    const KeptFile *file = kept_file(tokenizer, name);
    return file ? json_parse(name, file->bytes, file->size, NULL) : NULL;
}

/* ---- where a text begins and ends ---- */

static const cJSON *member(const cJSON *object, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

/* The ids that `json` has under this key, one or a list: how many; 0 for none; -1 and a message for
 * what is no id. */
static int ids_of(const cJSON *json, const char *file, const char *key, int *ids, Error *err) {
    const cJSON *item = member(json, key), *one = item;
    int count = 0;
    if (!item || cJSON_IsNull(item)) return 0;
    if (cJSON_IsArray(item)) one = item->child;
    for (; one; one = cJSON_IsArray(item) ? one->next : NULL) {
        int64_t id;
        if (!json_integer(one, 0, INT32_MAX, &id) || count == MAX_ENDS)
            return error_set(err, "%s: %s is neither a token's id nor a list of up to %d", file,
                             key, MAX_ENDS);
        ids[count++] = (int)id;
    }
    return count;
}

/* The token that tokenizer_config.json names by its text, alone or with settings. */
static int id_of_name(const Tokenizer *tokenizer, const cJSON *item) {
    const char *text = cJSON_GetStringValue(cJSON_IsObject(item) ? member(item, "content") : item);
    for (size_t i = 0; text && i < tokenizer->added_count; i++)
        if (!strcmp(tokenizer->added[i].text, text)) return tokenizer->added[i].id;
    return -1;
}

/* What the three files say. */
typedef struct Sources {
    cJSON *generation, *config, *names;
} Sources;

static int read_source(cJSON **json, const Tokenizer *tokenizer, const char *directory,
                       const char *name, Error *err) {
    const KeptFile *file = kept_file(tokenizer, name);
    PathText path = file_path(directory, name);
    *json = file ? json_parse(path.text, file->bytes, file->size, err) : NULL;
    return file && !*json ? -1 : 0;
}

static int choose_ends(Tokenizer *tokenizer, const Sources *s, const char *directory, Error *err) {
    int ends[MAX_ENDS], begin[MAX_ENDS];
    PathText file = file_path(directory, GENERATION_FILE);
    int end_count = ids_of(s->generation, file.text, "eos_token_id", ends, err);
    int begin_count = ids_of(s->generation, file.text, "bos_token_id", begin, err);
    if (end_count < 0 || begin_count < 0) return -1;
    int tokens = tokenizer_vocab_size(tokenizer);
    for (int i = 0; i < end_count; i++)
        if (ends[i] >= tokens)
            return error_set(err, "%s: eos_token_id is %d, but there are only %d tokens", file.text,
                             ends[i], tokens);
    /* What is wrong with config.json is for who reads all of it to say. */
    if (!end_count) end_count = ids_of(s->config, "config.json", "eos_token_id", ends, NULL);
    if (!begin_count) begin_count = ids_of(s->config, "config.json", "bos_token_id", begin, NULL);
    int end = id_of_name(tokenizer, member(s->names, "eos_token"));
    if (end_count <= 0 && end >= 0) ends[0] = end, end_count = 1;
    if (end_count > 0) tokenizer->end_count = 0;
    for (int i = end_count - 1; i >= 0; i--) tokenizer_add_end(tokenizer, ends[i]);
    tokenizer->bos =
        begin_count > 0 ? begin[0] : id_of_name(tokenizer, member(s->names, "bos_token"));
    tokenizer->ends_changed = false;
    return 0;
}

static int find_ends(Tokenizer *tokenizer, const char *directory, Error *err) {
    Sources s = {.config = json_load(file_path(directory, "config.json").text, NULL)};
    int status = read_source(&s.generation, tokenizer, directory, GENERATION_FILE, err);
    if (!status) status = read_source(&s.names, tokenizer, directory, CONFIG_FILE, err);
    if (!status) status = choose_ends(tokenizer, &s, directory, err);
    cJSON_Delete(s.generation);
    cJSON_Delete(s.config);
    cJSON_Delete(s.names);
    return status;
}

Tokenizer *tokenizer_load_folder(const char *directory, Error *err) {
    Tokenizer *tokenizer = tokenizer_load(file_path(directory, TOKENIZER_FILE).text, err);
    if (!tokenizer) return NULL;
    if (keep_all(tokenizer, directory, err) == 0 && find_ends(tokenizer, directory, err) == 0)
        return tokenizer;
    tokenizer_free(tokenizer);
    return NULL;
}

Tokenizer *tokenizer_keep_folder(const char *directory, Error *err) {
    Tokenizer *tokenizer = tokenizer_new();
    if (keep_all(tokenizer, directory, err) == 0) return tokenizer;
    tokenizer_free(tokenizer);
    return NULL;
}

/* ---- saving ---- */

static void set_item(cJSON *object, const char *key, cJSON *item) {
    cJSON_DeleteItemFromObjectCaseSensitive(object, key);
    cJSON_AddItemToObject(object, key, item);
}

static void name_ends(const Tokenizer *tokenizer, cJSON *generation) {
    const int *ends = tokenizer->ends;
    int count = tokenizer->end_count;
    if (count)
        set_item(generation, "eos_token_id",
                 count > 1 ? cJSON_CreateIntArray(ends, count) : cJSON_CreateNumber(ends[0]));
}

static cJSON *new_generation_config(const Tokenizer *tokenizer, int bos) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddBoolToObject(json, "_from_model_config", 1);
    if (bos >= 0) cJSON_AddNumberToObject(json, "bos_token_id", bos);
    name_ends(tokenizer, json);
    return json;
}

static cJSON *new_tokenizer_config(int model_max_length) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "tokenizer_class", "PreTrainedTokenizerFast");
    cJSON_AddNumberToObject(json, "model_max_length", model_max_length);
    cJSON_AddBoolToObject(json, "clean_up_tokenization_spaces", 0); /* decode what was encoded */
    return json;
}

static int save_bytes(const char *directory, const KeptFile *file, Error *err) {
    AtomicFile out;
    if (atomic_open(&out, file_path(directory, file->name).text, err)) return -1;
    fwrite(file->bytes, 1, file->size, out.stream);
    return atomic_commit(&out, err);
}

static int save_json(const char *directory, const char *name, cJSON *json, Error *err) {
    int status = json_save(file_path(directory, name).text, json, err);
    cJSON_Delete(json);
    return status;
}

int tokenizer_save_folder(const Tokenizer *tokenizer, const char *directory, int bos,
                          int model_max_length, Error *err) {
    for (int i = 0; i < tokenizer->kept_count; i++)
        if (save_bytes(directory, &tokenizer->kept[i], err)) return -1;
    if (tokenizer->vocab_size == 0) return 0; /* there is no more */
    if (!kept_file(tokenizer, TOKENIZER_FILE) &&
        tokenizer_save(tokenizer, file_path(directory, TOKENIZER_FILE).text, err))
        return -1;
    cJSON *generation = kept_json(tokenizer, GENERATION_FILE);
    cJSON *config = kept_json(tokenizer, CONFIG_FILE);
    bool new_generation = !kept_file(tokenizer, GENERATION_FILE),
         new_config = !kept_file(tokenizer, CONFIG_FILE), changed = tokenizer->ends_changed;
    if (new_generation) generation = new_generation_config(tokenizer, bos);
    if (new_config) config = new_tokenizer_config(model_max_length);
    if (changed && generation) name_ends(tokenizer, generation);
    if (config && tokenizer_eot(tokenizer) >= 0 && (changed || new_config)) {
        size_t bytes;
        const char *name = tokenizer_token(tokenizer, tokenizer_eot(tokenizer), &bytes);
        set_item(config, "eos_token", cJSON_CreateString(name));
    }
    int status = 0;
    if (generation && (new_generation || changed))
        status = save_json(directory, GENERATION_FILE, generation, err), generation = NULL;
    if (!status && config && (new_config || changed))
        status = save_json(directory, CONFIG_FILE, config, err), config = NULL;
    cJSON_Delete(generation);
    cJSON_Delete(config);
    return status;
}

/* ---- sampling ---- */

/* A missing key, and null, leave the value. */
static int read_number(const cJSON *json, const char *key, double low, double high, float *value,
                       Error *err) {
    const cJSON *item = member(json, key);
    if (!item || cJSON_IsNull(item)) return 0;
    if (!cJSON_IsNumber(item) || item->valuedouble < low || item->valuedouble > high)
        return error_set(err, GENERATION_FILE ": %s is not a number between %g and %g", key, low,
                         high);
    *value = (float)item->valuedouble;
    return 0;
}

static int read_top_k(const cJSON *json, int *value, Error *err) {
    const cJSON *item = member(json, "top_k");
    int64_t k;
    if (!item || cJSON_IsNull(item)) return 0;
    if (!json_integer(item, 0, 1 << 24, &k))
        return error_set(err, GENERATION_FILE ": top_k is not a whole number from 0 on");
    *value = (int)k;
    return 0;
}

/* Sampling that is switched off is a temperature of 0, whatever else is said. */
static int read_do_sample(const cJSON *json, float *temperature, Error *err) {
    const cJSON *item = member(json, "do_sample");
    if (item && !cJSON_IsNull(item) && !cJSON_IsBool(item))
        return error_set(err, GENERATION_FILE ": do_sample is neither true nor false");
    if (cJSON_IsFalse(item)) *temperature = 0;
    return 0;
}

int tokenizer_sampling(const Tokenizer *tokenizer, Sampling *s, Error *err) {
    cJSON *json = kept_json(tokenizer, GENERATION_FILE);
    bool wrong = read_number(json, "temperature", 0, 100, &s->temperature, err) ||
                 read_number(json, "top_p", 0, 1, &s->top_p, err) ||
                 read_number(json, "min_p", 0, 1, &s->min_p, err) ||
                 read_number(json, "repetition_penalty", 0.01, 100, &s->repetition_penalty, err) ||
                 read_top_k(json, &s->top_k, err) || read_do_sample(json, &s->temperature, err);
    cJSON_Delete(json);
    return wrong ? -1 : 0;
}
