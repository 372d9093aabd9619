/*
 * An answer is packed as words of four bytes: how long its parts are, then the parts.
 */
#include "09_grpo/rollout/share.h"

#include "common/core/memory.h"

#include <stdlib.h>
#include <string.h>

/* Words of an answer's parts, in the order in which they are packed. */
enum { PROMPT, TOKENS, ENDED, SUPPORT, EXPERTS, HEAD };

typedef struct Packed {
    int32_t *words;
    size_t count, capacity;
} Packed;

static void put(Packed *p, const void *from, size_t words) {
    p->words = grow(p->words, &p->capacity, p->count + words, sizeof *p->words);
    if (from)
        memcpy(p->words + p->count, from, words * sizeof *p->words);
    else
        memset(p->words + p->count, 0, words * sizeof *p->words);
    p->count += words;
}

static void pack(Packed *p, const Completion *c, int choices) {
    const Sequence *s = &c->sequence;
    int32_t head[HEAD] = {s->prompt_tokens, s->tokens, c->ended};
    size_t places = (size_t)(s->prompt_tokens + s->tokens - 1) * (size_t)choices;
    head[SUPPORT] = c->support ? c->support->starts[s->tokens] : -1;
    head[EXPERTS] = c->experts ? (int32_t)(places + 1) / 2 : -1; /* two to a word */
    put(p, head, HEAD);
    put(p, s->ids, (size_t)(s->prompt_tokens + s->tokens));
    put(p, c->logprobs, (size_t)s->tokens);
    if (c->support) {
        put(p, c->support->starts, (size_t)s->tokens + 1);
        put(p, c->support->ids, (size_t)head[SUPPORT]);
    }
    if (!c->experts) return;
    put(p, NULL, (size_t)head[EXPERTS]);
    memcpy(p->words + p->count - head[EXPERTS], c->experts, places * sizeof *c->experts);
}

/* Points into the words; returns those behind it. */
static int32_t *unpack(int32_t *words, Completion *c, ActionSupport *support) {
    const int32_t *head = words;
    int tokens = head[TOKENS], length = head[PROMPT] + tokens;
    *c = (Completion){
        .sequence = {.ids = words + HEAD, .prompt_tokens = head[PROMPT], .tokens = tokens},
        .logprobs = (const float *)(words + HEAD + length),
        .ended = head[ENDED]};
    words += HEAD + length + tokens;
    if (head[SUPPORT] >= 0) {
        *support = (ActionSupport){.starts = words, .ids = words + tokens + 1};
        c->support = support;
        words += tokens + 1 + head[SUPPORT];
    }
    if (head[EXPERTS] < 0) return words;
    c->experts = (const int16_t *)words;
    return words + head[EXPERTS];
}

SharedAnswers share_answers(Comm *comm, const Rollouts *r) {
    int ranks = comm_size(comm), mine = r->cfg.prompts * r->cfg.group;
    SharedAnswers s = {.list = must_alloc((size_t)(ranks * mine), sizeof *s.list)};
    Packed packed = {0};
    for (int i = 0; i < mine; i++) {
        s.list[i] = rollouts_completion(r, i);
        if (ranks > 1) pack(&packed, &s.list[i], rollouts_choices(r->decoder));
    }
    if (ranks == 1) return s;
    size_t *counts = must_alloc((size_t)ranks, sizeof *counts), most = 0;
    comm_gather_host(comm, counts, &packed.count, sizeof packed.count);
    for (int k = 0; k < ranks; k++) most = counts[k] > most ? counts[k] : most;
    put(&packed, NULL, most - packed.count);
    int32_t *all = must_alloc((size_t)ranks * most, sizeof *all);
    comm_gather_host(comm, all, packed.words, most * sizeof *all);
    s.memory = all;
    s.supports = must_alloc((size_t)(ranks * mine), sizeof *s.supports);
    for (int k = 0; k < ranks; k++) {
        int32_t *at = all + (size_t)k * most;
        for (int i = k * mine; i < (k + 1) * mine; i++) at = unpack(at, &s.list[i], &s.supports[i]);
    }
    free(counts), free(packed.words);
    return s;
}

void share_free(SharedAnswers *s) {
    free(s->list), free(s->supports), free(s->memory);
    *s = (SharedAnswers){0};
}

void share_numbers(Comm *comm, float **numbers, const int32_t *order, int count, int width) {
    int ranks = comm_size(comm), part = count / ranks, first = comm_rank(comm) * part;
    if (ranks == 1) return;
    size_t line = (size_t)width * sizeof(float);
    float *mine = must_alloc((size_t)part * (size_t)width, sizeof *mine);
    float *all = must_alloc((size_t)count * (size_t)width, sizeof *all);
    for (int i = 0; i < part; i++) memcpy(mine + i * width, numbers[order[first + i]], line);
    comm_gather_host(comm, all, mine, (size_t)part * line);
    for (int i = 0; i < count; i++) memcpy(numbers[order[i]], all + i * width, line);
    free(mine), free(all);
}

void share_sums(Comm *comm, double *sums, int count) {
    int ranks = comm_size(comm);
    if (ranks == 1) return;
    double *all = must_alloc((size_t)(ranks * count), sizeof *all);
    comm_gather_host(comm, all, sums, (size_t)count * sizeof *sums);
    for (int i = 0; i < count; i++) {
        sums[i] = 0;
        for (int r = 0; r < ranks; r++) sums[i] += all[r * count + i];
    }
    free(all);
}
