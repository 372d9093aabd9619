/*
 * The flags of training: one table, for the command line and for the comparison on resume.
 *
 * Rows that decide what is computed, or which model is the best, carry `.setting`: a resumed run
 * must have the same values, and a new flag is compared by carrying the mark. The schedule has a
 * rule of its own (training_state.h).
 */
#ifndef TRAIN_FLAGS_H
#define TRAIN_FLAGS_H

#include "10_full_model/train/train.h"

#include "common/program/options.h"

typedef struct TrainFlags {
    Option rows[24];
} TrainFlags;

/* The rows set *options, which must outlive them. Of its schedule, warmup and floor may be -1 for
 * "not given". */
TrainFlags train_flags(TrainOptions *options);

/* Those of several ranks, which a resumed run may change, but for --deterministic. */
typedef struct RankFlags {
    Option rows[8];
} RankFlags;
RankFlags rank_flags(RankOptions *options);
/* Of them those for ranks that each have all of a model. */
RankFlags rank_flags_of_copies(RankOptions *options);

#endif
