/*
 * Tasks: JSON lines that each ask a model one question. By its fields a line is
 *
 *     {"good": ..., "bad": ...}                       a pair: which text is likelier? (BLiMP)
 *     {"context": ..., "choices": [...], "answer": 2} multiple choice, answers counted from 0
 *     {"text": ...}                                   the last word of a text (LAMBADA)
 *
 * and beside them "task" and "field", both optional: items of one name and field are one task, and
 * tasks of one field are averaged. A line without "task" belongs to the task of its file's name.
 * Other fields are passed over.
 *
 * As in lm-eval, what a choice is judged by is its text behind the context and one space (none
 * where the context is empty, or ends in a space itself).
 */
#ifndef EVALUATE_TASKS_H
#define EVALUATE_TASKS_H

#include "common/core/error.h"
#include "common/files/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum TaskKind { TASK_PAIRS, TASK_CHOICES, TASK_WORDS, TASK_KINDS } TaskKind;

typedef struct TaskItem {
    int task; /* number in the set's tasks */
    const char *path;
    int64_t line;
    const char *context;  /* "": none */
    const char **choices; /* [count]: good and bad; the choices; the last word alone. None is "" */
    int count, answer;    /* of a pair and of a word: 0 */
    cJSON *owner;         /* of all texts but the path */
    char *split;          /* of a last word: its context and itself; else NULL */
} TaskItem;

typedef struct TaskGroup {
    TaskKind kind;
    char *name, *field; /* field "": none */
} TaskGroup;

typedef struct TaskSet {
    TaskItem *items;
    TaskGroup *tasks; /* in the order of their first items */
    size_t count, capacity, tasks_capacity;
    int task_count;
    int64_t bad_lines; /* left out, and the first of them */
    char first_bad_line[256];
} TaskSet;

/*
 * Reads all files, whose paths must outlive the set. -1 and FILE:LINE: what is wrong, for the first
 * line that is no item: nothing is measured then. With skip_bad such lines are left out and
 * counted. No item at all is an error.
 */
int tasks_read(TaskSet *set, const char *const *paths, int path_count, bool skip_bad, Error *err);
void tasks_free(TaskSet *set); /* all zeros: fine */

#endif
