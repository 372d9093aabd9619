/*
 * Opening and closing, and what ranks agree on.
 *
 * In order: the environment says who we are; a carrier connects us; each tells on which host it is;
 * the watchdog's connections; and who has which GPU. From the watchdog on, whatever goes wrong on
 * one rank is said once and ends all.
 */
#define _GNU_SOURCE /* gethostname */
#include "common/comm/comm_internal.h"
#include "common/comm/watchdog.h"
#include "common/core/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* fatal() has no Comm at hand. */
static Comm *opened;

static void end_all(const char *message) { comm_abort(opened, "%s", message); }

/* ---- agreement ---- */

typedef struct Found {
    int status;
    Error error;
} Found;

int comm_agree(Comm *comm, int status, Error *err) {
    if (!comm || comm->size == 1) return status;
    Found mine = {.status = status}, *all = must_alloc((size_t)comm->size, sizeof *all);
    if (status && err) mine.error = *err;
    comm_gather_host(comm, all, &mine, sizeof mine);
    int first = 0;
    while (first < comm->size && !all[first].status) first++;
    int failed = first < comm->size;
    if (failed) {
        all[first].error.text[sizeof all[first].error.text - 1] = 0;
        error_set(err, "rank %d (%s): %s", first, comm_host_name(comm, first),
                  all[first].error.text);
    }
    free(all);
    return failed ? -1 : 0;
}

/* The first line of two texts in which they differ, shortened. */
static void first_difference(const char *theirs, const char *ours, char *a, char *b, size_t size) {
    const char *start_a = theirs, *start_b = ours;
    for (; *theirs && *theirs == *ours; theirs++, ours++)
        if (*theirs == '\n') start_a = theirs + 1, start_b = ours + 1;
    snprintf(a, size, "%.*s", (int)strcspn(start_a, "\n"), start_a);
    snprintf(b, size, "%.*s", (int)strcspn(start_b, "\n"), start_b);
}

int comm_same(Comm *comm, const char *name, const char *text, Error *err) {
    if (!comm || comm->size == 1) return 0;
    size_t bytes = strlen(text) + 1;
    comm_broadcast_host(comm, &bytes, sizeof bytes, 0);
    char *first = must_alloc(1, bytes);
    if (comm->rank == 0) memcpy(first, text, bytes);
    comm_broadcast_host(comm, first, bytes, 0);
    int status = 0;
    if (strcmp(first, text)) {
        char theirs[160], ours[160];
        first_difference(first, text, theirs, ours, sizeof theirs);
        status =
            error_set(err, "its %s is not rank 0's: '%s' here, '%s' there", name, ours, theirs);
    }
    free(first);
    return comm_agree(comm, status, err);
}

/* ---- opening ---- */

static Comm *new_comm(int rank, int size) {
    Comm *comm = must_alloc(1, sizeof *comm);
    *comm = (Comm){.rank = rank, .size = size, .doing = "opening"};
    comm->world = comm;
    return comm;
}

static int connect_ranks(Comm *comm, const Place *place, Error *err) {
    if (place->mpi && (mpi_is_built() || !place->port)) {
        if (mpi_open(comm, err)) return -1;
        if (comm->size != place->size) /* else each would think that it is alone */
            return error_set(err,
                             "mpirun has started %d ranks, and MPI's library knows of %d: they "
                             "are not of the same Open MPI",
                             place->size, comm->size);
    } else if (place->size > 1) {
        if (sockets_open(comm, place, err)) return -1;
    } else {
        comm->carrier = &comm_sockets; /* with nobody */
    }
    comm->world_ranks = must_alloc((size_t)comm->size, sizeof *comm->world_ranks);
    for (int r = 0; r < comm->size; r++) comm->world_ranks[r] = r;
    return 0;
}

static void learn_hosts(Comm *comm, const Place *place) {
    Member mine = {.pid = getpid()};
    gethostname(mine.host, sizeof mine.host - 1);
    comm->members = must_alloc((size_t)comm->size, sizeof *comm->members);
    comm_gather_host(comm, comm->members, &mine, sizeof mine);
    for (int r = 0; r < comm->size; r++) {
        if (strcmp(comm->members[r].host, mine.host)) continue;
        comm->local_rank += r < comm->rank;
        comm->local_size++;
    }
    if (place->local_rank >= 0) comm->local_rank = place->local_rank;
}

/* Is each rank of this host shown a GPU of its own (CUDA_VISIBLE_DEVICES), the first it sees? */
static bool one_is_shown(Comm *comm) {
    typedef struct Shown {
        char host[64], devices[64];
    } Shown;
    Shown mine = {0}, *all = must_alloc((size_t)comm->size, sizeof *all);
    const char *devices = getenv("CUDA_VISIBLE_DEVICES");
    snprintf(mine.host, sizeof mine.host, "%s", comm->members[comm->rank].host);
    snprintf(mine.devices, sizeof mine.devices, "%s", devices ? devices : "");
    comm_gather_host(comm, all, &mine, sizeof mine);
    bool own = gpu_count() == 1 && devices;
    for (int r = 0; r < comm->size; r++)
        if (r != comm->rank && !memcmp(&all[r], &mine, sizeof mine)) own = false;
    free(all);
    return own;
}

