/*
 * Several processes that compute one thing: what they say to each other.
 *
 * A process is a rank of `size`. Every rank calls the same functions in the same order (a
 * collective); each returns when the rank may go on: on the host when the data is there, on a GPU
 * when the work is in the stream. NULL is a Comm, too: one process, and every collective does what
 * it does among one.
 *
 *     who carries      one process | MPI, where mpirun has started us | sockets, elsewhere
 *     device memory    goes by NCCL, a GPU for each rank; or through the host, where ranks may
 *                      share a GPU
 *
 * A collective does not return errors: a rank that cannot go on ends all of them (comm_abort), with
 * one message that names rank, host, step and what to do. A rank that dies, or stands still, is
 * noticed by the others' watchdogs (watchdog.h), with a message of the same kind.
 *
 * Sums are added in an order that depends on the number of ranks, and on nothing else: the same
 * bits in every run, and on every rank.
 */
#ifndef COMMON_COMM_H
#define COMMON_COMM_H

#include "common/core/gpu.h"

#include <stdbool.h>

__BEGIN_DECLS

typedef struct Comm Comm;
typedef enum CommOp { COMM_SUM, COMM_MAX } CommOp;

/* ---- opening ---- */

typedef enum CommKind {
    COMM_AUTO, /* NCCL for a GPU's memory, the host for the CPU's */
    COMM_HOST, /* a GPU's memory, too, goes through the host: ranks may share a GPU */
    COMM_NCCL
} CommKind;

typedef struct CommOptions {
    Device device; /* whose memory the collectives will be on */
    CommKind kind;
    double timeout; /* seconds in one collective that count as standing still; 0: $DEEPSEEK_TIMEOUT,
                       or 600 */
} CommOptions;

/*
 * Opens what the environment says: mpirun, srun, torchrun's variables or `deepseek launch`
 * (environment.h has the list). *comm stays NULL where it says nothing, or a size of 1. Waits until
 * all ranks are here. -1 and a message: the others will not come, do not belong to us, or have no
 * GPU each. From here on fatal(), too, ends all ranks.
 */
int comm_open(Comm **comm, const CommOptions *options, Error *err);

/* This rank's number among those of its host, and the GPU that is its own, for context_init_gpu. */
int comm_local_rank(const Comm *comm); /* 0 for NULL */
int comm_gpu(const Comm *comm);        /* 0 for NULL */

/* Behind context_init_gpu: collectives are on this GPU's memory and in its stream from now on.
 * Collective. */
void comm_use_gpu(Comm *comm, Gpu *gpu);

/* The last collective: waits for all. NULL is fine. */
void comm_close(Comm *comm);

/* A part of the ranks: those that give one color, in order of their ranks. Collective. comm_close()
 * for each, before that of the whole. NULL: alone under its color. */
Comm *comm_split(Comm *comm, int color);

int comm_rank(const Comm *comm); /* 0 for NULL */
int comm_size(const Comm *comm); /* 1 for NULL */
/* The host of a rank, and how data travels: "sockets", "MPI", "NCCL 2.28.9", "MPI, staged", ... */
const char *comm_host_name(const Comm *comm, int rank);
const char *comm_make(const Comm *comm);

/*
 * ---- collectives ----
 *
 * On memory of the device (the host's; or that GPU's, in stream order) of dtype F32, BF16 or I32.
 * Counts are elements, and the same on every rank; 0 is fine.
 */
void comm_all_reduce(Comm *comm, void *data, int64_t count, DType dtype, CommOp op); /* in place */

/* in [size, count]: out [count] is this rank's row, summed over the ranks. out may be in + rank *
 * count; the other rows of in are not kept then. */
void comm_reduce_scatter(Comm *comm, void *out, const void *in, int64_t count, DType dtype);

/* out [size, count]: each rank's in [count]. in may be out + rank * count. */
void comm_all_gather(Comm *comm, void *out, const void *in, int64_t count, DType dtype);

void comm_broadcast(Comm *comm, void *data, int64_t count, DType dtype, int root);

/* To rank r send_counts[r] elements, in order; from rank r receive_counts[r]. The counts are in
 * host memory, [size]; zeros are fine. in and out are different memory. */
void comm_all_to_all(Comm *comm, void *out, const int64_t *receive_counts, const void *in,
                     const int64_t *send_counts, DType dtype);

/* Small things in host memory, whatever the device. They wait. */
void comm_gather_host(Comm *comm, void *all, const void *mine, size_t bytes); /* [size, bytes] */
void comm_broadcast_host(Comm *comm, void *data, size_t bytes, int root);
double comm_sum_host(Comm *comm, double value); /* in order of ranks */
void comm_barrier(Comm *comm);

/* ---- beside what computes ---- */

/*
 * Between begin and end, NCCL's collectives go beside the stream that computes, as one group: they
 * wait for what it holds at begin, and comm_join() makes it wait for them. Without NCCL nothing
 * runs beside: they are done at once.
 */
void comm_beside_begin(Comm *comm);
void comm_beside_end(Comm *comm);
void comm_join(Comm *comm);

/* ---- faults ---- */

/* Where the run is, for messages: called once a step, by every rank. */
void comm_step(Comm *comm, int64_t step);

/* Ends every rank: one message, "rank 1 (host), step 17: ...", and exit code 1 everywhere. NULL:
 * fatal(). */
void comm_abort(Comm *comm, const char *format, ...)
    __attribute__((noreturn, format(printf, 2, 3)));

/* Every rank gives what it found, 0 or -1 and a message; all return -1 if one did, with the message
 * of the lowest such rank: "rank 1 (host): ...". */
int comm_agree(Comm *comm, int status, Error *err);

/* Every rank gives a text under a name (a config, a hash of the data, the program's version): -1
 * and a message that names the first rank whose text is not rank 0's. */
int comm_same(Comm *comm, const char *name, const char *text, Error *err);

__END_DECLS
#endif
