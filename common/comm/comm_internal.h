/*
 * What the makes of a Comm share: who moves bytes, and what a Comm knows.
 *
 * A Carrier moves bytes between the ranks' host memories; comm.c builds the collectives on it, for
 * device memory by a copy there and back. NCCL, where it is used, takes the collectives on device
 * memory, and a carrier still does all the rest.
 */
#ifndef COMMON_COMM_INTERNAL_H
#define COMMON_COMM_INTERNAL_H

#include "common/comm/comm.h"
#include "common/comm/environment.h"

__BEGIN_DECLS

typedef struct Piece {
    void *data;
    size_t bytes;
} Piece;

typedef struct Carrier {
    const char *name;
    /* To each rank send[r], from each rank receive[r]; this rank's own is copied. */
    void (*exchange)(Comm *comm, const Piece *receive, const Piece *send);
    /* NULL: comm.c makes it of exchange. */
    void (*broadcast)(Comm *comm, void *data, size_t bytes, int root);
    void (*split)(Comm *part, Comm *whole, int color);
    void (*close)(Comm *comm);
} Carrier;

typedef struct Member {
    char host[64];
    int pid;
} Member;

typedef struct Nccl Nccl;
typedef struct Watchdog Watchdog;

struct Comm {
    int rank, size;
    Comm *world;      /* all ranks; itself */
    int *world_ranks; /* [size] */
    const Carrier *carrier;
    void *link; /* the carrier's */
    int calls;  /* exchanges so far, which the ranks count alike */
    const char *doing;
    void *room; /* of sums */
    size_t room_bytes;
    /* Of device memory: */
    CommKind kind;
    Gpu *gpu;
    Nccl *nccl; /* NULL: through the host */
    void *staging[2];
    size_t staging_bytes[2];
    /* Of the world: */
    Member *members; /* [size] */
    int local_rank, local_size;
    double timeout;
    Watchdog *watchdog;
    char make[64];
};

/* ---- carriers ---- */

int sockets_open(Comm *comm, const Place *place, Error *err);
int mpi_open(Comm *comm, Error *err); /* also fills in rank and size */
bool mpi_is_built(void);
extern const Carrier comm_sockets;

/* ---- NCCL, and memory that the GPU reads and writes by itself: comm_gpu.cu, comm_gpu_none.c ----
 */

/* Loads the library: its version, "2.28.9". NULL and a message: there is none. */
const char *nccl_load(Error *err);
/* Collective. whole: the one of which comm is a part; NULL: it is the world. */
Nccl *nccl_open(Comm *comm, Nccl *whole, int color);
void nccl_close(Nccl *nccl);
void nccl_all_reduce(Nccl *nccl, void *data, int64_t count, DType dtype, CommOp op);
void nccl_reduce_scatter(Nccl *nccl, void *out, const void *in, int64_t count, DType dtype);
void nccl_all_gather(Nccl *nccl, void *out, const void *in, int64_t count, DType dtype);
void nccl_broadcast(Nccl *nccl, void *data, int64_t count, DType dtype, int root);
void nccl_all_to_all(Nccl *nccl, void *out, const int64_t *receive_counts, const void *in,
                     const int64_t *send_counts, DType dtype);
void nccl_beside_begin(Nccl *nccl);
void nccl_beside_end(Nccl *nccl);
void nccl_join(Nccl *nccl);
/* For the watchdog: what has gone wrong behind the program's back (NULL: nothing), and since how
 * many seconds the oldest unfinished collective has been in its stream. */
const char *nccl_trouble(Nccl *nccl);
double nccl_waiting(Nccl *nccl, const char **doing);
void nccl_abort(Nccl *nccl);

void *pinned_alloc(size_t bytes);
void pinned_free(void *data);

__END_DECLS
#endif
