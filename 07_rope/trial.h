/*
 * A trial of positions: train a small model on texts of one length, then ask how well it guesses
 * when more text stands before.
 *
 * At every length the same characters are guessed, the last TRIAL_LAST of each window; only how
 * much text comes before them changes. So two lengths, or two ways to count positions, differ by
 * what the model makes of that text, and by nothing else.
 */
#ifndef TRIAL_H
#define TRIAL_H

#include "03_multihead/chartrain.h"
#include "05_moe/decoder/decoder.h"
#include "common/core/error.h"
#include "common/core/optimizer.h"

/* A decoder of latent attention and SwiGLU. Nothing in its weights depends on the length of a text,
 * unlike chapter 03's model with its table of places: the position comes with each run. */
DecoderConfig trial_config(int vocab, int layers, int intermediate_size, MlaConfig attention);

/* Deviations that keep a row's length. */
void trial_randomize(Params *params, const Decoder *model);

enum { TRIAL_LAST = 32 }; /* characters of a window that are guessed */

typedef struct TrialTraining {
    const char *label; /* for the progress bar */
    int steps, batch, length;
    float learning_rate;
    uint64_t seed;  /* which stretches of text */
    double *losses; /* [steps], or NULL */
} TrialTraining;

/* AdamW with warm-up and a cosine. -1 and a message when the loss is no number any more. */
int trial_train(Context *ctx, Params *params, const Decoder *model, const CharText *text,
                const Position *position, const TrialTraining *how, Error *err);

/*
 * exp of the mean loss at the last TRIAL_LAST characters of `windows` stretches of `length` kept
 * characters. The stretches end at the same places for every length up to `longest`.
 */
double trial_perplexity(Context *ctx, const Decoder *model, const CharText *text,
                        const Position *position, int length, int longest, int windows);

#endif
