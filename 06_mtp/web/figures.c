/*
 * Figures of chapter 06 for the book: what guessing brings, by draft length; and drafts that are
 * kept or refused, after which the tokens are the model's all the same.
 */
#include "06_mtp/speculate/verify.h"
#include "common/program/web.h"

#include <math.h>
#include <string.h>

enum { MOST_DRAFTS = 12, TOKENS = 10 };

/* a (of the first draft), fade (each next one's a is this times the one before), row (what one more
 * row adds to a step), draft (what a draft costs) -> for k = 0 .. 12 drafts: tokens a step, cost of
 * the look, speed-up. */
WEB(speed) {
    double a[MOST_DRAFTS], tokens[MOST_DRAFTS + 1], look[MOST_DRAFTS + 1], speedup[MOST_DRAFTS + 1];
    double fade = web_number("fade", 0.5, 1), row = web_number("row", 0, 1);
    double draft = web_number("draft", 0, 1);
    a[0] = web_number("a", 0, 1);
    for (int j = 1; j < MOST_DRAFTS; j++) a[j] = a[j - 1] * fade;
    for (int k = 0; k <= MOST_DRAFTS; k++) {
        tokens[k] = speculate_tokens(a, k);
        look[k] = 1 + k * row;
        speedup[k] = speculate_speedup(a, k, look[k], draft);
    }
    web_doubles("a", a, MOST_DRAFTS);
    web_doubles("tokens", tokens, MOST_DRAFTS + 1);
    web_doubles("look", look, MOST_DRAFTS + 1);
    web_doubles("speedup", speedup, MOST_DRAFTS + 1);
}

static void distribution(float *p, float sharp, float apart) {
    double sum = 0;
    for (int i = 0; i < TOKENS; i++) {
        float z = rng_normal(3, 1, (uint64_t)i) + apart * rng_normal(3, 2, (uint64_t)i);
        sum += p[i] = expf(sharp * z);
    }
    for (int i = 0; i < TOKENS; i++) p[i] = (float)(p[i] / sum);
}

static int32_t draw(const float *p, float u) {
    int32_t i = 0;
    for (double below = p[0]; i < TOKENS - 1 && u >= below; below += p[i]) i++;
    return i;
}

/* apart (how far the drafter is from the model), sharp, count -> p, q, acceptance as computed, kept
 * as counted, and how often each token came, of those kept and of all. */
WEB(verify) {
    float p[TOKENS], q[TOKENS], rest[TOKENS], came[TOKENS] = {0}, as_draft[TOKENS] = {0};
    float sharp = (float)web_number("sharp", 0.2, 4), apart = (float)web_number("apart", 0, 3);
    int count = web_int("count", 1, 100000), kept = 0;
    distribution(p, sharp, 0);
    distribution(q, sharp, apart);
    for (int i = 0; i < count; i++) {
        int32_t d = draw(q, rng_uniform(4, 0, (uint64_t)i));
        bool stays = verify_accepts(p, q, d, rng_uniform(4, 1, (uint64_t)i));
        memcpy(rest, p, sizeof rest);
        int32_t token =
            stays ? d : verify_replace(rest, p, q, d, TOKENS, rng_uniform(4, 2, (uint64_t)i));
        kept += stays;
        as_draft[token] += stays / (float)count;
        came[token] += 1 / (float)count;
    }
    web_floats("p", p, TOKENS);
    web_floats("q", q, TOKENS);
    web_floats("came", came, TOKENS);
    web_floats("as_draft", as_draft, TOKENS);
    web_value("acceptance", verify_acceptance(p, q, TOKENS));
    web_value("kept", kept / (double)count);
}
