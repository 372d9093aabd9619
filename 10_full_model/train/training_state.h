/*
 * All that a training run is, between two steps: the file training.safetensors.
 *
 * A run that is stopped after step s and resumed must end in the same bits as one that was not. So
 * the file holds whatever a step reads and is not given on the command line:
 *
 *     weight.NAME      F32: the master weights, also when the model computes in BF16
 *     adamw.m.NAME     F32: AdamW's two moments
 *     adamw.v.NAME
 *     buffer.NAME      a router's bias, and the load it has counted
 *     metadata         steps done, streams that the random numbers have used up, the best
 *                      validation loss so far, the schedule and the settings of the run
 *
 * A run that learns from rewards (09_grpo/grpo.h) has its counters in the metadata, too, and the
 * weights of its reference, if it has one:
 *
 *     reference.NAME           as the reference computes with them
 *     reference.buffer.NAME
 *
 * Which text a step sees is no state: it is a function of the seed and the step (token_source.h).
 * The weights are here although DIR/last/model.safetensors has them too: one file is replaced by
 * one rename, so there can be no mixture of the weights of one step and the moments of another,
 * whenever the process is killed.
 *
 * The settings must be the same when the run is resumed; the first that differs is named. The
 * schedule need only give every finished step the learning rate that it had. So more steps may
 * follow as long as no step of the cosine, whose every value depends on its end, is done; and the
 * weights come out in the bits of a run that had the new schedule from the beginning.
 */
#ifndef TRAINING_STATE_H
#define TRAINING_STATE_H

#include "10_full_model/model/model.h"

#include "09_grpo/grpo.h"
#include "common/comm/comm.h"
#include "common/core/optimizer.h"

/* What else a run that learns from rewards remembers. */
typedef struct RewardState {
    GrpoState grpo;        /* its count of steps is the run's: AdamW's may be another */
    double accuracy_first; /* before the first step */
    Model *reference;      /* NULL: there is none */
} RewardState;

typedef struct TrainingState {
    AdamW adamw; /* its settings are the run's; adamw.step counts the finished steps */
    Schedule schedule;
    float best_validation_loss; /* INFINITY: none yet. With rewards: minus the best reward */
    int64_t best_step;
    RewardState *rewards; /* NULL: a run without; only what it points to is written and filled */
} TrainingState;

/* Finished steps. */
int64_t training_state_steps(const TrainingState *state);

/* A setting as text, "learning rate" and "0.003". What is compared is the text. */
typedef struct Setting {
    char name[40], value[64];
} Setting;

typedef struct Settings {
    Setting list[96];
    int count;
} Settings;

void settings_integer(Settings *settings, const char *name, int64_t value);
/* With as many digits, up to 9, as tell this float from all others. */
void settings_number(Settings *settings, const char *name, double value);
void settings_text(Settings *settings, const char *name, const char *value);
/* The keys of config.json that change what is computed (config_table.h). */
void settings_of_model(Settings *settings, const ModelConfig *cfg);

/* Several ranks: are they about to do the same, with the same program? how: what is no setting. -1
 * and a message that names the first rank and the first thing that is not as rank 0 has it. */
int settings_agree(Comm *comm, const Settings *settings, const Schedule *schedule, const char *how,
                   Error *err);

/* Writes DIRECTORY/training.safetensors. -1 and a message; then the old file is as it was. */
int training_state_save(Model *model, const TrainingState *state, const Settings *settings,
                        const char *directory, Error *err);

/*
 * Fills the model (allocated for training, of the same shape), its context's random numbers and
 * the state; state->adamw keeps its settings, and so does the schedule. -1 and a message for a file
 * that is damaged or belongs to a run with other settings: then nothing was changed.
 */
int training_state_load(Model *model, TrainingState *state, const Settings *settings,
                        const char *directory, Error *err);

#endif
