/*
 * The program: deepseek COMMAND [FLAG...]; each command has a file of its own.
 */
#include "10_full_model/commands/command.h"

#include "common/comm/environment.h"
#include "common/files/machine.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const Command *const commands[] = {&command_data,     &command_train,    &command_sft,
                                          &command_grpo,     &command_generate, &command_eval,
                                          &command_logits,   &command_info,     &command_convert,
                                          &command_quantize, &command_tokenize, &command_launch};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

/* Those that know what to do as one of several ranks; the others would all do the same, into the
 * same files. */
static const Command *const for_ranks[] = {&command_train, &command_sft, &command_grpo};
enum { FOR_RANKS = sizeof for_ranks / sizeof for_ranks[0] };

static int usage(FILE *out, int status) {
    fprintf(out, "Usage: deepseek COMMAND [FLAG...]\n\n");
    for (int i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-10s%s\n", commands[i]->name, commands[i]->about);
    fprintf(out, "\n`deepseek COMMAND --help` lists the flags. Example:\n"
                 "  deepseek train --data bible.txt --out out/bible &&\n"
                 "      deepseek generate -m out/bible -p \"And God \"\n");
    return status;
}

/* There are no releases: a commit, and what it was built with. */
static int version(void) {
#ifdef WITH_CUDA
    const char *cuda = "with CUDA";
#else
    const char *cuda = "without CUDA";
#endif
    printf("deepseek.c, commit %s\n%s, %s, %s\n", commit_describe().text, compiler_describe().text,
           blas_describe().text, cuda);
    return 0;
}

static void check_ranks(const Command *command) {
    Place place;
    Error err;
    if (environment_place(&place, &err)) fatal("%s", err.text);
    for (int i = 0; i < FOR_RANKS; i++)
        if (command == for_ranks[i]) return;
    if (place.rank > 0) exit(1); /* rank 0 says it */
    if (place.size > 1)
        fatal("%s runs alone, and this is rank 0 of %d (so says %s)", command->name, place.size,
              place.by);
}

int main(int argc, char **argv) {
    signal(SIGXFSZ, SIG_IGN); /* a limit on files is a full disk: write() fails, and is reported */
    options_output_must_arrive();
    if (argc < 2) return usage(stderr, 2);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-?")) return usage(stdout, 0);
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) return version();
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[1], commands[i]->name)) continue;
        check_ranks(commands[i]);
        char name[64];
        snprintf(name, sizeof name, "deepseek %s", commands[i]->name);
        argv[1] = name; /* for messages and --help */
        Error err;
        int status = commands[i]->run(argc - 1, argv + 1, &err);
        if (status < 0) fatal("%s", err.text);
        return status;
    }
    fprintf(stderr, "deepseek: there is no command '%s'\n\n", argv[1]);
    return usage(stderr, 2);
}
