/*
 * Lines are found by documents.h, which maps the files and counts. A line's JSON object is kept,
 * and items point into it; only a last word is cut off a copy.
 */
#include "10_full_model/evaluate/tasks.h"

#include "10_full_model/data/documents.h"
#include "common/core/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- fields ---- */

/* A text, or `missing` if there is no such field; NULL and a message if it is something else. */
static const char *text_of(const cJSON *json, const char *name, const char *missing, Error *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);
    if (!item && missing) return missing;
    if (cJSON_IsString(item)) return item->valuestring;
    error_set(err, item ? "the field \"%s\" is not a string" : "there is no field \"%s\"", name);
    return NULL;
}

static int read_pair(TaskItem *item, const cJSON *json, Error *err) {
    item->count = 2;
    item->choices = must_alloc(2, sizeof *item->choices);
    if (!(item->choices[0] = text_of(json, "good", NULL, err)) ||
        !(item->choices[1] = text_of(json, "bad", NULL, err)))
        return -1;
    return 0;
}

static int read_choices(TaskItem *item, const cJSON *json, Error *err) {
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(json, "choices"), *choice;
    int64_t answer;
    if (!(item->context = text_of(json, "context", "", err))) return -1;
    if (!cJSON_IsArray(choices)) return error_set(err, "\"choices\" is not a list of texts");
    int size = cJSON_GetArraySize(choices);
    if (size < 2)
        return error_set(err, "\"choices\" has %d text%s; it takes 2 at least", size,
                         size == 1 ? "" : "s");
    item->choices = must_alloc((size_t)size, sizeof *item->choices);
    cJSON_ArrayForEach(choice, choices) {
        if (!cJSON_IsString(choice))
            return error_set(err, "choice %d is not a string", item->count);
        item->choices[item->count++] = choice->valuestring;
    }
    const cJSON *given = cJSON_GetObjectItemCaseSensitive(json, "answer");
    if (!given) return error_set(err, "there is no field \"answer\"");
    if (!json_integer(given, 0, size - 1, &answer))
        return error_set(err, "\"answer\" must be the number of a choice, 0 to %d", size - 1);
    item->answer = (int)answer;
    return 0;
}

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* The text up to its last word, and that word. */
static int read_word(TaskItem *item, const cJSON *json, Error *err) {
    const char *text = text_of(json, "text", NULL, err);
    if (!text) return -1;
    size_t end = strlen(text), word, rest;
    while (end && is_blank(text[end - 1])) end--;
    for (word = end; word && !is_blank(text[word - 1]);) word--;
    for (rest = word; rest && is_blank(text[rest - 1]);) rest--;
    if (!rest || word == end)
        return error_set(err, "\"text\" has fewer than two words, so there is none to be guessed");
    item->split = must_strdup(text);
    item->split[rest] = item->split[end] = 0;
    item->context = item->split;
    item->choices = must_alloc(1, sizeof *item->choices);
    item->choices[item->count++] = item->split + word;
    return 0;
}

/* ---- lines ---- */

static void free_item(TaskItem *item) {
    cJSON_Delete(item->owner);
    free(item->choices);
    free(item->split);
    *item = (TaskItem){0};
}

/* The task of this name, field and kind; a new one if there is none yet. Items of a task stand
 * together as a rule, so the last ones are looked at first. */
static int task_number(TaskSet *set, TaskKind kind, const char *name, const char *field) {
    for (int i = set->task_count; i-- > 0;) {
        const TaskGroup *task = &set->tasks[i];
        if (task->kind == kind && !strcmp(task->name, name) && !strcmp(task->field, field))
            return i;
    }
    set->tasks =
        grow(set->tasks, &set->tasks_capacity, (size_t)set->task_count + 1, sizeof *set->tasks);
    set->tasks[set->task_count] = (TaskGroup){kind, must_strdup(name), must_strdup(field)};
    return set->task_count++;
}

/* FILE of PATH/FILE.jsonl */
static void file_name(const char *path, char *name, size_t size) {
    const char *slash = strrchr(path, '/');
    snprintf(name, size, "%s", slash ? slash + 1 : path);
    char *dot = strrchr(name, '.');
    if (dot && dot != name) *dot = 0;
}