/* For NCCL each rank of a host has a GPU of its own. */
static int check_gpus(Comm *comm, Error *err) {
    int gpus = gpu_count(), status = 0;
    bool shown = one_is_shown(comm);
    const char *version = NULL;
    if (!gpus)
        status = error_set(err, "no usable GPU (check `nvidia-smi`), or a program built without "
                                "nvcc: use --device cpu");
    else if (comm->local_size > gpus && !shown)
        status = error_set(err,
                           "%d ranks on this host, and %d GPU%s: NCCL wants one for each. Start "
                           "%d here, or let ranks share by --comm host",
                           comm->local_size, gpus, gpus > 1 ? "s" : "", gpus);
    else if (!(version = nccl_load(err)))
        status = error_prefix(err, "--comm host goes without NCCL: ");
    snprintf(comm->make, sizeof comm->make, "NCCL %s", version ? version : "");
    return comm_agree(comm, status, err);
}

static double timeout_of(const CommOptions *options) {
    const char *text = getenv("DEEPSEEK_TIMEOUT");
    double seconds = options->timeout > 0 ? options->timeout : text ? atof(text) : 0;
    return seconds > 0 ? seconds : 600;
}

int comm_open(Comm **result, const CommOptions *options, Error *err) {
    Place place;
    *result = NULL;
    if (environment_place(&place, err)) return -1;
    if (place.size == 1 && options->kind != COMM_NCCL) return 0;
    Comm *comm = new_comm(place.rank, place.size);
    comm->timeout = timeout_of(options);
    if (connect_ranks(comm, &place, err)) {
        free(comm);
        return place.port ? error_prefix(err, "%s: ", place.by) : -1;
    }
    learn_hosts(comm, &place);
    if (watchdog_open(comm, err)) return -1;
    opened = comm;
    fatal_hand_over(end_all);
    comm->kind = options->device == CPU ? COMM_HOST : options->kind;
    snprintf(comm->make, sizeof comm->make, "%s%s", comm->carrier->name,
             options->device == CPU ? "" : ", staged");
    if (comm->kind == COMM_AUTO) comm->kind = COMM_NCCL;
    *result = comm;
    return comm->kind == COMM_NCCL ? check_gpus(comm, err) : 0;
}

int comm_gpu(const Comm *comm) {
    int gpus = gpu_count();
    return comm && gpus ? comm->local_rank % gpus : 0;
}

void comm_use_gpu(Comm *comm, Gpu *gpu) {
    if (!comm) return;
    comm->gpu = gpu;
    if (comm->kind == COMM_NCCL) comm->nccl = nccl_open(comm, NULL, 0);
    watchdog_nccl(comm->watchdog, comm->nccl);
}

Comm *comm_split(Comm *whole, int color) {
    if (!whole) return NULL;
    int *colors = must_alloc((size_t)whole->size, sizeof *colors);
    comm_gather_host(whole, colors, &color, sizeof color);
    Comm *part = new_comm(0, 0);
    part->world_ranks = must_alloc((size_t)whole->size, sizeof *part->world_ranks);
    for (int r = 0; r < whole->size; r++) {
        if (colors[r] != color) continue;
        if (r == whole->rank) part->rank = part->size;
        part->world_ranks[part->size++] = whole->world_ranks[r];
    }
    free(colors);
    part->world = whole->world;
    part->carrier = whole->carrier;
    part->gpu = whole->gpu;
    part->kind = whole->kind;
    part->carrier->split(part, whole, color);
    if (whole->nccl) part->nccl = nccl_open(part, whole->nccl, color);
    return part;
}

void comm_close(Comm *comm) {
    if (!comm) return;
    if (comm->nccl) {
        watchdog_nccl(comm->world->watchdog, comm == comm->world ? NULL : comm->world->nccl);
        nccl_close(comm->nccl);
    }
    comm_barrier(comm);
    if (comm == comm->world) {
        watchdog_close(comm->watchdog);
        fatal_hand_over(NULL);
        opened = NULL;
    }
    comm->carrier->close(comm);
    for (int i = 0; i < 2; i++)
        if (comm->staging[i]) pinned_free(comm->staging[i]);
    free(comm->room);
    free(comm->members);
    free(comm->world_ranks);
    free(comm);
}

/* ---- what there is to know ---- */

int comm_rank(const Comm *comm) { return comm ? comm->rank : 0; }
int comm_size(const Comm *comm) { return comm ? comm->size : 1; }
int comm_local_rank(const Comm *comm) { return comm ? comm->world->local_rank : 0; }
const char *comm_make(const Comm *comm) { return comm ? comm->world->make : "one process"; }

const char *comm_host_name(const Comm *comm, int rank) {
    const Member *members = comm ? comm->world->members : NULL;
    return members ? members[comm->world_ranks[rank]].host : "this host";
}

void comm_step(Comm *comm, int64_t step) {
    if (comm) watchdog_step(comm->world->watchdog, step);
}

void comm_abort(Comm *comm, const char *format, ...) {
    char message[1100], text[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (!comm) fatal("%s", message);
    comm = comm->world;
    if (!strncmp(message, "rank ", 5)) /* what all have agreed on says so itself */
        snprintf(text, sizeof text, "%s", message);
    else
        snprintf(text, sizeof text, "rank %d (%s), step %lld: %s", comm->rank,
                 comm_host_name(comm, comm->rank), (long long)watchdog_at(comm->watchdog), message);
    watchdog_abort(comm->watchdog, text);
}
