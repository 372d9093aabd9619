/*
 * The guided tour: from a text file to a model that writes, step by step.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/checkpoint/output_folder.h"
#include "10_full_model/demo_quantise.h"
#include "10_full_model/demo_rewards.h"
#include "10_full_model/demo_sparse.h"
#include "10_full_model/generate/generate.h"
#include "10_full_model/train/train.h"

#include "common/core/utf8.h"
#include "common/program/bench.h"
#include "common/program/options.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

static const char *const BIBLE = "build/corpus/bible.txt";

typedef struct DemoOptions {
    CommonOptions common;
    const char *data, *out;
    int steps, vocab, mtp;
    bool overwrite;
} DemoOptions;

/* ---- the steps of the tour ---- */

typedef struct Tour {
    DemoOptions *options;
    Context ctx;
    Tokenizer *tokenizer;
    Corpus corpus;
    TokenSource source;
    ModelConfig cfg;
    Model model;
    TrainOptions train;
    TrainResult result;
    char prompt[64]; /* words of the text */
} Tour;

/* Three words of the text that can be typed in a shell: letters only, with a line of their own
 * before them. */
static void find_prompt(Tour *t, const char *text) {
    strcpy(t->prompt, "The");
    if (!strcmp(t->options->data, BIBLE)) {
        strcpy(t->prompt, "And God said unto");
        return;
    }
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        size_t length = 0;
        for (int words = 0; words < 3 && length < sizeof t->prompt - 1; words++) {
            size_t word = strspn(line + length + (words > 0), LETTERS);
            if (!word || (words && line[length] != ' ')) length = sizeof t->prompt;
            length += word + (words > 0);
        }
        if (length >= sizeof t->prompt) continue;
        snprintf(t->prompt, sizeof t->prompt, "%.*s", (int)length, line);
        return;
    }
}

/* Line ends as blanks; what would command a terminal is shown instead. */
static void print_escaped(const char *text, size_t bytes) {
    for (size_t i = 0, length; i < bytes; i += length + 1) {
        const char *end = memchr(text + i, '\n', bytes - i);
        length = end ? (size_t)(end - text) - i : bytes - i;
        terminal_write(stdout, text + i, length);
        if (end) printf(" ");
    }
}

/* The first tokens of the text, as many as a line holds. */
static void print_tokens(const Tour *t) {
    size_t column = 0, length;
    for (size_t i = 0; i < t->corpus.count; i++) {
        const char *token = tokenizer_token(t->tokenizer, t->corpus.ids[i], &length);
        if ((column += length + (i > 0)) > 70) break;
        if (i) printf("|");
        print_escaped(token, length);
    }
    printf(" ...\n");
}

/* 1. Bytes become tokens. */
static int read_and_tokenize(Tour *t, Error *err) {
    size_t bytes;
    char number[32], tokens[32];
    char *text = corpus_read_text(&t->options->data, 1, &bytes, err);
    if (!text)
        return error_prefix(
            err,
            "the text to learn from (make it with `make corpus`, or name another by --data): ");
    printf("What does it take to turn attention into something that writes?\n\n");
    printf("1. Text\n   %s: %s bytes\n", t->options->data,
           format_count(number, sizeof number, (int64_t)bytes));
    double started = seconds_now();
    t->tokenizer = tokenizer_train(text, bytes, t->options->vocab, NULL, NULL, err);
    if (t->tokenizer) {
        double trained = seconds_now();
        t->cfg.vocab_size = tokenizer_vocab_size(t->tokenizer);
        if (!corpus_init(&t->corpus, t->tokenizer, text, bytes, 0.05, t->train.context_length,
                         err)) {
            t->cfg.bos_token_id = corpus_begin(&t->corpus, t->tokenizer);
            t->source = source_of_corpus(&t->corpus);
            printf("   Byte-pair encoding learned %d tokens in %.1f s and cut the text into\n"
                   "   %s of them, %.2f bytes each:\n   ",
                   t->cfg.vocab_size, trained - started,
                   format_count(tokens, sizeof tokens, (int64_t)t->corpus.count),
                   (double)bytes / t->corpus.count);
            print_tokens(t);
            printf("   5 %% of it, spread over the text, are kept for validation: the model never\n"
                   "   trains on them.\n\n");
            find_prompt(t, text);
        }
    }
    free(text);
    return t->corpus.ids ? 0 : -1;
}

