/*
 * cJSON, and around it what it lets pass: invalid UTF-8, control characters, zero characters in
 * names, and objects with the same name twice. Those are looked for in the bytes before it sees
 * them, so that an error can name line and byte.
 */
#include "common/files/json.h"

#include "common/core/memory.h"
#include "common/core/utf8.h"
#include "common/files/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what cJSON lets pass ---- */

/* NULL, or what is wrong with the text at *where. */
static const char *check_characters(const char *text, size_t size, size_t *where) {
    for (size_t i = 0; i < size;) {
        const unsigned char *s = (const unsigned char *)text + i;
        *where = i;
        int length = utf8_character(text + i, size - i);
        if (length < 0) return "invalid UTF-8";
        if (*s < 0x20 && *s != '\n' && *s != '\r' && *s != '\t') return "a control character";
        if (*s == '\\' && size - i >= 6 && memcmp(s, "\\u0000", 6) == 0)
            return "a zero character, which no name may hold";
        i += *s == '\\' && size - i >= 2 && s[1] < 0x80
                 ? 2
                 : (size_t)length; /* "\\u0000" is harmless */
    }
    return NULL;
}

/* ---- parsing ---- */

static void error_at(const char *what, const char *text, size_t where, const char *problem,
                     Error *err) {
    size_t line = 1, line_start = 0;
    for (size_t i = 0; i < where; i++)
        if (text[i] == '\n') line++, line_start = i + 1;
    error_set(err, "%s: %s at line %zu, byte %zu", what, problem, line, where - line_start + 1);
}

cJSON *json_parse(const char *what, const char *text, size_t size, Error *err) {
    size_t where = 0;
    if (size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) text += 3, size -= 3; /* a BOM */
    const char *problem = check_characters(text, size, &where);
    if (problem) {
        error_at(what, text, where, problem, err);
        return NULL;
    }
    /* A terminated copy: cJSON has read past the end of texts without a final zero. */
    char *copy = must_alloc(size + 1, 1);
    memcpy(copy, text, size);
    copy[size] = 0;
    const char *end = copy;
    cJSON *json = cJSON_ParseWithOpts(copy, &end, 1);
    if (!json) error_at(what, text, (size_t)(end - copy), "not JSON", err);
    free(copy);
    return json;
}

cJSON *json_load(const char *path, Error *err) {
    MappedFile file;
    if (file_map(&file, path, err) < 0) return NULL;
    cJSON *json = json_parse(path, file.data, file.size, err);
    file_unmap(&file);
    return json;
}

int json_save(const char *path, const cJSON *json, Error *err) {
    AtomicFile file;
    if (atomic_open(&file, path, err) < 0) return -1;
    char *text = cJSON_Print(json);
    if (!text) {
        atomic_abandon(&file);
        return error_set(err, "cannot write %s: not enough memory", path);
    }
    fputs(text, file.stream);
    fputc('\n', file.stream);
    cJSON_free(text);
    return atomic_commit(&file, err);
}

/* ---- values ---- */

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char *json_duplicate(const cJSON *object) {
    size_t count = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, object) count++;
    if (count < 2) return NULL;
    const char **names = must_alloc(count, sizeof *names);
    count = 0;
    cJSON_ArrayForEach(item, object) names[count++] = item->string;
    qsort(names, count, sizeof *names, compare_names);
    const char *found = NULL;
    for (size_t i = 1; i < count && !found; i++)
        if (strcmp(names[i - 1], names[i]) == 0) found = names[i];
    free(names);
    return found;
}

typedef struct Named {
    cJSON *item;
    size_t place;
} Named;

/* By name, and among equals by place. */
static int compare_items(const void *a, const void *b) {
    const Named *x = a, *y = b;
    int order = strcmp(x->item->string, y->item->string);
    return order ? order : (x->place > y->place) - (x->place < y->place);
}

bool json_keep_last(cJSON *json, NameText *name) {
    bool found = false;
    size_t count = 0;
    cJSON *item;
    cJSON_ArrayForEach(item, json) {
        count++;
        if (item->child && json_keep_last(item, name)) found = true;
    }
    if (count < 2 || !cJSON_IsObject(json)) return found;
    Named *items = must_alloc(count, sizeof *items);
    count = 0;
    cJSON_ArrayForEach(item, json) items[count] = (Named){item, count}, count++;
    qsort(items, count, sizeof *items, compare_items);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(items[i - 1].item->string, items[i].item->string)) continue;
        *name = name_text(items[i].item->string);
        cJSON_Delete(cJSON_DetachItemViaPointer(json, items[i - 1].item));
        found = true;
    }
    free(items);
    return found;
}

bool json_integer(const cJSON *item, int64_t low, int64_t high, int64_t *value) {
    const double limit = 0x1p53; /* from here on a double does not tell neighbours apart */
    if (!cJSON_IsNumber(item)) return false;
    double x = item->valuedouble;
    if (!(x > -limit && x < limit) || x != (double)(int64_t)x) return false;
    if ((int64_t)x < low || (int64_t)x > high) return false;
    *value = (int64_t)x;
    return true;
}

NameText name_text(const char *name) {
    NameText shown;
    size_t n = 0;
    while (*name && n < 80) {
        int length = utf8_character(name, strnlen(name, 4));
        bool is_shown =
            length > 0 && !utf8_is_control(name, length) && *name != '\n' && *name != '\t';
        if (length < 0) length = 1;
        if (n + (size_t)length > 80) break;
        if (is_shown) memcpy(shown.text + n, name, (size_t)length);
        if (!is_shown) shown.text[n] = '?';
        n += is_shown ? (size_t)length : 1;
        name += length;
    }
    strcpy(shown.text + n, *name ? "..." : "");
    return shown;
}
