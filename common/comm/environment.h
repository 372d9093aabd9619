/*
 * Which of several processes is this one? Whoever starts them says so in the environment:
 *
 *     mpirun             OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK               MPI
 *     torchrun,          RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT sockets
 *     `deepseek launch`
 *     srun               SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID      sockets; MPI where
 *                                                                               srun speaks PMIx
 *     MPICH's mpiexec    PMI_RANK, PMI_SIZE, MPI_LOCALRANKID                    sockets
 *
 * Sockets need to know where rank 0 is: MASTER_ADDR and MASTER_PORT, or a file that all can see,
 * DEEPSEEK_BOOTSTRAP, in which rank 0 writes it. A batch script of Slurm is no rank of its job,
 * though SLURM_PROCID is 0 in it: only srun gives a step its number of tasks.
 */
#ifndef COMMON_ENVIRONMENT_H
#define COMMON_ENVIRONMENT_H

#include "common/core/error.h"

#include <stdbool.h>

typedef struct Place {
    int rank, size; /* 0 of 1: nobody says anything */
    int local_rank; /* -1: not said */
    bool mpi;       /* MPI knows the others; without it, sockets can do if there is a port */
    const char *by; /* "mpirun", "torchrun", ...: for messages */
    /* Of sockets; port 0: nobody has said where they would meet: */
    char address[256]; /* of rank 0 */
    int port;
    char file[512]; /* where the two stand; "": they are known */
    char job[64];   /* what the ranks of one job have in common and no other has; may be "" */
} Place;

/* -1 and a message: numbers that are none, or do not fit each other. */
int environment_place(Place *place, Error *err);

#endif
