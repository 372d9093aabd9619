/*
 * What the commands that train share: how a run begins, flags that are not given, memory that is
 * not there, and what is said in the end.
 */
#ifndef TRAINING_H
#define TRAINING_H

#include "10_full_model/commands/command.h"
#include "10_full_model/train/train.h"

/* Rows of a table: --resume, --minutes and --overwrite, which set these. */
typedef struct StartFlags {
    Option rows[4];
} StartFlags;
StartFlags training_start_flags(bool *resume, double *minutes, bool *overwrite);
/* What the two say together; both are a wrong command line. */
RunStart training_start(bool resume, bool overwrite, char **argv);

/* Before the flags are parsed: warm-up and floor are "not given"; returns the usual warm-up. And
 * behind it: a floor of a tenth, and the usual warm-up, of a short run a quarter. */
int64_t training_schedule_not_given(Schedule *schedule);
void training_schedule_usual(Schedule *schedule, int64_t warmup);

/* What the schedule's flags say together; a wrong command line. */
void training_check_schedule(const Schedule *schedule, char **argv);

/* Both folders of the run that --out names are others than `from`, which is only read; else a wrong
 * command line. */
void training_check_source(const char *from, const char *out, char **argv);

/*
 * Several ranks, if the environment says that there are (common/comm/comm.h): opened behind the
 * flags, before any work is done. Only rank 0 goes on printing. -1 and a message.
 */
int training_open_comm(Comm **comm, const CommonOptions *common, int kind, Error *err);

/* The flags' context, on this rank's GPU, and its place among the ranks and, for --expert-parallel,
 * among those that share the experts. Ends the program if the device is not there. */
int training_open_context(Context *ctx, Comm *comm, const CommonOptions *common,
                          const RankOptions *ranks, Error *err);
/* Both. status: of what they were opened for; where one rank alone failed the others do not come
 * to say goodbye. */
void training_close(Context *ctx, Comm *comm, int status);

/* A run could be in the folder (run_folder_open), and the CSV written: rank 0 looks. */
int training_check_folder(const char *out, RunStart start, const char *csv, Comm *comm, Error *err);

/* Says so where a model's weights are quantised: what is trained is plain. */
void training_note_quantised(const ModelConfig *cfg, const char *from);

/* A model without a text to learn tokens from: each byte is one, and there is an end. */
enum { TRAINING_BYTES = 257 };

/* The token that an empty prompt becomes; -1: there is none. */
int32_t training_begin(const Tokenizer *tokenizer, const ModelConfig *cfg);

/*
 * What does not fit is said before any work is done, and before the kernel would end the program.
 * Activations are an estimate: so much less than it they may be. smaller: which flags make them
 * so. -1 and a message.
 */
int training_check_memory(const ModelConfig *cfg, Context *ctx, int batch, int context_length,
                          const char *smaller, Error *err);

#define TRAINING_SMALLER "--batch, --context; --accumulate can take the place of a larger batch"

/* --dsa fits the model: -1 and a message if not. from: it begins with a model's weights, which the
 * flag `flag` names. */
int training_check_dsa(const TrainOptions *options, const ModelConfig *cfg, bool from,
                       const char *flag, Error *err);

/* The model with its first weights: those of the folder `from`, or (NULL) random ones. */
int training_model(Model *model, Context *ctx, const char *from, const ModelConfig *cfg,
                   const TrainOptions *options, Error *err);

/* What its indexers, if it has any, are about to do. */
void training_say_sparse(const Model *model, const TrainOptions *options);

/* How far it has come, and where what is. from: the flag that begins with a model's weights;
 * resume: what else changes in the command that goes on. */
void training_report(const TrainOptions *options, const TrainResult *result, const char *from,
                     const char *resume);

/* The charts of a run, beside its metrics. */
void training_draw(const char *csv, const char *out, const ModelConfig *cfg,
                   const TrainOptions *options);

#endif
