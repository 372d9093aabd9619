/*
 * Questions with answers: what `deepseek sft` shows a model, and `deepseek grpo` asks it.
 *
 * They come from a file of JSON lines, {"prompt": "...", "completion": "..."}, or are made without
 * end by one of chapter 09's tasks. Prompt and answer are encoded each by itself, as a prompt is
 * when a model is asked; behind the answer comes the token that ends a text. An empty prompt
 * becomes the token that begins one.
 *
 * A part is held out, never to be learned from. Which one is a property of the prompt (a hash of
 * its text), so the same prompt is never in both. What to learn from comes in an order that is
 * shuffled anew each time it has been gone through. All is a function of seed and index: there is
 * no state.
 */
#ifndef QUESTIONS_H
#define QUESTIONS_H

#include "10_full_model/data/token_source.h"

#include "09_grpo/rewards/tasks.h"

typedef struct Question {
    char *prompt, *answer;     /* text; answer NULL: none is known */
    int32_t *ids;              /* [prompt_tokens + tokens] */
    int prompt_tokens, tokens; /* tokens: of the answer, and the end; without an answer 0 */
} Question;

typedef struct QuestionOptions {
    const char *from;  /* a task's name, or the path of a file */
    bool file;         /* it is a file, whatever its name */
    const char *field; /* of the file, for the answer: "completion" */
    bool may_miss;     /* answers may */
    int digits;        /* of a task's numbers; as is `reversed`, tasks.h */
    bool reversed;
    double held_out;       /* share of a file's prompts */
    int most_prompt, most; /* tokens in a prompt, and in all; longer ones are left out, and named */
} QuestionOptions;

typedef struct Questions {
    const Tokenizer *tokenizer;
    int32_t begin, end; /* tokens */
    TaskConfig task;    /* task.task NULL: a file's are in list */
    Question *list;     /* [count]; the first `train` to learn from, the rest held out */
    int count, train;
    /* tokens (the end's among them); of a task: with a reserve where they vary */
    int longest_prompt, longest_answer, longest;
    int64_t tokens;  /* of a file's answers, with their ends */
    int left_out;    /* too long */
    size_t replaced; /* bytes that were no characters */
} Questions;

/* begin: the token that an empty prompt becomes, -1: none. -1 and a message: FILE:LINE: what is
 * wrong; no such task; no token that ends a text; nothing left to learn from, or to judge by. */
int questions_open(Questions *q, const Tokenizer *tokenizer, int32_t begin,
                   const QuestionOptions *options, Error *err);
void questions_close(Questions *q); /* zeros: fine */

/* Question `index` of a part, any number, to be freed. */
Question question_at(const Questions *q, bool held_out, uint64_t seed, uint64_t index);
void question_free(Question *question);

/* For training: a window is a question and its answer, whose tokens alone are targets; padded on
 * the right. Windows must have q->longest - 1 tokens or more. q must outlive the source. */
TokenSource source_of_questions(Questions *q);

#endif
