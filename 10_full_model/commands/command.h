/*
 * The program's commands: `deepseek NAME [FLAG...]`.
 *
 * Each has a file of its own, command_NAME.c, with its flags, what it does, and nothing that
 * another one needs. run() reads the command line (a wrong one ends the program with 2), does the
 * work, and returns 0, or -1 and a message.
 */
#ifndef COMMAND_H
#define COMMAND_H

#include "common/core/error.h"
#include "common/program/options.h"

typedef struct Command {
    const char *name, *about; /* about: one line, for the list and for --help */
    int (*run)(int argc, char **argv, Error *err);
} Command;

extern const Command command_data, command_train, command_generate, command_eval, command_logits,
    command_info, command_convert;

/* options_parse with the command's own flags and parser, and its `about` in --help. --csv is for
 * train alone. */
void command_parse(const Command *command, const struct argp_option *flags, argp_parser_t parser,
                   int argc, char **argv, CommonOptions *common, void *options);

/* A list of files from a flag that may be given several times. */
typedef struct FileList {
    const char *paths[256];
    int count;
} FileList;
void file_list_add(FileList *list, const struct argp_state *state, const char *flag, char *path);

#endif