/* An item of the object item->owner. */
static int read_item(TaskSet *set, TaskItem *item, Error *err) {
    const cJSON *json = item->owner;
    char own[256];
    file_name(item->path, own, sizeof own);
    const char *twice = cJSON_IsObject(json) ? json_duplicate(json) : NULL;
    if (!cJSON_IsObject(json)) return error_set(err, "the line is JSON, but not an object");
    if (twice) return error_set(err, "the field \"%s\" is there twice", name_text(twice).text);
    const char *name = text_of(json, "task", own, err), *field = text_of(json, "field", "", err);
    if (!name || !field) return -1;
    item->context = "";
    TaskKind kind;
    int status;
    if (cJSON_GetObjectItemCaseSensitive(json, "good") ||
        cJSON_GetObjectItemCaseSensitive(json, "bad"))
        kind = TASK_PAIRS, status = read_pair(item, json, err);
    else if (cJSON_GetObjectItemCaseSensitive(json, "choices"))
        kind = TASK_CHOICES, status = read_choices(item, json, err);
    else if (cJSON_GetObjectItemCaseSensitive(json, "text"))
        kind = TASK_WORDS, status = read_word(item, json, err);
    else
        return error_set(err, "there is neither \"good\" and \"bad\", nor \"choices\", nor "
                              "\"text\"");
    if (status) return -1;
    for (int i = 0; i < item->count; i++)
        if (!*item->choices[i])
            return error_set(err, "%s is empty",
                             kind == TASK_CHOICES ? "a choice"
                             : i                  ? "\"bad\""
                                                  : "\"good\"");
    item->task = task_number(set, kind, name, field);
    return 0;
}

/* One line; what it holds is freed where it is no item. */
static int read_line(TaskSet *set, const DocumentReader *reader, const Piece *piece, Error *err) {
    Error why;
    TaskItem item = {.path = reader->paths[piece->file], .line = piece->line};
    size_t bytes = piece->bytes; /* without the line's end: no error is found behind it */
    while (bytes && is_blank(piece->text[bytes - 1])) bytes--;
    item.owner = json_parse("the line", piece->text, bytes, &why);
    if (item.owner && !read_item(set, &item, &why)) {
        set->items = grow(set->items, &set->capacity, set->count + 1, sizeof *set->items);
        set->items[set->count++] = item;
        return 0;
    }
    char *line =
        strstr(why.text, " at line 1, byte "); /* of this line, and of the file it is not */
    if (!item.owner && line) memmove(line + 3, line + 11, strlen(line + 11) + 1);
    error_set(err, "%s:%lld: %s", item.path, (long long)item.line, why.text);
    free_item(&item);
    return -1;
}

int tasks_read(TaskSet *set, const char *const *paths, int path_count, bool skip_bad, Error *err) {
    DocumentOptions options = documents_defaults();
    DocumentReader reader;
    *set = (TaskSet){0};
    options.format = FORMAT_JSONL;
    if (documents_open(&reader, paths, path_count, &options, err)) return -1;
    Piece piece;
    Error why;
    int more, status = 0;
    while (!status && (more = documents_next(&reader, &piece, err)) != 0) {
        if (more < 0) {
            status = -1;
        } else if (read_line(set, &reader, &piece, &why)) {
            if (!skip_bad)
                status = error_set(err, "%s. --bad-lines skip leaves such lines out", why.text);
            if (!set->bad_lines++)
                snprintf(set->first_bad_line, sizeof set->first_bad_line, "%s", why.text);
        }
    }
    documents_close(&reader);
    if (!status && !set->count)
        status = error_set(err, "%s: there is no item in it%s%s", paths[0],
                           set->bad_lines ? "; the first bad line is " : "", set->first_bad_line);
    if (status) tasks_free(set);
    return status;
}

void tasks_free(TaskSet *set) {
    for (size_t i = 0; i < set->count; i++) free_item(&set->items[i]);
    for (int i = 0; i < set->task_count; i++) free(set->tasks[i].name), free(set->tasks[i].field);
    free(set->items);
    free(set->tasks);
    *set = (TaskSet){0};
}