/* 2. A model with random weights. */
static int make_model(Tour *t, Error *err) {
    char number[32];
    const ModelConfig *c = &t->cfg;
    if (model_init(&t->model, &t->ctx, c, true, err)) return -1;
    model_randomize(&t->model);
    char active[32];
    printf("2. Model\n"
           "   %d layers, hidden size %d, %d heads on a latent of %d + %d numbers, context %d\n"
           "   %d experts of width %d, of which a token sees %d, and %d for all:\n"
           "   %s parameters, %s active\n",
           c->num_hidden_layers, c->hidden_size, c->num_attention_heads, c->kv_lora_rank,
           c->qk_rope_head_dim, t->train.context_length, c->n_routed_experts,
           c->moe_intermediate_size, c->num_experts_per_tok, c->n_shared_experts,
           format_count(number, sizeof number, config_parameters(c)),
           format_count(active, sizeof active, config_active_parameters(c)));
    printf("   A model that knows nothing has a loss of ln(%d) = %.2f; one that knows how\n"
           "   often each token occurs, %.2f.\n\n",
           c->vocab_size, log(c->vocab_size), corpus_unigram_loss(&t->corpus, c->vocab_size));
    return 0;
}

static void print_wrapped(void *user, const char *text, size_t bytes) {
    int *column = user;
    for (size_t i = 0, length; i < bytes; i += length) {
        bool space = text[i] == ' ' || text[i] == '\n';
        length = 1; /* of a blank; or of what lies between two */
        while (!space && i + length < bytes && !memchr(" \n", text[i + length], 2)) length++;
        if (space && *column > 66) { /* room for a long word */
            printf("\n   ");
            *column = 0;
        } else {
            print_escaped(text + i, length);
            *column += (int)length;
        }
    }
    fflush(stdout);
}

/* tokens: at most, and no more than the texts of the training had. */
static int write_text(Tour *t, const char *when, int tokens, Error *err) {
    GenerateResult result;
    int column = (int)strlen(t->prompt);
    size_t count;
    free(tokenizer_encode(t->tokenizer, t->prompt, strlen(t->prompt), &count));
    int room = t->train.context_length - (int)count;
    GenerateOptions options = {.sampling = sampling_defaults(),
                               .max_new_tokens = tokens < room || room < 1 ? tokens : room,
                               .emit = print_wrapped,
                               .user = &column};
    options.sampling.temperature = 0.7f;
    options.sampling.top_p = 0.95f;
    options.sampling.seed = t->options->common.seed;
    printf("   %s:\n   %s", when, t->prompt);
    fflush(stdout);
    if (generate(&t->model, t->tokenizer, t->prompt, &options, &result, err)) return -1;
    printf("\n   (%d tokens, %.0f a second)\n\n", result.new_tokens,
           result.new_tokens / result.seconds);
    return 0;
}

/*
 * The same passage, likeliest tokens, without guesses and with two at a time by the module; the
 * time is the best of a few runs, for one takes a moment only.
 */
