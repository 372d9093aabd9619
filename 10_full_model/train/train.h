/*
 * Training: batches in, a smaller loss out, and nothing lost on the way.
 *
 * A run is steps (train_step.h) of the language model's objective. Every eval_interval steps, and
 * at the end, the loss on fixed windows of the validation text is measured; then the model is
 * saved (run_folder.h): as the best if it is, and as the last, with all that a resumed run needs
 * (training_state.h).
 *
 * A run that is interrupted and resumed ends in the same bits as one that is not. Ctrl-C, SIGTERM,
 * SIGHUP (a terminal that is closed) and SIGPIPE finish the step, save, and stop; after anything
 * worse, the last save counts.
 *
 * Several ranks (the model's Context says so) train one model together. One of them, rank 0, has
 * the folder and the metrics; each step all agree whether to go on. What is saved does not know how
 * many they were.
 *
 * When the loss or the gradient is not a finite number training stops and says at which step; what
 * was saved last is untouched.
 */
#ifndef TRAIN_H
#define TRAIN_H

#include "10_full_model/train/run_folder.h"
#include "10_full_model/train/train_step.h"
#include "10_full_model/train/training_state.h"

/* Of several ranks (common/comm/ranks.h). */
typedef struct RankOptions {
    bool zero;           /* they share the optimizer: set ctx->zero before the model is made */
    int expert_parallel; /* over so many the experts are spread (ctx->experts); 1: over none */
    bool deterministic;  /* by slots: the same bits for 1, 2, 4 and 8 ranks */
    bool in_turn;        /* gradients are added up behind the backward pass, not beside it */
    int64_t bucket;      /* numbers that are added up at once; 0: as many as usual */
    int comm;            /* CommKind: how they speak; for who opens it */
} RankOptions;

typedef struct TrainOptions {
    Schedule schedule; /* with the number of steps */
    /* a step sees batch_size * accumulation * context_length tokens */
    int batch_size, context_length, accumulation;
    AdamW adamw;
    float dropout;       /* after the embedding and on what each layer adds; 0: none */
    float balance_alpha; /* weight of the sequence-wise balance loss (V3: 1e-4) */
    float mtp_lambda;    /* weight of the loss of modules for multi-token prediction (V3: 0.3) */
    float bias_speed;    /* gamma: how far a router's bias moves after a step (V3: 1e-3) */
    int dsa;             /* of a sparse model: see train_stage() */
    float index_loss;    /* weight of the indexers' loss */
    float index_rate;    /* what their learning rate is multiplied by */
    bool fp8;            /* linear layers and experts multiply in FP8 (08_quant/fp8.h) */
    bool bf16_moments;   /* set ctx->moments before the model is made */
    RankOptions ranks;
    /* validation: every so many steps, on eval_batches * batch_size windows */
    int eval_interval, eval_batches;

    const char *out;            /* folder for the model and the state; NULL: do not save */
    RunStart start;             /* what becomes of a run that is there */
    const Tokenizer *tokenizer; /* saved with the model; NULL: none is */
    const char *csv;            /* file for one row a step (metrics.h), or NULL */
    double peak;                /* the device's operations a second, for the metrics; 0: unknown */
    double minutes;             /* after so many it stops, as after Ctrl-C; 0: never */
    bool quiet;                 /* no progress line */
} TrainOptions;

/* --dsa: nothing said; indexers stay as they are; or learn alone, or with the model. */
enum { DSA_AUTO, DSA_OFF, DSA_WARMUP, DSA_SPARSE };

/* What becomes of a model's indexers: with nothing said they learn with it. -1 and a message for a
 * model that has none, if something is said. */
int train_stage(IndexerStage *stage, const TrainOptions *options, const ModelConfig *cfg,
                Error *err);

/* The defaults of both programs for a model that learns on a CPU. */
TrainOptions train_defaults(void);

enum { OUT_OF_TIME = -1 };

typedef struct TrainResult {
    int64_t steps, resumed_from; /* done in all; of which were done before */
    float loss;            /* mean over this process's last steps, a tenth of the run at most */
    float validation_loss; /* the last; NaN: there was none */
    float best_validation_loss;
    int64_t best_step;
    double seconds, tokens_per_second;
    size_t peak_bytes; /* of activations and gradients in a step */
    int interrupted;   /* the signal that stopped it (Ctrl-C: SIGINT), or OUT_OF_TIME; 0: none */
} TrainResult;

/*
 * Trains model (allocated for training, with its first weights: a resumed run replaces them) on
 * source, and notes in its config how long the texts were. -1 and a message for a loss that is not
 * finite, a save that fails, a state that does not fit, or a folder that another process trains in.
 */
int train_run(Model *model, const TokenSource *source, const TrainOptions *options,
              TrainResult *result, Error *err);

/* What the steps' results depend on and the state does not hold: a resumed run must share it. */
Settings train_settings(const Model *model, const TokenSource *source, const TrainOptions *options);

/* Mean loss per token over `windows` windows spread evenly over the validation text, batch_size
 * at a time. */
float train_validation_loss(Model *model, const TokenSource *source, int windows, int batch_size,
                            int context_length);

/* The same into losses[0], and the modules' (chapter 06) into losses[1 .. depth], each a mean over
 * the rows of a batch that have its target. end: as MtpTraining's. */
void train_validation_losses(Model *model, const TokenSource *source, int windows, int batch_size,
                             int context_length, int32_t end, float losses[OBJECTIVE_SHOWN]);

#endif
