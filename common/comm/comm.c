/*
 * The collectives of one process: what is reduced stays as it is, what is gathered is a copy.
 */
#include "common/comm/comm.h"

#include "common/core/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct Comm {
    int rank, size, local_rank;
    Gpu *gpu;
};

int comm_open(Comm **comm, const CommOptions *options, Error *err) {
    (void)options, (void)err;
    *comm = NULL;
    return 0;
}

int comm_local_rank(const Comm *comm) { return comm ? comm->local_rank : 0; }
int comm_gpu(const Comm *comm) { return comm_local_rank(comm); }
void comm_use_gpu(Comm *comm, Gpu *gpu) {
    if (comm) comm->gpu = gpu;
}
void comm_close(Comm *comm) { (void)comm; }
Comm *comm_split(Comm *comm, int color) { return (void)color, comm; }
int comm_rank(const Comm *comm) { return comm ? comm->rank : 0; }
int comm_size(const Comm *comm) { return comm ? comm->size : 1; }
const char *comm_host_name(const Comm *comm, int rank) {
    return (void)comm, (void)rank, "this host";
}
const char *comm_make(const Comm *comm) { return (void)comm, "one process"; }

/* Device memory of a NULL Comm: which device nobody has said, and an unmoved result needs no copy.
 */
static void copy(Comm *comm, void *out, const void *in, size_t bytes) {
    if (out != in && bytes) device_copy(comm ? comm->gpu : NULL, out, in, bytes);
}

void comm_all_reduce(Comm *comm, void *data, int64_t count, DType dtype, CommOp op) {
    (void)comm, (void)data, (void)count, (void)dtype, (void)op;
}

void comm_reduce_scatter(Comm *comm, void *out, const void *in, int64_t count, DType dtype) {
    copy(comm, out, in, dtype_bytes(dtype, count));
}

void comm_all_gather(Comm *comm, void *out, const void *in, int64_t count, DType dtype) {
    copy(comm, out, in, dtype_bytes(dtype, count));
}

void comm_broadcast(Comm *comm, void *data, int64_t count, DType dtype, int root) {
    (void)comm, (void)data, (void)count, (void)dtype, (void)root;
}

void comm_all_to_all(Comm *comm, void *out, const int64_t *receive_counts, const void *in,
                     const int64_t *send_counts, DType dtype) {
    CHECK(receive_counts[0] == send_counts[0], "one rank sends itself %lld and expects %lld",
          (long long)send_counts[0], (long long)receive_counts[0]);
    copy(comm, out, in, dtype_bytes(dtype, send_counts[0]));
}

void comm_gather_host(Comm *comm, void *all, const void *mine, size_t bytes) {
    (void)comm;
    if (bytes && all != mine) memcpy(all, mine, bytes);
}

void comm_broadcast_host(Comm *comm, void *data, size_t bytes, int root) {
    (void)comm, (void)data, (void)bytes, (void)root;
}

double comm_sum_host(Comm *comm, double value) { return (void)comm, value; }
void comm_barrier(Comm *comm) { (void)comm; }
void comm_beside_begin(Comm *comm) { (void)comm; }
void comm_beside_end(Comm *comm) { (void)comm; }
void comm_join(Comm *comm) { (void)comm; }
void comm_step(Comm *comm, int64_t step) { (void)comm, (void)step; }

void comm_abort(Comm *comm, const char *format, ...) {
    (void)comm;
    char text[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fatal("%s", text);
}

int comm_agree(Comm *comm, int status, Error *err) { return (void)comm, (void)err, status; }
int comm_same(Comm *comm, const char *name, const char *text, Error *err) {
    return (void)comm, (void)name, (void)text, (void)err, 0;
}
