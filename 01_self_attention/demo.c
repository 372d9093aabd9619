/*
 * The demo of chapter 01: one attention head on four tokens that can be checked by hand, then on
 * words of real text, and its gradient against finite differences.
 */
#include "01_self_attention/attention.h"
#include "01_self_attention/matmul.h"
#include "01_self_attention/sharpness.h"
#include "01_self_attention/softmax.h"
#include "common/core/ops.h"
#include "common/program/options.h"
#include "common/program/plot.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 24, MAX_LETTERS = 63, MAX_DIM = 4096 };

typedef struct DemoOptions {
    CommonOptions common;
    const char *text;
    int dim;
} DemoOptions;

/* ---- parts 1 to 4: four tokens ---- */

static const char *const names[4] = {"the", "cat", "sat", "purring"};
/* A [1, 4, cols] tensor, to three places. */
static void show(Context *ctx, const char *title, const Tensor *t) {
    float values[16];
    int cols = (int)tensor_dim(t, -1);
    tensor_download(ctx, values, t);
    printf("   %s %s\n", title, shape_text(t).text);
    for (int i = 0; i < 4; i++) {
        printf("     %-8s", names[i]);
        for (int j = 0; j < cols; j++) {
            float x = values[i * cols + j];
            printf(" %8.3f", fabsf(x) < 0.0005f ? 0.0f : x); /* "-0.000" would only puzzle */
        }
        printf("\n");
    }
}

static const float four[4][2] = {{0, 0}, {1, 0}, {0, 1}, {1, 1}};
static const float query_weight[2][2] = {{0, 1}, {1, 0}};
static const float key_weight[2][2] = {{1, 0}, {0, 1}};
static const float value_weight[2][2] = {{1, 1}, {1, -1}};

typedef struct Four {
    Tensor *x;
    SelfAttention w;
} Four;

static Four four_tokens(Context *ctx) {
    Four f = {tensor_copy_in(ctx, "x", ctx->dtype, four, SHAPE(1, 4, 2)),
              {tensor_copy_in(ctx, "W_q", ctx->dtype, query_weight, SHAPE(2, 2)),
               tensor_copy_in(ctx, "W_k", ctx->dtype, key_weight, SHAPE(2, 2)),
               tensor_copy_in(ctx, "W_v", ctx->dtype, value_weight, SHAPE(2, 2))}};
    f.x->requires_grad = f.w.q_proj->requires_grad = true;
    f.w.k_proj->requires_grad = f.w.v_proj->requires_grad = true;
    return f;
}

/* One line for each token, its vectors side by side. */
static void print_vectors(Context *ctx, Tensor *const *t, int count) {
    float values[4][8];
    printf("   %-9s", "");
    for (int i = 0; i < count; i++)
        printf(" %-13s", (const char *[]){"x", "q = x W_q^T", "k = x W_k^T", "v = x W_v^T"}[i]);
    printf("\n");
    for (int i = 0; i < count; i++) tensor_download(ctx, values[i], t[i]);
    for (int row = 0; row < 4; row++) {
        printf("     %-7s", names[row]);
        for (int i = 0; i < count; i++)
            printf("%s(%2.0f, %2.0f)", i ? "      " : " ", values[i][2 * row],
                   values[i][2 * row + 1]);
        printf("\n");
    }
}

static void by_hand(Context *ctx) {
    Four f = four_tokens(ctx);
    printf("1. Four tokens, two numbers each: is it a thing? is it an action?\n"
           "2. Every token asks (q), can be found (k), and has something to say (v).\n"
           "   W_q swaps the two numbers: a thing looks for an action and vice versa.\n\n");
    Tensor *q = linear(ctx, f.x, f.w.q_proj, NULL), *k = linear(ctx, f.x, f.w.k_proj, NULL);
    Tensor *v = linear(ctx, f.x, f.w.v_proj, NULL);
    print_vectors(ctx, (Tensor *[]){f.x, q, k, v}, 4);

    printf("\n3. Each question meets each key; softmax turns a row of scores into shares.\n");
    Tensor *scores = matmul_transposed(ctx, q, k, 1 / sqrtf(2));
    Tensor *weights = softmax(ctx, scores);
    show(ctx, "scores = q k^T / sqrt(2)", scores);
    show(ctx, "weights = softmax(scores), rows sum to 1", weights);

    printf("\n4. The new token is the mean of the values, by these shares.\n");
    show(ctx, "output = weights v", matmul(ctx, weights, v));
    printf("   By hand: cat's scores are 0, 0, 0.707, 0.707; e^0 = 1, e^0.707 = 2.028,\n"
           "   in all 6.056; so its shares are 1/6.056 = 0.165 and 2.028/6.056 = 0.335.\n\n");
}

