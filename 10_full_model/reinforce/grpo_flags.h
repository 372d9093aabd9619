/*
 * The flags of learning from rewards: one table, for the command line and for the comparison on
 * resume, as train_flags.h. Names and defaults are those of TRL's GRPOConfig where it has them,
 * with dashes; what is None there is 0 here.
 */
#ifndef GRPO_FLAGS_H
#define GRPO_FLAGS_H

#include "10_full_model/reinforce/grpo_run.h"

#include "common/program/options.h"

typedef struct GrpoFlags {
    Option rows[50];
} GrpoFlags;

/* The rows set *options, which must outlive them. */
GrpoFlags grpo_flags(GrpoRunOptions *options);

/* Before the flags are parsed: what depends on other flags is "not given". And behind it: what it
 * is then. */
void grpo_flags_not_given(GrpoRunOptions *options);
void grpo_flags_usual(GrpoRunOptions *options);

#endif