static int guess_ahead(Tour *t, Error *err) {
    enum { RUNS = 3, DRAFTS = 2 };
    char *answers[2] = {NULL, NULL};
    double seconds[2] = {INFINITY, INFINITY};
    GenerateOptions options = {.sampling = {.top_p = 1}, .max_new_tokens = 60};
    GenerateResult result;
    int capacity = generator_capacity(&t->model, t->tokenizer, &(const char *){t->prompt}, 1,
                                      options.max_new_tokens);
    printf("5. Guessing: the module guesses %d tokens, and one step looks at all of them\n   %s",
           DRAFTS, t->prompt);
    for (int guess = 0; guess < 2; guess++) {
        Generator g;
        if (generator_init(&g, &t->model, t->tokenizer, 1, capacity, err)) return -1;
        int status = generator_guess(&g, &t->model, &(GuessOptions){guess * DRAFTS, 0}, err);
        for (int i = 0; i < RUNS && !status; i++) {
            decoder_generator_truncate(&g.decoding, 0, 0);
            status = generator_prompt(&g, 0, t->prompt, err);
            if (!status) generator_run(&g, &options, &result);
            if (!status) status = generator_check(&g, &t->model, &result, err);
            if (!status) seconds[guess] = fmin(seconds[guess], result.seconds);
        }
        if (!status) answers[guess] = generator_answer(&g, 0, &options);
        if (!status && guess) {
            int column = (int)strlen(t->prompt);
            print_wrapped(&column, answers[1], strlen(answers[1]));
            printf("\n   ");
            speculate_print(stdout, &g.speculator->counts);
        }
        generator_free(&g);
        if (status) return -1;
    }
    printf("   %d tokens in %.1f ms, without guesses in %.1f ms: %.2f times as fast,\n"
           "   and %s\n\n",
           result.new_tokens, 1e3 * seconds[1], 1e3 * seconds[0], seconds[0] / seconds[1],
           strcmp(answers[0], answers[1]) ? "ANOTHER text: that should not be"
                                          : "the same text, token for token");
    free(answers[0]), free(answers[1]);
    return 0;
}

/* How the routers share the validation text out: a row for each layer with experts, in percent
 * of an even share. */
static void show_experts(Tour *t) {
    enum { WINDOWS = 64 };
    const ModelConfig *c = &t->cfg;
    int length = t->train.context_length, experts = c->n_routed_experts, rows = 0;
    int32_t *ids = must_alloc(2 * (size_t)(WINDOWS * length), sizeof *ids);
    int32_t *counts = must_alloc((size_t)experts, sizeof *counts);
    for (int i = 0; i < WINDOWS; i++)
        source_validation(&t->source, i, WINDOWS, length, ids + i * length,
                          ids + (WINDOWS + i) * length);
    const DecoderRun run = {.position = model_position(&t->model), .record = true};
    decoder_states(&t->ctx, &t->model.decoder,
                   tensor_copy_in(&t->ctx, "ids", I32, ids, SHAPE(WINDOWS, length)), &run);
    printf("   Who works? Each layer's experts, their share of the validation text's tokens\n"
           "   (an even one is 100 %%), and how much too much the busiest has:\n");
    for (int i = 0; i < c->num_hidden_layers; i++) {
        if (t->model.decoder.layers[i].dense) continue;
        tensor_download_ints(&t->ctx, counts, t->model.decoder.records[i].dispatch.counts);
        BalanceMeasures m = balance_measure(counts, experts, -1);
        printf("   layer %d:", i);
        for (int e = 0; e < experts; e++) printf(" %4.0f", 100 * counts[e] / m.mean);
        printf("    %.0f %%\n", 100 * m.max_vio);
        rows++;
    }
    if (!rows) printf("   (this model has none)\n");
    printf("\n");
    context_reset(&t->ctx);
    free(ids), free(counts);
}

/* 3. Training. */
static int train_model(Tour *t, Error *err) {
    t->train.csv = t->options->common.csv;
    t->train.out = t->options->out;
    t->train.start = t->options->overwrite ? RUN_OVERWRITE : RUN_NEW;
    t->train.tokenizer = t->tokenizer;
    t->train.peak = bench_peak(&t->ctx, t->ctx.dtype, 0.3);
    const Schedule *s = &t->train.schedule;
    printf("3. Training: %lld steps of %d windows of %d tokens. The learning rate rises to\n"
           "   %g in %lld steps%s and falls to %g\n",
           (long long)s->steps, t->train.batch_size, t->train.context_length, s->peak,
           (long long)s->warmup, s->constant ? ", stays there" : "", s->floor);
    fflush(stdout);
    return train_run(&t->model, &t->source, &t->train, &t->result, err);
}

/*
 * One column of the CSV against the step, thinned out to what a terminal shows: the first step as
 * it is, then means over equal stretches, each at its last step.
 */
