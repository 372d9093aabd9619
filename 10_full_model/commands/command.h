/*
 * The program's commands: `deepseek NAME [FLAG...]`.
 *
 * Each has a file of its own, command_NAME.c, with its flags, what it does, and nothing that
 * another one needs. run() reads the command line (a wrong one ends the program with 2), does the
 * work, and returns the exit status, or -1 and a message.
 */
#ifndef COMMAND_H
#define COMMAND_H

#include "common/core/error.h"
#include "common/program/options.h"

typedef struct Command {
    const char *name, *about; /* about: one line, for the list and for --help */
    int (*run)(int argc, char **argv, Error *err);
} Command;

extern const Command command_data, command_train, command_sft, command_grpo, command_generate,
    command_eval, command_logits, command_info, command_convert, command_quantize, command_tokenize,
    command_launch;

#endif
