/*
 * Whether a passage has a word in it is a reward that any text can have, and one that shows what
 * rewards are: what is paid for is what one gets. The word is one that the text has now and then,
 * so that some of several passages have it and some have not.
 */
#include "10_full_model/demo_rewards.h"

#include "09_grpo/grpo.h"
#include "09_grpo/reference.h"
#include "common/core/utf8.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 8, ANSWER = 16, GROUPS = 8, GROUP = 8, MOST_STEPS = 40, HELD_OUT = 64, SHOWN = 3 };
enum { WORD = 24, WORDS = 4096 };

/* ---- the word ---- */

typedef struct Count {
    char word[WORD];
    int passages; /* that have it */
    int last;     /* the last one that was counted */
} Count;

static Count *find(Count *counts, int *used, const char *word, size_t length) {
    uint32_t at = 2166136261u;
    for (size_t i = 0; i < length; i++) at = (at ^ (unsigned char)word[i]) * 16777619u;
    for (at %= WORDS;; at = (at + 1) % WORDS) {
        Count *c = &counts[at];
        if (!c->word[0] && *used < WORDS / 2) {
            snprintf(c->word, sizeof c->word, "%.*s", (int)length, word);
            c->last = -1, ++*used;
        }
        if (!c->word[0]) return NULL; /* the table is full */
        if (strlen(c->word) == length && !memcmp(c->word, word, length)) return c;
    }
}

/* A word of four letters or more that about every tenth passage of the text has. */
static void choose_word(char word[WORD], const Corpus *corpus, const Tokenizer *tokenizer) {
    enum { PASSAGES = 4000 };
    Count *counts = must_alloc(WORDS, sizeof *counts);
    int used = 0, passages = 0;
    for (; passages < PASSAGES && (size_t)(passages + 1) * ANSWER <= corpus->train_count;
         passages++) {
        size_t bytes, length;
        char *text = tokenizer_decode(tokenizer, corpus->ids + passages * ANSWER, ANSWER, &bytes);
        for (size_t i = 0; i < bytes; i += length ? length : 1) {
            length = 0;
            while (i + length < bytes && isalpha((unsigned char)text[i + length])) length++;
            if (length < 4 || length >= WORD) continue;
            Count *c = find(counts, &used, text + i, length);
            if (c && c->last != passages) c->passages++, c->last = passages;
        }
        free(text);
    }
    double best = INFINITY;
    strcpy(word, "e");
    for (int i = 0; i < WORDS; i++) {
        double share = (double)counts[i].passages / passages;
        double off = share > 0 ? fabs(log(share / 0.1)) : INFINITY;
        if (off < best) best = off, strcpy(word, counts[i].word);
    }
    free(counts);
}

static float says_it(const Answer *a) { return strstr(a->text, a->expected) != NULL; }

static const Reward says = {"says", says_it, "the text has a word in it"};

/* ---- questions: the beginnings of passages ---- */

typedef struct Passages {
    const Corpus *corpus;
    const Tokenizer *tokenizer;
    const char *word;
    uint64_t seed;
    bool held_out;
} Passages;

static int begin_passage(void *self, uint64_t index, GrpoPrompt *prompt, Error *err) {
    (void)err;
    const Passages *p = self;
    int32_t targets[PROMPT];
    *prompt = (GrpoPrompt){must_alloc(PROMPT, sizeof(int32_t)), PROMPT, NULL, must_strdup(p->word)};
    if (p->held_out)
        corpus_validation(p->corpus, (int)index, HELD_OUT, PROMPT, prompt->ids, targets);
    else
        corpus_batch(p->corpus, p->seed, index, 1, PROMPT, prompt->ids, targets);
    size_t bytes;
    prompt->text = tokenizer_decode(p->tokenizer, prompt->ids, PROMPT, &bytes);
    return 0;
}

static char *text_of_passage(void *self, const int32_t *ids, int count) {
    size_t bytes;
    return tokenizer_decode(((Passages *)self)->tokenizer, ids, (size_t)count, &bytes);
}

static GrpoSource source_of(Passages *p) { return (GrpoSource){p, begin_passage, text_of_passage}; }

/* ---- learning ---- */

/* One line: a prompt and what follows, as much as fits. */
static void show(const GrpoSample *s) {
    enum { ROOM = 72 };
    char text[400];
    snprintf(text, sizeof text, "%s|%s", s->prompt, s->text);
    for (char *c = text; *c; c++)
        if (*c == '\n' || *c == '\t' || *c == '\r') *c = ' ';
    char *safe = terminal_text(text, strlen(text));
    int bytes = 0, seen = 0;
    for (; safe[bytes] && seen <= ROOM; bytes++)
        seen += ((unsigned char)safe[bytes] & 0xC0) != 0x80;
    printf("   %.*s\n", bytes - (seen > ROOM), safe);
    free(safe);
}