static void chart(const Tour *t, const char *title, int column) {
    enum { POINTS = 60 };
    FILE *file = fopen(t->train.csv, "r");
    double x[POINTS + 1], y[POINTS + 1], sum = 0;
    int count = 0, lines = 0;
    char line[512];
    while (file && fgets(line, sizeof line, file)) {
        char *at = line, *end;
        double step = strtod(line, &end), value;
        if (end == line) continue; /* the head */
        for (int i = 0; i < column && at; i++)
            if ((at = strchr(at, ','))) at++;
        if (!at || (value = strtod(at, &end), end == at)) continue;
        sum += value, lines++;
        if (count && step * POINTS < count * (double)t->result.steps) continue;
        if (count > POINTS) break;
        x[count] = step;
        y[count++] = sum / lines;
        sum = 0, lines = 0;
    }
    if (file) fclose(file);
    if (count > 1) text_line_chart(title, x, y, count, 10, 0);
}

enum { LOSS_COLUMN = 1, MAX_VIO_COLUMN = 7 }; /* of TRAIN_COLUMNS */

static void draw(const Tour *t) {
    chart(t, "training loss against step", LOSS_COLUMN);
    plot_or_explain("10_full_model/figures/loss", t->train.csv, NULL);
    chart(t, "how much too much the busiest expert has (MaxVio; 1: twice its share)",
          MAX_VIO_COLUMN);
    plot_or_explain("10_full_model/figures/load", t->train.csv, NULL);
}

static void report(const Tour *t) {
    char rate[32];
    const TrainResult *r = &t->result;
    double bits = r->validation_loss / log(2) * t->corpus.count / t->corpus.bytes;
    double flops =
        3 * metrics_flop_per_token(&t->model, t->train.context_length) * r->tokens_per_second;
    double peak = fmax(t->train.peak, flops); /* it may have been measured on a busy machine */
    printf("   %s tokens/s, %.0f s in all: %.0f %% of this device's fastest matrix product\n"
           "   (%.0f GFLOP/s); activations and gradients of a step take %.0f MiB\n",
           format_count(rate, sizeof rate, (int64_t)r->tokens_per_second), r->seconds,
           100 * flops / peak, 1e-9 * peak, r->peak_bytes / 1048576.0);
    if (isfinite(r->validation_loss))
        printf("   validation loss %.3f: of %d tokens the model hesitates between about %.0f.\n"
               "   That is %.2f bits per byte.\n\n",
               r->validation_loss, t->cfg.vocab_size, exp(r->validation_loss), bits);
}

/* A word of a shell's command line. */
static const char *quoted(const char *word, char buffer[4200]) {
    bool plain = !word[strspn(word, LETTERS "0123456789_./-+,:@%")];
    snprintf(buffer, 4200, plain || strchr(word, '\'') ? "%s" : "'%s'", word);
    return buffer;
}

/* What to do with it. Each line can be copied as it is. */
static void advise(const Tour *t) {
    char out[4200], data[4200];
    bool bible = !strcmp(t->options->data, BIBLE);
    quoted(t->options->out, out), quoted(t->options->data, data);
    printf("The model is in %s. It was trained on texts of %d tokens, so it writes no\n"
           "longer ones unless it is told to (-n 200), and then they fall apart. Try:\n\n",
           t->options->out, t->train.context_length);
    printf("   10_full_model/deepseek generate -m %s -p \"%s\"\n", out,
           bible ? "In the beginning" : t->prompt);
    printf("   10_full_model/deepseek generate -m %s -p \"%s\" --temperature 0\n"
           "      (always the likeliest token: such a text soon goes round in circles)\n",
           out, bible ? "The king" : t->prompt);
    printf("   10_full_model/deepseek generate -m %s -p \"%s\" --temperature 0 \\\n"
           "      --repetition-penalty 1.2\n"
           "      (what the text has already becomes less likely: no circles)\n",
           out, bible ? "The king" : t->prompt);
    if (t->options->mtp)
        printf("   10_full_model/deepseek generate -m %s -p \"%s\" --speculative 2\n"
               "      (with guesses, as in 5: drawn text takes them, too)\n",
               out, bible ? "The king" : t->prompt);
    printf("   10_full_model/deepseek eval -m %s --data %s \\\n"
           "      --context %d --by-position\n",
           out, data, t->cfg.max_position_embeddings);
    printf("   10_full_model/deepseek quantize -m %s --to int4 --group 32 \\\n"
           "      --method gptq --calibrate %s \\\n"
           "      --out %s-int4 --overwrite\n"
           "      (as in %d; then generate -m %s-int4, which decodes on the codes)\n",
           out, data, out, t->options->mtp ? 6 : 5, out);
    printf("   python3 -c \"from transformers import AutoModelForCausalLM as A; \\\n"
           "      print(A.from_pretrained('%s'))\"\n"
           "      (the same model elsewhere%s)\n"
           "   10_full_model/demo --data YOUR.txt --out out/yours\n"
           "      (any UTF-8 text; a megabyte is a good size)\n",
           t->options->out, t->options->mtp ? "; it reports what only guesses as UNEXPECTED" : "");
}

