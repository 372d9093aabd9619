/*
 * A file is read whole, line by line, and its questions are sorted: those whose prompts have the
 * smallest hashes are held out, as many as asked for, and all that share the last one's prompt.
 */
#include "10_full_model/data/questions.h"

#include "10_full_model/data/documents.h"
#include "10_full_model/data/hash128.h"

#include "common/core/memory.h"
#include "common/core/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELD_OUT_SEED = 0, MEASURED = 2000 }; /* a task's held-out questions are always the same */

/* ---- one question ---- */

static Question encode(const Questions *q, const char *prompt, const char *answer) {
    size_t before, behind = 0;
    int32_t *ids = tokenizer_encode(q->tokenizer, prompt, strlen(prompt), &before), *more = NULL;
    if (answer) more = tokenizer_encode(q->tokenizer, answer, strlen(answer), &behind);
    bool begins = before == 0 && q->begin >= 0;
    ids = must_realloc(ids, before + behind + 2, sizeof *ids);
    if (begins) ids[before++] = q->begin;
    if (answer) memcpy(ids + before, more, behind * sizeof *ids);
    if (answer) ids[before + behind++] = q->end;
    free(more);
    return (Question){must_strdup(prompt), answer ? must_strdup(answer) : NULL, ids, (int)before,
                      (int)behind};
}

void question_free(Question *question) {
    free(question->prompt), free(question->answer), free(question->ids);
    *question = (Question){0};
}

Question question_at(const Questions *q, bool held_out, uint64_t seed, uint64_t index) {
    if (q->task.task) {
        Problem p;
        TaskConfig task = q->task;
        task.seed = held_out ? HELD_OUT_SEED : seed;
        task_problem(&task, held_out, index, &p);
        return encode(q, p.prompt, p.answer);
    }
    uint64_t n = (uint64_t)(held_out ? q->count - q->train : q->train), at = index % n;
    at = held_out ? (uint64_t)q->train + at : shards_shuffled(seed, index / n, at, n);
    Question copy = q->list[at];
    size_t bytes = (size_t)(copy.prompt_tokens + copy.tokens) * sizeof *copy.ids;
    copy.ids = memcpy(must_alloc(bytes, 1), copy.ids, bytes);
    copy.prompt = must_strdup(copy.prompt);
    if (copy.answer) copy.answer = must_strdup(copy.answer);
    return copy;
}

static void measure(Questions *q, const Question *one) {
    int all = one->prompt_tokens + one->tokens;
    if (one->prompt_tokens > q->longest_prompt) q->longest_prompt = one->prompt_tokens;
    if (one->tokens > q->longest_answer) q->longest_answer = one->tokens;
    if (all > q->longest) q->longest = all;
}

/* ---- a file ---- */

typedef struct Reading {
    Questions *q;
    const QuestionOptions *options;
    Hash128 *keys; /* of prompts */
    size_t capacity, key_capacity;
} Reading;

/* Keeps it, or says that it is left out. */
static int take(Reading *r, const DocumentReader *reader, const Piece *piece, Question *question,
                Error *err) {
    Questions *q = r->q;
    const QuestionOptions *o = r->options;
    const char *path = reader->paths[piece->file];
    long long line = (long long)piece->line;
    int all = question->prompt_tokens + question->tokens;
    if (question->prompt_tokens == 0) {
        question_free(question);
        return error_set(err,
                         "%s:%lld: the prompt is empty, and this model has no token that begins a "
                         "text",
                         path, line);
    }
    if (question->prompt_tokens > o->most_prompt || all > o->most) {
        enum { NAMED = 3 };
        bool prompt = question->prompt_tokens > o->most_prompt;
        if (q->left_out++ < NAMED)
            fprintf(stderr, "%s:%lld: left out: %d tokens%s, and there is room for %d\n", path,
                    line, prompt ? question->prompt_tokens : all, prompt ? " in the prompt" : "",
                    prompt ? o->most_prompt : o->most);
        question_free(question);
        return 0;
    }
    size_t n = (size_t)q->count + 1;
    q->list = grow(q->list, &r->capacity, n, sizeof *q->list);
    r->keys = grow(r->keys, &r->key_capacity, n, sizeof *r->keys);
    r->keys[q->count] = hash128(question->prompt, strlen(question->prompt), 0);
    q->list[q->count++] = *question;
    q->tokens += question->tokens;
    measure(q, question);
    return 0;
}

static int read_lines(Reading *r, DocumentReader *reader, Error *err) {
    Piece piece;
    int more;
    while ((more = documents_next(reader, &piece, err)) == 1) {
        cJSON *owner;
        DocumentField fields[] = {{.name = "prompt"},
                                  {.name = r->options->field, .may_miss = r->options->may_miss}};
        if (document_fields(reader, &piece, fields, 2, &owner, err)) return -1;
        r->q->replaced += fields[0].replaced + fields[1].replaced;
        Question question = encode(r->q, fields[0].text, fields[1].text);
        cJSON_Delete(owner);
        if (take(r, reader, &piece, &question, err)) return -1;
    }
    return more;
}

typedef struct Keyed {
    Hash128 key;
    int place;
} Keyed;

static int by_key(const void *a, const void *b) {
    const Keyed *x = a, *y = b;
    int order = memcmp(&x->key, &y->key, sizeof x->key);
    return order ? order : (x->place > y->place) - (x->place < y->place);
}

