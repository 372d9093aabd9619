/*
 * Training and asking. Windows of every length end at the same places of the held-back text, and
 * all targets but the last TRIAL_LAST are IGNORE_TARGET: so each mean is over the same characters.
 */
#include "07_rope/trial.h"

#include "common/core/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

DecoderConfig trial_config(int vocab, int layers, int intermediate_size, MlaConfig attention) {
    return (DecoderConfig){.vocab_size = vocab,
                           .num_hidden_layers = layers,
                           .block = {.hidden_size = attention.hidden_size,
                                     .intermediate_size = intermediate_size,
                                     .rms_norm_eps = 1e-6f,
                                     .attention = ATTENTION_MLA,
                                     .mla = attention}};
}

void trial_randomize(Params *params, const Decoder *model) {
    float std = 1.0f / sqrtf((float)model->cfg.block.hidden_size);
    float down = 1.0f / sqrtf((float)model->cfg.block.intermediate_size);
    decoder_randomize(params, model, (DecoderStart){0.5f, std, std, down});
}

typedef struct Trainee {
    const Decoder *model;
    const Position *position;
} Trainee;

static Tensor *training_loss(Context *ctx, void *user, Tensor *ids, Tensor *targets,
                             Tensor **shown) {
    const Trainee *t = user;
    (void)shown;
    return decoder_loss(ctx, t->model, ids, targets, t->position);
}

int trial_train(Context *ctx, Params *params, const Decoder *model, const CharText *text,
                const Position *position, const TrialTraining *how, Error *err) {
    Rng rng = {.seed = how->seed};
    Trainee trainee = {model, position};
    CharTraining training = {.label = how->label,
                             .schedule = {how->steps, how->steps / 10 + 1, 0, how->learning_rate,
                                          how->learning_rate / 10},
                             .batch = how->batch,
                             .length = how->length,
                             .rng = &rng,
                             .losses = how->losses,
                             .loss = training_loss,
                             .user = &trainee};
    return chartrain(ctx, params, text, &training, err);
}

double trial_perplexity(Context *ctx, const Decoder *model, const CharText *text,
                        const Position *position, int length, int longest, int windows) {
    enum { CHARACTERS = 8192 }; /* in one pass: enough for two cores, and little memory */
    int64_t first_end = text->train + longest, room = text->count - 1 - first_end;
    CHECK(length >= TRIAL_LAST && length <= longest && room >= 0 && windows > 0,
          "trial_perplexity: %d of %d in %lld characters", length, longest,
          (long long)(text->count - text->train));
    int batch = CHARACTERS / length > 0 ? CHARACTERS / length : 1;
    int32_t *ids = must_alloc(2 * (size_t)(batch * length), sizeof *ids),
            *next = ids + (int64_t)batch * length;
    double sum = 0;
    for (int done = 0; done < windows;) {
        int B = windows - done < batch ? windows - done : batch;
        for (int b = 0; b < B; b++) {
            int64_t end = first_end + room * (done + b) / windows; /* the last input is before it */
            int32_t *row = ids + (int64_t)b * length, *target = next + (int64_t)b * length;
            memcpy(row, text->ids + end - length, (size_t)length * sizeof *row);
            memcpy(target, text->ids + end - length + 1, (size_t)length * sizeof *row);
            for (int t = 0; t < length - TRIAL_LAST; t++) target[t] = IGNORE_TARGET;
        }
        float loss;
        tensor_download(
            ctx, &loss,
            decoder_loss(ctx, model, tensor_copy_in(ctx, "ids", I32, ids, SHAPE(B, length)),
                         tensor_copy_in(ctx, "targets", I32, next, SHAPE(B, length)), position));
        sum += (double)loss * B; /* each window has the same number of targets */
        context_reset(ctx);
        done += B;
    }
    free(ids);
    return exp(sum / windows);
}
