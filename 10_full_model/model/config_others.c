/*
 * The keys of config.json that this program does not know, from one file to another.
 *
 * Their values travel as text: what cJSON prints of a number is not always what it read (1.0
 * becomes 1, and a whole number above 2^53 another one). So each member of an object is laid beside
 * its place in the text; that text is JSON, as json_parse() has seen, which makes finding the end
 * of a value a matter of quotes and brackets.
 */
#include "10_full_model/model/config.h"

#include "common/files/files.h"
#include "common/files/json.h"
#include "common/text/text_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- values as they stand in the text ---- */

static const char *skip_blanks(const char *s) { return s + strspn(s, " \t\r\n"); }

static const char *skip_string(const char *s) { /* from its first quote on */
    for (s++; *s && *s != '"'; s++)
        if (*s == '\\' && s[1]) s++;
    return *s ? s + 1 : s;
}

static const char *skip_value(const char *s) {
    int depth = 0;
    for (; *s; s++) {
        if (*s == '"') s = skip_string(s) - 1;
        if (*s == '{' || *s == '[') depth++;
        if (depth == 0 && strchr(",}] \t\r\n", *s)) return s;
        if ((*s == '}' || *s == ']') && --depth == 0) return s + 1;
    }
    return s;
}

/* Every member of an object becomes a raw one: its text. */
static void make_raw(cJSON *object, const char *text) {
    const char *s = strchr(text, '{') + 1; /* behind a byte order mark, maybe */
    cJSON *item;
    cJSON_ArrayForEach(item, object) {
        s = skip_blanks(skip_string(skip_blanks(s))) + 1; /* the name, and the colon */
        const char *from = skip_blanks(s);
        s = skip_value(from);
        cJSON_Delete(item->child);
        cJSON_free(item->valuestring);
        item->child = NULL;
        item->type = cJSON_Raw;
        item->valuestring = cJSON_malloc((size_t)(s - from) + 1);
        if (!item->valuestring) fatal("out of memory");
        snprintf(item->valuestring, (size_t)(s - from) + 1, "%s", from);
        s = skip_blanks(s) + 1; /* the comma */
    }
    NameText twice;
    json_keep_last(object, &twice);
}

/* ---- which ---- */

/* Of these a file that is written here has the new spelling, or needs none. */
static bool is_replaced(const char *key) {
    static const char *const old[] = {"rope_scaling",      "rope_parameters",
                                      "rope_theta",        "original_max_position_embeddings",
                                      "num_local_experts", "num_experts",
                                      "num_mtp_layers",    "type",
                                      "torch_dtype",       "quantization_config"};
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (!strcmp(key, old[i])) return true;
    return false;
}

/* Writes ", NAME: VALUE" for each raw member that `own` lacks. */
static void write_others(FILE *out, const cJSON *object, const cJSON *own) {
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        if (is_replaced(item->string) || cJSON_GetObjectItemCaseSensitive(own, item->string))
            continue;
        cJSON *name = cJSON_CreateString(item->string);
        char *printed = name ? cJSON_PrintUnformatted(name) : NULL;
        if (!printed) fatal("out of memory");
        fprintf(out, ",\n\t%s:\t%s", printed, item->valuestring);
        cJSON_free(printed);
        cJSON_Delete(name);
    }
}

/* A raw member that is an object with something in it, as an object of raw members; or NULL. */
static cJSON *raw_object(const cJSON *from, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(from, key);
    cJSON *object = item ? cJSON_Parse(item->valuestring) : NULL;
    if (cJSON_IsObject(object) && object->child) {
        make_raw(object, item->valuestring);
        return object;
    }
    cJSON_Delete(object);
    return NULL;
}

/* ---- the two files ---- */

typedef struct Text {
    char *text;
    cJSON *json;
} Text;

static int text_load(Text *t, const char *directory, Error *err) {
    MappedFile file;
    PathText path = file_path(directory, "config.json");
    *t = (Text){0};
    if (file_map(&file, path.text, err)) return -1;
    t->json = json_parse(path.text, file.data, file.size, err);
    if (t->json) {
        size_t mark = text_mark(file.data, file.size), size = file.size - mark;
        t->text = must_alloc(size + 1, 1);
        memcpy(t->text, file.data + mark, size);
    }
    file_unmap(&file);
    if (!t->json) return -1;
    if (!cJSON_IsObject(t->json)) return error_set(err, "%s holds no object", path.text);
    return 0;
}

static void text_free(Text *t) {
    free(t->text);
    cJSON_Delete(t->json);
}

/* Of several tokens that end a text the config knows the first: here the list takes its place. */
static void keep_ends(const cJSON *from, Text *own) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(from, "eos_token_id");
    const char *key = strstr(own->text, "\"eos_token_id\":");
    if (!item || *item->valuestring != '[' || !key) return;
    const char *value = skip_blanks(key + strlen("\"eos_token_id\":"));
    size_t size = strlen(own->text) + strlen(item->valuestring) + 1;
    char *text = must_alloc(size, 1);
    snprintf(text, size, "%.*s%s%s", (int)(value - own->text), own->text, item->valuestring,
             skip_value(value));
    free(own->text);
    own->text = text;
}

/* Our file up to the end of its rope_parameters, others of those, the rest, others, the end. */
static void merge(FILE *out, const Text *from, Text *own) {
    make_raw(from->json, from->text);
    keep_ends(from->json, own);
    cJSON *rope = raw_object(from->json, "rope_scaling");
    if (!rope) rope = raw_object(from->json, "rope_parameters");
    const cJSON *own_rope = cJSON_GetObjectItemCaseSensitive(own->json, "rope_parameters");
    const char *at = strchr(strstr(own->text, "\"rope_parameters\""), '{');
    const char *rope_end = skip_value(at) - 1, *end = strrchr(own->text, '}');
    fprintf(out, "%.*s", (int)(rope_end - own->text), own->text);
    write_others(out, rope, own_rope);
    fprintf(out, "%.*s", (int)(end - rope_end), rope_end);
    write_others(out, from->json, own->json);
    fprintf(out, "}\n");
    cJSON_Delete(rope);
}

int config_keep_others(const char *from_directory, const char *directory, Error *err) {
    Text from = {0}, own = {0};
    AtomicFile file;
    PathText path = file_path(directory, "config.json");
    int status = text_load(&from, from_directory, err) || text_load(&own, directory, err) ||
                         atomic_open(&file, path.text, err)
                     ? -1
                     : 0;
    if (!status) {
        merge(file.stream, &from, &own);
        status = atomic_commit(&file, err);
    }
    text_free(&from);
    text_free(&own);
    return status;
}
