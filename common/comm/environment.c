/*
 * A table of conventions; the first whose rank and size are both there counts.
 */
#include "common/comm/environment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Convention {
    const char *by, *rank, *size, *local_rank;
    const char *mpi; /* if this is set, too, MPI knows the others; NULL: it never does */
} Convention;

static const Convention conventions[] = {
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_RANK"},
    {"RANK and WORLD_SIZE", "RANK", "WORLD_SIZE", "LOCAL_RANK", NULL},
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "PMIX_RANK"},
    {"mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", NULL},
};
enum { MPIRUN, CONVENTIONS = sizeof conventions / sizeof conventions[0] };

static int number(int *value, const char *name, int least, int most, Error *err) {
    const char *text = getenv(name);
    char *end;
    long n = strtol(text, &end, 10);
    if (end == text || *end || n < least || n > most)
        return error_set(err, "the environment has %s=%s, which should be a number from %d to %d",
                         name, text, least, most);
    *value = (int)n;
    return 0;
}

/* Where rank 0 can be found. */
static int find_master(Place *p, Error *err) {
    const char *address = getenv("MASTER_ADDR"), *launched = getenv("SLURM_LAUNCH_NODE_IPADDR"),
               *file = getenv("DEEPSEEK_BOOTSTRAP"), *slurm = getenv("SLURM_JOB_ID");
    static const char *const names[] = {"DEEPSEEK_JOB", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"};
    for (int i = 0; i < 3 && !p->job[0]; i++)
        if (getenv(names[i])) snprintf(p->job, sizeof p->job, "%s", getenv(names[i]));
    if (file && *file) {
        if (strlen(file) >= sizeof p->file)
            return error_set(err, "the name in DEEPSEEK_BOOTSTRAP is too long");
        snprintf(p->file, sizeof p->file, "%s", file);
        return 0;
    }
    if (!address && slurm) address = launched;
    snprintf(p->address, sizeof p->address, "%s", address ? address : "127.0.0.1");
    p->port = slurm ? 20000 + atoi(slurm) % 20000 : 29500;
    if (getenv("MASTER_PORT") && number(&p->port, "MASTER_PORT", 1, 65535, err)) return -1;
    /* torchrun's agent listens on that port itself, and then the next one is ours. */
    const char *agent = getenv("TORCHELASTIC_USE_AGENT_STORE");
    p->port += agent && !strcmp(agent, "True");
    return 0;
}

int environment_place(Place *place, Error *err) {
    *place = (Place){.size = 1, .local_rank = -1, .by = "nobody"};
    for (int i = 0; i < CONVENTIONS; i++) {
        const Convention *c = &conventions[i];
        if (!getenv(c->rank) || !getenv(c->size)) continue;
        place->by = c->by;
        if (number(&place->size, c->size, 1, 1 << 16, err) ||
            number(&place->rank, c->rank, 0, place->size - 1, err))
            return -1;
        if (getenv(c->local_rank) && number(&place->local_rank, c->local_rank, 0, 1 << 16, err))
            return -1;
        place->mpi = c->mpi && getenv(c->mpi);
        return i == MPIRUN ? 0 : find_master(place, err);
    }
    return 0;
}
