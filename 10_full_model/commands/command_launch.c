/*
 * deepseek launch: a command as several ranks, on this machine, on several by mpirun, or as a job
 * file for Slurm.
 *
 * On one machine nothing else is needed. Processes on other machines are for a launcher that knows
 * how to get there: mpirun by ssh, Slurm by its own daemons. A path in the place of a command is
 * another program that knows ranks (common/comm/check_comm, 10_full_model/bench_ranks).
 */
#define _GNU_SOURCE
#include "10_full_model/commands/command.h"

#include "common/comm/launch.h"
#include "common/core/memory.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SLURM }; /* the only one */

typedef struct Options {
    int ranks, nodes, batch_script; /* -1: none */
    const char *hosts;              /* NULL: this machine */
    double timeout;
    bool verbose;
} Options;

static bool needs_quotes(const char *word) {
    return !*word || strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "_-+=./:,@%") != strlen(word);
}

/* A word as the shell wants it. */
static void print_word(const char *word) {
    if (!needs_quotes(word)) {
        printf(" %s", word);
        return;
    }
    printf(" '");
    for (; *word; word++)
        if (*word == '\'')
            printf("'\\''");
        else
            putchar(*word);
    putchar('\'');
}

static bool on_gpus(char *const *command) {
    for (int i = 0; command[i]; i++)
        if (!strcmp(command[i], "--device=cuda") ||
            (!strcmp(command[i], "--device") && command[i + 1] && !strcmp(command[i + 1], "cuda")))
            return true;
    return false;
}

static void print_slurm(const Options *o, const char *program, char *const *command) {
    int here = o->ranks / o->nodes;
    printf("#!/bin/bash\n"
           "#SBATCH --job-name=deepseek\n"
           "#SBATCH --nodes=%d\n"
           "#SBATCH --ntasks-per-node=%d\n"
           "#SBATCH --cpus-per-task=8          # cores of a rank\n",
           o->nodes, here);
    if (on_gpus(command)) printf("#SBATCH --gpus-per-node=%d\n", here);
    printf("#SBATCH --time=24:00:00\n"
           "#SBATCH --signal=INT@300           # five minutes before that: save, and stop\n"
           "#SBATCH --output=%%x-%%j.log\n\n"
           "# Rank 0 runs on the first node; its port comes from the job's number.\n"
           "export MASTER_ADDR=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n 1)\n"
           "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK\n\n"
           "srun --kill-on-bad-exit=1 --cpus-per-task=\"$SLURM_CPUS_PER_TASK\" \\\n   ");
    print_word(program);
    for (int i = 0; command[i]; i++) print_word(command[i]);
    putchar('\n');
}

/* Becomes mpirun, with the same number of ranks on each host. */
static int become_mpirun(const Options *o, const char *program, char *const *command, int words,
                         Error *err) {
    char hosts[4096] = "", ranks[16];
    int count = 1;
    for (const char *at = o->hosts; *at; at++) count += *at == ',';
    if (o->ranks % count)
        return error_set(err,
                         "-n %d cannot be shared out evenly over the %d hosts of --hosts; %d "
                         "can",
                         o->ranks, count, (o->ranks / count + 1) * count);
    char *list = must_strdup(o->hosts), *rest = list;
    for (char *host; (host = strsep(&rest, ","));) {
        size_t used = strlen(hosts);
        snprintf(hosts + used, sizeof hosts - used, "%s%s:%d", used ? "," : "", host,
                 o->ranks / count);
    }
    free(list);
    snprintf(ranks, sizeof ranks, "%d", o->ranks);
    const char *head[] = {"mpirun", "--quiet", "-n", ranks, "--host", hosts};
    enum { HEAD = sizeof head / sizeof head[0] };
    const char **argv = must_alloc((size_t)words + HEAD + 6, sizeof *argv);
    int n = 0;
    for (int i = 0; i < HEAD; i++) argv[n++] = head[i];
    if (getenv("OMP_NUM_THREADS")) argv[n++] = "-x", argv[n++] = "OMP_NUM_THREADS";
    if (o->timeout > 0) argv[n++] = "-x", argv[n++] = "DEEPSEEK_TIMEOUT";
    argv[n++] = program;
    for (int i = 0; i < words; i++) argv[n++] = command[i];
    char seconds[24];
    snprintf(seconds, sizeof seconds, "%g", o->timeout);
    if (o->timeout > 0) setenv("DEEPSEEK_TIMEOUT", seconds, 1);
    execvp("mpirun", (char *const *)argv);
    free(argv);
    return error_set(err,
                     "other hosts are reached by mpirun, which is not here (%s): `make mpi` "
                     "installs it, or use torchrun or srun",
                     strerror(errno));
}

/* Where the command begins: behind "--". */
static int find_command(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--")) return i + 1;
    return argc;
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.nodes = 1, .batch_script = -1}, *o = &options;
    static const char *const scripts[] = {"slurm", NULL};
    const Option flags[] = {
        OPT_INT("ranks", 'n', "N", &o->ranks, 1, 4096, "How many; there is no default"),
        OPT_STRING("hosts", 0, "A,B,...", &o->hosts,
                   "On these machines, by mpirun (default: on this one)"),
        OPT_CHOICE("batch-script", 0, "slurm", &o->batch_script, scripts,
                   "Print a job file and start nothing"),
        OPT_INT("nodes", 0, "N", &o->nodes, 1, 4096, "Machines of the job file"),
        OPT_FLOAT("timeout", 0, "S", &o->timeout, 0, 1e6,
                  "Seconds in one collective that count as standing still (default 600)"),
        OPT_FLAG("verbose", 0, &o->verbose, "Show what every rank prints, not rank 0 alone"),
        OPT_END};
    int first = find_command(argc, argv);
    options_parse(first < argc ? first - 1 : argc, argv,
                  "Starts a command as several ranks: deepseek launch -n 2 -- train --data ...",
                  flags);
    if (!o->ranks) options_error(argv, "--ranks N (or -n N) says how many");
    char *const *command = argv + first;
    if (first >= argc)
        options_error(argv, "which command? It stands behind --, as in\n"
                            "  deepseek launch -n 2 -- train --data bible.txt --out out/bible");
    if (o->nodes > 1 && o->batch_script < 0)
        options_error(argv, "--nodes is for --batch-script; --hosts names machines");
    if (o->ranks % o->nodes)
        options_error(argv, "-n %d cannot be shared out evenly over %d nodes", o->ranks, o->nodes);
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0) return error_set(err, "/proc is not there, which names this program");
    program[length] = 0;
    if (strchr(command[0], '/')) snprintf(program, sizeof program, "%s", *command++), first++;
    if (access(program, X_OK)) return error_set(err, "%s: %s", program, strerror(errno));
    if (o->batch_script == SLURM) return print_slurm(o, program, command), 0;
    if (o->hosts) return become_mpirun(o, program, command, argc - first, err);
    char **words = must_alloc((size_t)(argc - first) + 2, sizeof *words);
    words[0] = program;
    for (int i = 0; command[i]; i++) words[i + 1] = command[i];
    const Launch launch = {
        .ranks = o->ranks, .argv = words, .verbose = o->verbose, .timeout = o->timeout};
    int status = launch_ranks(&launch, err);
    free(words);
    return status;
}

const Command command_launch = {"launch",
                                "Starts a command as several ranks, which compute together.", run};