typedef struct Lesson {
    Grpo grpo;
    Rollouts judge;
    Passages train, held_out;
    AdamW adamw;
    GrpoConfig cfg;
    int steps;
} Lesson;

static int open_lesson(Lesson *l, Model *m, Error *err) {
    GrpoConfig *c = &l->cfg;
    *c = grpo_defaults();
    c->rollout = (RolloutConfig){.prompts = GROUPS,
                                 .group = GROUP,
                                 .max_prompt = PROMPT,
                                 .max_completion_length = ANSWER,
                                 .end = tokenizer_eot(l->train.tokenizer)};
    c->rewards[0] = (WeightedReward){&says, 1}, c->reward_count = 1;
    c->sampling.seed = m->ctx->rng.seed;
    l->adamw = adamw_defaults();
    l->adamw.weight_decay = 0;
    RolloutConfig once = c->rollout;
    once.prompts = HELD_OUT, once.group = 1;
    return grpo_check(c, err) ||
                   grpo_init(&l->grpo, m->ctx, &m->decoder, NULL, model_position(m), &m->params,
                             &l->adamw, c, source_of(&l->train), err) ||
                   rollouts_init(&l->judge, m->ctx, &m->decoder, model_position(m), &once, err)
               ? -1
               : 0;
}

/* The share of held-out beginnings whose drawn continuation has the word. */
static int share(Lesson *l, double *found, Error *err) {
    GrpoScore score;
    const GrpoSource source = source_of(&l->held_out);
    if (grpo_score(&l->judge, &source, l->cfg.rewards, 1, 0, HELD_OUT, &l->cfg.sampling, &score,
                   err))
        return -1;
    *found = score.pass_1;
    return 0;
}

static int learn(Lesson *l, Error *err) {
    const Schedule schedule = {l->steps, l->steps / 8, l->steps / 2, 3e-4f, 3e-5f};
    double steps[MOST_STEPS], rewards[MOST_STEPS], started = seconds_now(), before, after;
    int64_t tokens = 0;
    if (share(l, &before, err)) return -1;
    for (int i = 0; i < l->steps; i++) {
        GrpoReport r;
        if (grpo_step(&l->grpo, schedule_rate(&schedule, i), &r, err)) return -1;
        steps[i] = i + 1, rewards[i] = r.reward, tokens += r.num_tokens;
    }
    double seconds = seconds_now() - started;
    if (share(l, &after, err)) return -1;
    text_line_chart("   mean reward of a step's passages", steps, rewards, l->steps, 6, 0);
    printf(
        "   of %d held-out beginnings %.0f %% said it before, %.0f %% now (%.0f s, %.0f tokens/s\n"
        "   drawn and learned from). The last answers:\n",
        HELD_OUT, 100 * before, 100 * after, seconds, (double)tokens / seconds);
    GrpoSample s;
    for (int i = 0; i < SHOWN && grpo_sample(&l->grpo, i * GROUP, &s) == 0; i++) show(&s);
    return 0;
}

int demo_rewards(int section, Model *model, const Corpus *corpus, const Tokenizer *tokenizer,
                 const TrainOptions *train, Error *err) {
    char word[WORD];
    Model copy;
    ModelConfig cfg = model->cfg;
    int windows = train->eval_batches * train->batch_size, length = train->context_length;
    const TokenSource source = source_of_corpus((Corpus *)corpus);
    if (length < PROMPT || cfg.max_position_embeddings < PROMPT + ANSWER) return 0;
    choose_word(word, corpus, tokenizer);
    printf("%d. Rewards (chapter 09): %d passages a step, each of which earns 1 if it says\n"
           "   \"%s\", else 0. Nobody shows it how; GRPO makes likelier what earned more.\n",
           section, GROUPS * GROUP, word);
    fflush(stdout);
    if (model_init(&copy, model->ctx, &cfg, true, err)) return -1;
    reference_mix(&copy.params, &model->params, 1);
    Lesson *l = must_alloc(1, sizeof *l); /* rollouts may not move */
    l->train = (Passages){corpus, tokenizer, word, model->ctx->rng.seed, false};
    l->held_out = l->train, l->held_out.held_out = true;
    l->steps = train->schedule.steps < MOST_STEPS ? (int)train->schedule.steps : MOST_STEPS;
    int status = open_lesson(l, &copy, err);
    if (!status) status = learn(l, err);
    if (!status)
        printf("   What is paid for is what one gets: its loss on held-out text was %.3f and is\n"
               "   %.3f now. (A KL to the model of before would hold it: --beta.)\n\n",
               train_validation_loss(model, &source, windows, train->batch_size, length),
               train_validation_loss(&copy, &source, windows, train->batch_size, length));
    rollouts_free(&l->judge);
    if (l->grpo.batch) grpo_free(&l->grpo);
    free(l);
    model_free(&copy);
    return status;
}