/* ---- part 5: words ---- */

typedef struct Words {
    char word[MAX_WORDS][MAX_LETTERS + 1];
    const char *label[MAX_WORDS];
    int same_as[MAX_WORDS]; /* the first place where this word stands */
    int count;
    bool more; /* words than there is room for */
} Words;

static void split(Words *w, const char *text) {
    *w = (Words){0};
    while (w->count < MAX_WORDS) {
        while (isspace((unsigned char)*text)) text++;
        if (!*text) break;
        size_t letters = strcspn(text, " \t\r\n");
        size_t kept = letters < MAX_LETTERS ? letters : MAX_LETTERS;
        while (kept < letters && kept > 0 && ((unsigned char)text[kept] & 0xC0) == 0x80)
            kept--; /* not in the middle of a UTF-8 character */
        int i = w->count++;
        snprintf(w->word[i], sizeof w->word[i], "%.*s", (int)kept, text);
        text += letters;
        w->label[i] = w->word[i];
        w->same_as[i] = 0;
        while (strcmp(w->word[w->same_as[i]], w->word[i])) w->same_as[i]++;
    }
    w->more = text[strspn(text, " \t\r\n")];
}

static void write_chart(const Context *ctx, const DemoOptions *options, const Words *words,
                        const float *weights) {
    Csv csv = figure_open(ctx, options->common.csv, "query,key,weight,query_word,key_word");
    for (int i = 0; i < words->count; i++)
        for (int j = 0; j < words->count; j++) {
            char row[2][2 * MAX_LETTERS + 3]; /* a word may hold a quote or a comma */
            for (int side = 0; side < 2; side++) {
                char *to = row[side];
                for (const char *c = words->word[side ? j : i]; *c; c++)
                    *to++ = *c == '"' || *c == ',' ? '\'' : *c;
                *to = 0;
            }
            csv_row(&csv, "%d,%d,%.4f,%s,%s", i, j, weights[i * words->count + j], row[0], row[1]);
        }
    figure_close(&csv, "01_self_attention/figures/heat_map");
}

/* Every different word has a random vector, which is its query, its key and its value. */
static void on_words(Context *ctx, const DemoOptions *options) {
    Words words;
    split(&words, options->text);
    if (words.count == 0) fatal("--text: there is no word in it");
    int n = words.count, d = options->dim;
    printf("5. Equal words find each other: each different word is %d random numbers,\n"
           "   and its query and its key are the same.\n",
           d);
    float *x = must_alloc((size_t)(n * d), sizeof *x), *p = must_alloc((size_t)(n * n), sizeof *p);
    for (int i = 0; i < n * d; i++) {
        uint64_t word = (uint64_t)words.same_as[i / d];
        x[i] = 0.6f * rng_normal(options->common.seed, word, (uint64_t)(i % d));
    }
    Tensor *vectors = tensor_copy_in(ctx, "x", ctx->dtype, x, SHAPE(1, n, d)), *weights;
    attention(ctx, vectors, vectors, vectors, &weights);
    tensor_download(ctx, p, weights);
    if (words.more) printf("   (of this text, the first %d words)\n", n);
    printf("   weights %s, fuller is more:\n\n", shape_text(weights).text);
    text_heat_map(p, n, n, words.label, words.label);
    double own = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            if (words.same_as[i] == words.same_as[j]) own += p[i * n + j] / n;
    printf("\n   %.0f%% of the attention goes to the same word: random vectors are nearly\n"
           "   orthogonal, so only equal ones have a large product. Nothing was trained;\n"
           "   training shapes W_q and W_k so that other words become each other's answer.\n   ",
           100 * own);
    write_chart(ctx, options, &words, p);
    printf("\n");
    free(x), free(p);
}

/* ---- part 6: the scale ---- */