/* The questions to learn from come first, each part as it stood in the file. */
static void hold_out(Questions *q, const Hash128 *keys, double share) {
    int n = q->count, wanted = (int)(share * n + 0.5), held = 0;
    Keyed *sorted = must_alloc((size_t)n, sizeof *sorted);
    bool *is_held = must_alloc((size_t)n, sizeof *is_held);
    for (int i = 0; i < n; i++) sorted[i] = (Keyed){keys[i], i};
    qsort(sorted, (size_t)n, sizeof *sorted, by_key);
    if (wanted < 1) wanted = 1;
    while (held < n &&
           (held < wanted || !memcmp(&sorted[held].key, &sorted[held - 1].key, sizeof sorted->key)))
        is_held[sorted[held++].place] = true;
    Question *list = must_alloc((size_t)n, sizeof *list);
    for (int i = 0, learn = 0, judge = n - held; i < n; i++)
        list[is_held[i] ? judge++ : learn++] = q->list[i];
    free(q->list), free(sorted), free(is_held);
    q->list = list, q->train = n - held;
}

static int open_file(Questions *q, const QuestionOptions *o, Error *err) {
    DocumentReader reader;
    DocumentOptions how = documents_defaults();
    how.format = FORMAT_JSONL;
    if (documents_open(&reader, &o->from, 1, &how, err)) return -1;
    Reading r = {.q = q, .options = o};
    int status = read_lines(&r, &reader, err);
    if (!status && q->count == 0)
        status = q->left_out
                     ? error_set(err, "%s: all of its %d lines are too long", o->from, q->left_out)
                     : error_set(err, "%s: there is no line in it", o->from);
    if (!status) hold_out(q, r.keys, o->held_out);
    if (!status && q->train == 0)
        status = error_set(err,
                           "%s: of %d lines all would be held out, for a part must be, and lines "
                           "with the same prompt stay together; there must be more",
                           o->from, q->count);
    if (!status && q->left_out)
        fprintf(stderr, "%s: %d of %d lines are left out, for they are too long\n", o->from,
                q->left_out, q->left_out + q->count);
    if (!status && q->replaced)
        fprintf(stderr, "%s: %zu characters that were none are U+FFFD now\n", o->from, q->replaced);
    free(r.keys);
    documents_close(&reader);
    return status;
}

/* ---- a task ---- */

static int open_task(Questions *q, const QuestionOptions *o, Error *err) {
    q->task = (TaskConfig){task_find(o->from, err), o->digits, o->reversed, 0};
    if (!q->task.task || task_check(&q->task, err)) return -1;
    int shortest = INT32_MAX;
    for (int i = 0; i < MEASURED; i++) {
        Question one = question_at(q, i % 2, 1, (uint64_t)i);
        int all = one.prompt_tokens + one.tokens;
        measure(q, &one);
        if (all < shortest) shortest = all;
        question_free(&one);
    }
    if (shortest != q->longest) { /* what was seen is not all there is */
        q->longest_prompt += q->longest_prompt / 4, q->longest_answer += q->longest_answer / 4;
        q->longest = q->longest_prompt + q->longest_answer;
    }
    if (q->longest_prompt > o->most_prompt || q->longest > o->most)
        return error_set(err,
                         "%s of %d: prompts of up to %d tokens, with their answers %d; there is "
                         "room for %d and %d",
                         o->from, o->digits, q->longest_prompt, q->longest, o->most_prompt,
                         o->most);
    return 0;
}

int questions_open(Questions *q, const Tokenizer *tokenizer, int32_t begin,
                   const QuestionOptions *o, Error *err) {
    *q = (Questions){.tokenizer = tokenizer, .begin = begin, .end = tokenizer_eot(tokenizer)};
    if (q->end < 0)
        return error_set(err, "the model has no token that ends a text (eos_token_id): its answers "
                              "would never end");
    if (!(o->file ? open_file(q, o, err) : open_task(q, o, err))) return 0;
    questions_close(q);
    return -1;
}

void questions_close(Questions *q) {
    for (int i = 0; i < q->count; i++) question_free(&q->list[i]);
    free(q->list);
    *q = (Questions){0};
}

/* ---- windows ---- */

static void write_window(const Questions *q, Question *question, int length, int32_t *inputs,
                         int32_t *targets) {
    int all = question->prompt_tokens + question->tokens;
    CHECK(all <= length + 1, "a question of %d tokens in a window of %d", all, length);
    for (int t = 0; t < length; t++) {
        inputs[t] = t < all - 1 ? question->ids[t] : q->end;
        bool answer = t >= question->prompt_tokens - 1 && t < all - 1;
        targets[t] = answer ? question->ids[t + 1] : IGNORE_TARGET;
    }
    question_free(question);
}

static void batch_of_questions(void *self, uint64_t seed, uint64_t first, int batch, int length,
                               int32_t *inputs, int32_t *targets) {
    for (int b = 0; b < batch; b++) {
        Question question = question_at(self, false, seed, first + (uint64_t)b);
        write_window(self, &question, length, inputs + (size_t)b * (size_t)length,
                     targets + (size_t)b * (size_t)length);
    }
}

static void validation_of_questions(void *self, int i, int count, int length, int32_t *inputs,
                                    int32_t *targets) {
    const Questions *q = self;
    int held = q->count - q->train;
    uint64_t index = q->task.task ? (uint64_t)i : (uint64_t)((double)i * held / count);
    Question question = question_at(q, true, 0, index);
    write_window(q, &question, length, inputs, targets);
}

TokenSource source_of_questions(Questions *q) {
    return (TokenSource){.batch = batch_of_questions,
                         .validation = validation_of_questions,
                         .self = q,
                         .train_tokens = q->tokens};
}
