/*
 * The table of rewards, and each of them. They are strict where it matters: text behind the answer
 * is no answer, and a number that is used twice, or none, is a wrong countdown. What a reward lets
 * pass, a policy finds.
 */
#include "09_grpo/rewards/rewards.h"

#include "09_grpo/rewards/expression.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const Reward rewards[] = {
    {"accuracy", reward_accuracy, "the whole answer is right"},
    {"digits", reward_digits, "the share of characters in their place"},
    {"countdown", reward_countdown, "uses each of the numbers once and makes the target"},
    {"format", reward_format, "looks like an answer"},
    {"length", reward_length, "below 0 when it gets too long"},
    {0},
};

/* ---- lists of them ---- */

const Reward *reward_find(const char *name, Error *err) {
    char names[256] = "";
    for (const Reward *r = rewards; r->name; r++) {
        if (strcmp(r->name, name) == 0) return r;
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", r->name);
    }
    error_set(err, "there is no reward \"%s\"; there are %s", name, names);
    return NULL;
}

int rewards_parse(WeightedReward *list, const char *text, Error *err) {
    int count = 0;
    for (const char *at = text;; at++) {
        char word[64], *end;
        size_t length = strcspn(at, ",");
        if (length == 0 || length >= sizeof word)
            return error_set(err, "rewards \"%s\": give names, or NAME=WEIGHT, and commas between",
                             text);
        if (count == REWARDS_MAX)
            return error_set(err, "rewards \"%s\": at most %d", text, REWARDS_MAX);
        snprintf(word, sizeof word, "%.*s", (int)length, at);
        float weight = 1;
        char *equals = strchr(word, '=');
        if (equals) {
            *equals = 0;
            weight = strtof(equals + 1, &end);
            if (end == equals + 1 || *end || !isfinite(weight))
                return error_set(err, "the weight of reward \"%s\" is \"%s\", which is no number",
                                 word, equals + 1);
        }
        list[count].reward = reward_find(word, err);
        if (!list[count].reward) return -1;
        list[count++].weight = weight;
        at += length;
        if (!*at) return count;
    }
}

float rewards_total(const WeightedReward *list, int count, const Answer *answer, float *each) {
    float total = NAN;
    for (int i = 0; i < count; i++) {
        each[i] = list[i].reward->function(answer);
        if (isnan(each[i])) continue;
        total = (isnan(total) ? 0 : total) + list[i].weight * each[i];
    }
    return total;
}

/* ---- the rewards ---- */

/* [reward_accuracy] */
float reward_accuracy(const Answer *a) {
    if (!a->expected) return NAN;
    return a->ended && strcmp(a->text, a->expected) == 0;
}
/* [/reward_accuracy] */

float reward_digits(const Answer *a) {
    if (!a->expected) return NAN;
    size_t length = strlen(a->expected), right = 0;
    if (!a->ended || strlen(a->text) != length) return 0;
    for (size_t i = 0; i < length; i++) right += a->text[i] == a->expected[i];
    return length ? (float)right / (float)length : 1;
}

float reward_countdown(const Answer *a) {
    Countdown game;
    if (countdown_read(&game, a->prompt)) return NAN;
    return a->ended && countdown_solved(&game, a->text);
}

static int kind(char c) {
    return isdigit((unsigned char)c) ? 1 : isalpha((unsigned char)c) ? 2 : 3;
}

float reward_format(const Answer *a) {
    if (!a->expected) return NAN;
    size_t length = strlen(a->expected);
    if (!a->ended || strlen(a->text) != length) return 0;
    for (size_t i = 0; i < length; i++)
        if (kind(a->text[i]) != kind(a->expected[i])) return 0;
    return 1;
}

float reward_length(const Answer *a) {
    float free_tokens = 0.8f * (float)a->max_tokens, over = (float)a->tokens - free_tokens;
    if (!a->ended) return -1;
    return over <= 0 ? 0 : -over / ((float)a->max_tokens - free_tokens);
}