static void scale(uint64_t seed) {
    static const int dims[] = {4, 64, 1024};
    printf("6. Why scores are divided by sqrt(D): %d keys; a query and keys of D\n"
           "   independent random numbers; means over %d queries.\n\n"
           "            the largest weight         the softmax's slope\n"
           "        D   as it is  / sqrt(D)        as it is  / sqrt(D)\n",
           SHARPNESS_KEYS, SHARPNESS_QUERIES);
    for (int i = 0; i < 3; i++) {
        Sharpness s = sharpness(dims[i], seed);
        printf("   %6d   %8.2f  %9.2f        %8.2f  %9.2f\n", dims[i], s.largest[0], s.largest[1],
               s.slope[0], s.slope[1]);
    }
    printf("\n   As they are, the scores grow with D, until one word takes everything and the\n"
           "   derivative is gone. Divided, they do not mind D.\n\n");
}

/* ---- part 7: the gradient ---- */

static double loss_value(Context *ctx, const Four *f) {
    float value;
    Tensor *y = self_attention_forward(ctx, f->x, &f->w, NULL);
    tensor_download(ctx, &value, sum(ctx, swiglu(ctx, y, reshape(ctx, f->x, SHAPE(1, 4, 2)))));
    return value;
}

static float element(Context *ctx, const Tensor *t, int i) {
    float values[8];
    tensor_download(ctx, values, t);
    return values[i];
}

static void set_element(Context *ctx, Tensor *t, int i, float to) {
    float values[8];
    tensor_download(ctx, values, t);
    values[i] = to;
    tensor_upload(ctx, t, values);
}

/* Any loss would do; this one is sum(silu(y) x), which makes every weight matter. */
static void gradient(Context *ctx) {
    printf("7. The tape's derivative of a loss, against (loss(w + h) - loss(w - h)) / 2h:\n");
    if (ctx->dtype != F32) {
        printf("   (left out: differences need more digits than BF16 has)\n\n");
        return;
    }
    const float h = 0.01f;
    Four f = four_tokens(ctx);
    ctx->recording = true;
    Tensor *y = self_attention_forward(ctx, f.x, &f.w, NULL);
    Tensor *loss = sum(ctx, swiglu(ctx, y, reshape(ctx, f.x, SHAPE(1, 4, 2))));
    printf("   %d operations recorded\n", ctx->tape_length);
    tape_backward(ctx, loss);
    Tensor *const inputs[] = {f.w.q_proj, f.w.q_proj, f.w.k_proj, f.w.v_proj, f.x};
    const int at[] = {0, 1, 3, 2, 6};
    for (int i = 0; i < 5; i++) {
        float exact = element(ctx, inputs[i]->grad, at[i]), old = element(ctx, inputs[i], at[i]);
        set_element(ctx, inputs[i], at[i], old + h);
        double up = loss_value(ctx, &f);
        set_element(ctx, inputs[i], at[i], old - h);
        double down = loss_value(ctx, &f);
        set_element(ctx, inputs[i], at[i], old);
        printf("     %-3s [%d][%d]   tape %8.5f   differences %8.5f\n", inputs[i]->name, at[i] / 2,
               at[i] % 2, exact, (up - down) / (2 * h));
    }
    printf("\n");
}

int main(int argc, char **argv) {
    DemoOptions o = {.common.csv = "01_self_attention/figures/out/heat_map.csv",
                     .text = "in the beginning god created the heaven and the earth",
                     .dim = 64};
    const Option flags[] = {
        OPT_STRING("text", 't', "WORDS", &o.text,
                   "The words of part 5, at most 24 (default: Genesis 1:1)"),
        OPT_INT("dim", 'd', "N", &o.dim, 1, MAX_DIM, "Numbers in a word's vector in part 5"),
        OPT_CSV(&o.common), OPT_COMMON(&o.common), OPT_END};
    options_parse(argc, argv, "One attention head, step by step.", flags);
    Context ctx;
    options_open(&o.common, &ctx);
    by_hand(&ctx);
    on_words(&ctx, &o);
    scale(o.common.seed);
    gradient(&ctx);
    printf("Try next:  ./01_self_attention/demo --dim 4     vectors too short to tell apart\n"
           "           ./01_self_attention/demo --text 'a rose is a rose is a rose'\n"
           "           ./01_self_attention/bench            how fast a matrix product can be\n"
           "           make learn CH=01                     the exercises\n");
    context_free(&ctx);
    return 0;
}
