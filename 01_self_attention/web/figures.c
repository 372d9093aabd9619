/*
 * Figures of chapter 01 for the book (common/program/web.h): who looks at whom in the reader's own
 * words, and how sharp a softmax is with and without the scale.
 *
 * Every different word has a random vector, which is its query, its key and its value, as in part 5
 * of the demo; the same seed gives the same numbers there.
 */
#include "01_self_attention/attention.h"
#include "01_self_attention/sharpness.h"
#include "common/program/web.h"

#include <string.h>

enum { MAX_WORDS = 16, MAX_TEXT = 400, MAX_DIM = 1024 };

/* text in `words` pieces; same_as[i] is the first place where word i stands. */
static int split(char *text, char **word, int *same_as) {
    int count = 0;
    for (char *w = strtok(text, " \t"); w && count < MAX_WORDS; w = strtok(NULL, " \t")) {
        word[count] = w;
        same_as[count] = 0;
        while (strcmp(word[same_as[count]], w)) same_as[count]++;
        count++;
    }
    return count;
}

/* text, dim, scaled (0: scores as they are) -> words, weights [n, n], own: the mean share of a word
 * that goes to words like it. */
WEB(heat_map) {
    char text[MAX_TEXT], *word[MAX_WORDS], joined[MAX_TEXT + MAX_WORDS] = "";
    int same_as[MAX_WORDS], d = web_int("dim", 1, MAX_DIM), scaled = web_int("scaled", 0, 1);
    web_text(text, sizeof text, "text");
    int n = split(text, word, same_as);
    for (int i = 0; i < n; i++) strcat(strcat(joined, i ? " " : ""), word[i]);
    web_string("words", joined);
    if (!n) return;

    Context ctx;
    web_context(&ctx, 1);
    Tensor *x = tensor_new(&ctx, "x", F32, SHAPE(1, n, d)), *weights;
    Tensor *q = tensor_new(&ctx, "q", F32, SHAPE(1, n, d));
    float *at = x->data, *query = q->data;
    for (int i = 0; i < n * d; i++) {
        at[i] = 0.6f * rng_normal(1, (uint64_t)same_as[i / d], (uint64_t)(i % d));
        query[i] = scaled ? at[i] : at[i] * sqrtf((float)d); /* which attention() divides by */
    }
    attention(&ctx, q, x, x, &weights);
    const float *p = weights->data;
    double own = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            if (same_as[i] == same_as[j]) own += p[i * n + j] / n;
    web_floats("weights", p, n * n);
    web_value("own", own);
    context_free(&ctx);
}

/* dim -> largest, slope, each [as they are, divided by sqrt(dim)] */
WEB(sharpness) {
    Sharpness s = sharpness(web_int("dim", 1, MAX_DIM), 1);
    web_doubles("largest", s.largest, 2);
    web_doubles("slope", s.slope, 2);
}