static int tour(Tour *t, Error *err) {
    if (read_and_tokenize(t, err) || make_model(t, err)) return -1;
    if (write_text(t, "What it writes before training", 40, err)) return -1;
    if (train_model(t, err)) return -1;
    draw(t);
    report(t);
    show_experts(t);
    if (t->result.interrupted) {
        printf("Stopped after %lld steps. The model as it is now is in %s/last\n",
               (long long)t->result.steps, t->options->out);
        return 0;
    }
    printf("4. Writing\n");
    if (write_text(t, "What it writes now", 60, err)) return -1;
    if (t->options->mtp && guess_ahead(t, err)) return -1;
    int section = t->options->mtp ? 6 : 5;
    if (demo_fewer_bits(section, &t->model, &t->source, &t->train, err)) return -1;
    if (demo_rewards(section + 1, &t->model, &t->corpus, t->tokenizer, &t->train, err)) return -1;
    if (demo_sparse(section + 2, &t->model, &t->source, &t->train, err)) return -1;
    advise(t);
    return 0;
}

int main(int argc, char **argv) {
    static const char own[] = "out/demo";
    DemoOptions options = {.common.csv = "10_full_model/figures/out/loss.csv",
                           .data = BIBLE,
                           .out = own,
                           .steps = 1000,
                           .vocab = 2048,
                           .mtp = 1},
                *o = &options;
    const Option flags[] = {
        OPT_STRING("data", 'd', "FILE", &o->data,
                   "Text to learn from (default: build/corpus/bible.txt, which `make corpus` "
                   "makes)"),
        OPT_STRING("out", 'o', "DIR", &o->out, "Folder for the trained model"),
        OPT_INT("steps", 's', "N", &o->steps, 1, 1000000, "Training steps"),
        OPT_INT("vocab", 'v', "N", &o->vocab, 257, 65536, "Size of the vocabulary"),
        OPT_INT("mtp", 0, "D", &o->mtp, 0, 4,
                "Modules for multi-token prediction, trained too, to decode with their guesses"),
        OPT_FLAG("overwrite", 0, &o->overwrite,
                 "Begin anew although --out has a model (out/demo, the tour's own, may always go)"),
        OPT_CSV(&o->common),
        OPT_COMMON(&o->common),
        OPT_END};
    options_parse(argc, argv, "Trains a small language model on real text and lets it write.",
                  flags);
    if (!strcmp(o->out, own)) o->overwrite = true;
    Tour t = {.options = o, .train = train_defaults()};
    t.train.schedule.steps = o->steps;
    if (t.train.schedule.warmup > o->steps) t.train.schedule.warmup = o->steps;
    if (t.train.eval_batches > o->steps) t.train.eval_batches = o->steps; /* little was learned */
    options_open(&o->common, &t.ctx);
    Error err;
    int status = output_folder_check(o->out, OUTPUT_RUN, o->overwrite, &err);
    if (!status) status = config_preset(&t.cfg, "nano", &err);
    t.cfg.num_nextn_predict_layers = o->mtp;
    if (!status) status = tour(&t, &err);
    model_free(&t.model);
    corpus_free(&t.corpus);
    if (t.tokenizer) tokenizer_free(t.tokenizer);
    context_free(&t.ctx);
    if (status) fatal("%s", err.text);
    return 0;
}
