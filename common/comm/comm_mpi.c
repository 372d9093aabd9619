/*
 * The carrier over MPI (Open MPI), for ranks that mpirun has started, or srun with PMIx.
 *
 * The program is built with MPI's header, and loads its library when it finds itself a rank: alone
 * it starts as fast as without, and on a machine that has no MPI at all. What goes from each to
 * each are messages of bytes, at most a GiB each, because MPI counts in int. Sums are made in
 * comm.c, in the order of the ranks, so that MPI and sockets give the same bits. (Open MPI 4.1's
 * own take twice as long for 64 MiB between two ranks of one machine.)
 */
#include "common/comm/comm_internal.h"

#if defined(WITH_MPI) && __has_include(<mpi.h>)
#include "common/core/memory.h"

#include <dlfcn.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST = 1 << 30 }; /* bytes of a message */

/* name, of MPI_name */
/* clang-format off */
#define FUNCTIONS(X) \
    X(Init_thread) X(Finalize) X(Comm_rank) X(Comm_size) X(Comm_split) X(Comm_free) \
    X(Comm_set_errhandler) X(Error_string) X(Bcast) X(Isend) X(Irecv) X(Waitall) \
    X(Get_count)
/* clang-format on */

#define POINTER(name) __typeof__(MPI_##name) *name;
static struct Mpi {
    FUNCTIONS(POINTER)
    void *handle;
} mpi;

/* MPI_COMM_WORLD and its like are addresses of what is in the library. */
static MPI_Comm world;
static MPI_Datatype mpi_byte;
static MPI_Errhandler mpi_errors_return;

static int load(Error *err) {
    static const char *const names[] = {"libmpi.so.40", "libmpi.so"};
    for (int i = 0; i < 2 && !mpi.handle; i++)
        mpi.handle = dlopen(names[i], RTLD_NOW | RTLD_GLOBAL); /* global: for its plugins */
    if (!mpi.handle)
        return error_set(err,
                         "mpirun has started this process, but MPI's library cannot be "
                         "loaded: %s. `make mpi` installs Open MPI",
                         dlerror());
#define FIND(name)                                         \
    *(void **)&mpi.name = dlsym(mpi.handle, "MPI_" #name); \
    if (!mpi.name) return error_set(err, "MPI's library has no MPI_" #name);
    FUNCTIONS(FIND)
    world = dlsym(mpi.handle, "ompi_mpi_comm_world");
    mpi_byte = dlsym(mpi.handle, "ompi_mpi_byte");
    mpi_errors_return = dlsym(mpi.handle, "ompi_mpi_errors_return");
    if (!world || !mpi_byte || !mpi_errors_return)
        return error_set(err, "MPI's library is not an Open MPI like the one of the build");
    return 0;
}

static void done(Comm *comm, int status) {
    char why[MPI_MAX_ERROR_STRING] = "";
    int length;
    if (status == MPI_SUCCESS) return;
    mpi.Error_string(status, why, &length);
    comm_abort(comm, "%s: %s", comm->doing, why);
}

/* Nothing is a message, too: so a rank that expects nothing learns of what comes. */
static int parts(size_t bytes) { return bytes ? (int)((bytes + LARGEST - 1) / LARGEST) : 1; }

static int part_bytes(Piece piece, int i) {
    size_t left = piece.bytes - (size_t)i * LARGEST;
    return (int)(left < LARGEST ? left : LARGEST);
}

/* A message that is longer than what its receiver expects is an error of MPI's; one that is shorter
 * is found here. */
static void check_received(Comm *comm, int r, int expected, MPI_Status *status) {
    int count;
    done(comm, mpi.Get_count(status, mpi_byte, &count));
    if (count != expected)
        comm_abort(comm, "in %s, rank %d (%s) sends %d bytes where this one expects %d",
                   comm->doing, r, comm_host_name(comm, r), count, expected);
}

static void exchange(Comm *comm, const Piece *receive, const Piece *send) {
    int requests = 0, messages = 0, tag = comm->calls & 0x7fff;
    for (int r = 0; r < comm->size; r++) messages += parts(receive[r].bytes) + parts(send[r].bytes);
    MPI_Request *list = must_alloc((size_t)messages, sizeof *list);
    MPI_Status *statuses = must_alloc((size_t)messages, sizeof *statuses);
    for (int way = 0; way < 2; way++) /* first all receives, so that what comes has a place */
        for (int r = 0; r < comm->size; r++) {
            Piece piece = way ? send[r] : receive[r];
            for (int i = 0; r != comm->rank && i < parts(piece.bytes); i++) {
                char *at = (char *)piece.data + (size_t)i * LARGEST;
                int bytes = part_bytes(piece, i);
                MPI_Request *request = &list[requests++];
                done(comm, way ? mpi.Isend(at, bytes, mpi_byte, r, tag, comm->link, request)
                               : mpi.Irecv(at, bytes, mpi_byte, r, tag, comm->link, request));
            }
        }
    Piece to = receive[comm->rank], from = send[comm->rank];
    if (from.bytes && to.data != from.data) memmove(to.data, from.data, from.bytes);
    int status = mpi.Waitall(requests, list, statuses);
    for (int i = 0; i < requests && status == MPI_ERR_IN_STATUS; i++)
        if (statuses[i].MPI_ERROR != MPI_ERR_PENDING) done(comm, statuses[i].MPI_ERROR);
    done(comm, status);
    for (int r = 0, at = 0; r < comm->size; r++)
        for (int i = 0; r != comm->rank && i < parts(receive[r].bytes); i++)
            check_received(comm, r, part_bytes(receive[r], i), &statuses[at++]);
    free(statuses);
    free(list);
}

static void broadcast(Comm *comm, void *data, size_t bytes, int root) {
    for (size_t at = 0; at < bytes; at += LARGEST)
        done(comm, mpi.Bcast((char *)data + at, (int)(bytes - at < LARGEST ? bytes - at : LARGEST),
                             mpi_byte, root, comm->link));
}

static void mpi_split(Comm *part, Comm *whole, int color) {
    MPI_Comm link;
    done(whole, mpi.Comm_split(whole->link, color, whole->rank, &link));
    part->link = link; /* which inherits how errors are handled */
}

static void mpi_close(Comm *comm) {
    MPI_Comm link = comm->link;
    if (comm == comm->world)
        done(comm, mpi.Finalize());
    else
        done(comm, mpi.Comm_free(&link));
}

static const Carrier carrier = {.name = "MPI",
                                .exchange = exchange,
                                .broadcast = broadcast,
                                .split = mpi_split,
                                .close = mpi_close};

bool mpi_is_built(void) { return true; }

int mpi_open(Comm *comm, Error *err) {
    int provided;
    if (load(err)) return -1;
    if (mpi.Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return error_set(err, "MPI does not start; mpirun says why");
    done(comm, mpi.Comm_rank(world, &comm->rank));
    done(comm, mpi.Comm_size(world, &comm->size));
    done(comm,
         mpi.Comm_set_errhandler(world, mpi_errors_return)); /* so that we say who and where */
    comm->link = world;
    comm->carrier = &carrier;
    return 0;
}
#else
bool mpi_is_built(void) { return false; }

int mpi_open(Comm *comm, Error *err) {
    (void)comm;
    return error_set(err, "mpirun has started this process, but the program was built without MPI: "
                          "`make mpi` installs Open MPI, and then make builds with it; `deepseek "
                          "launch` needs none");
}
#endif
