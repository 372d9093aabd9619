/*
 * The collectives: for device memory by NCCL, or by a copy to the host and back; on the host made
 * of one thing, a carrier's exchange. Opening, and what ranks agree on, are in comm_open.c.
 *
 * Every sum that is made here adds rank 0's numbers, rank 1's, and so on, rounded to its dtype each
 * time.
 */
#include "common/comm/comm_internal.h"
#include "common/comm/watchdog.h"
#include "common/core/memory.h"

#include <stdlib.h>
#include <string.h>

/* Bytes that are gathered whole and added up by everybody, in one exchange; and elements that are
 * reduced at once, so that what is received stays in the cache. */
enum { SMALL = 16 << 10, BLOCK = 1 << 18 };

/* ---- among one ---- */

static void copy_here(const Comm *comm, void *out, const void *in, size_t bytes) {
    if (out != in && bytes) device_copy(comm ? comm->gpu : NULL, out, in, bytes);
}

/* ---- the carrier's ---- */

static void enter(Comm *comm, const char *doing) {
    comm->doing = doing;
    comm->calls++;
    watchdog_enter(comm->world->watchdog, doing);
}

static void leave(Comm *comm) { watchdog_leave(comm->world->watchdog); }

static void exchange(Comm *comm, const char *doing, const Piece *receive, const Piece *send) {
    enter(comm, doing);
    comm->carrier->exchange(comm, receive, send);
    leave(comm);
}

static Piece *pieces(const Comm *comm) { return must_alloc((size_t)comm->size, sizeof(Piece)); }

/* mine to everybody; all [size, bytes] */
static void gather(Comm *comm, const char *doing, void *all, const void *mine, size_t bytes) {
    Piece *receive = pieces(comm), *send = pieces(comm);
    for (int r = 0; r < comm->size; r++) {
        receive[r] = (Piece){(char *)all + (size_t)r * bytes, bytes};
        send[r] = (Piece){(void *)mine, bytes};
    }
    exchange(comm, doing, receive, send);
    free(receive), free(send);
}

#define COMBINE(type, wide, from, into)                                                           \
    for (int64_t i = 0; i < count; i++) {                                                         \
        wide x = from(((const type *)a)[i]), y = from(((const type *)b)[i]);                      \
        ((type *)to)[i] = into(op == COMM_SUM ? x + y : y > x || y != y ? y : x); /* NaN stays */ \
    }

static void combine(void *to, const void *a, const void *restrict b, int64_t count, DType dtype,
                    CommOp op) {
    if (dtype == F32) {
        COMBINE(float, float, , )
    } else if (dtype == I32) {
        COMBINE(int32_t, int32_t, , )
    } else {
        COMBINE(uint16_t, float, bf16_to_float, bf16_from_float)
    }
}

/* to = (row 0 + row 1) + row 2 ..., or the largest; in [rows, count]. */
static void add_rows(void *to, const char *in, int rows, int64_t count, DType dtype, CommOp op) {
    size_t row = dtype_bytes(dtype, count);
    if (rows == 1) memcpy(to, in, row);
    for (int r = 1; r < rows; r++)
        combine(to, r == 1 ? in : to, in + (size_t)r * row, count, dtype, op);
}

/* Memory for what is received, kept for the next time. */
static char *room(Comm *comm, size_t bytes) {
    if (comm->room_bytes < bytes) {
        free(comm->room);
        comm->room = must_alloc(1, bytes);
        comm->room_bytes = bytes;
    }
    return comm->room;
}

/* Row r of in [size, stride] to rank r: of each `count` elements from `first` on. to [count]. */
static void reduce_rows(Comm *comm, const char *doing, void *to, const void *in,
                        const int64_t *first, const int64_t *count, DType dtype, CommOp op) {
    size_t element = dtype_size(dtype), mine = element * (size_t)count[comm->rank];
    Piece *receive = pieces(comm), *send = pieces(comm);
    char *rows = room(comm, (size_t)comm->size * mine + 1);
    for (int r = 0; r < comm->size; r++) {
        receive[r] = (Piece){rows + (size_t)r * mine, mine};
        send[r] = (Piece){(char *)in + element * (size_t)first[r], element * (size_t)count[r]};
    }
    exchange(comm, doing, receive, send);
    add_rows(to, rows, comm->size, count[comm->rank], dtype, op);
    free(receive), free(send);
}

/* [comm_all_reduce] */
/* Each rank adds up a slice, and gives it to all. */
static void all_reduce_block(Comm *comm, void *data, int64_t count, DType dtype, CommOp op) {
    static const char doing[] = "all-reduce";
    size_t element = dtype_size(dtype);
    if (element * (size_t)count <= SMALL) {
        char *rows = room(comm, (size_t)comm->size * element * (size_t)count);
        gather(comm, doing, rows, data, element * (size_t)count);
        add_rows(data, rows, comm->size, count, dtype, op);
        return;
    }
    int64_t *first = must_alloc(2 * (size_t)comm->size, sizeof *first), *n = first + comm->size;
    Piece *receive = pieces(comm), *send = pieces(comm);
    for (int r = 0; r < comm->size; r++) {
        first[r] = count * r / comm->size;
        n[r] = count * (r + 1) / comm->size - first[r];
    }
    char *mine = (char *)data + element * (size_t)first[comm->rank];
    reduce_rows(comm, doing, mine, data, first, n, dtype, op);
    for (int r = 0; r < comm->size; r++) {
        receive[r] = (Piece){(char *)data + element * (size_t)first[r], element * (size_t)n[r]};
        send[r] = (Piece){mine, element * (size_t)n[comm->rank]};
    }
    exchange(comm, doing, receive, send);
    free(receive), free(send), free(first);
}
/* [/comm_all_reduce] */

static void host_all_reduce(Comm *comm, void *data, int64_t count, DType dtype, CommOp op) {
    for (int64_t at = 0; at < count; at += BLOCK)
        all_reduce_block(comm, (char *)data + dtype_bytes(dtype, at),
                         count - at < BLOCK ? count - at : BLOCK, dtype, op);
}

static void host_reduce_scatter(Comm *comm, void *out, const void *in, int64_t count, DType dtype) {
    int64_t *first = must_alloc(2 * (size_t)comm->size, sizeof *first), *n = first + comm->size;
    for (int64_t at = 0; at < count; at += BLOCK) {
        for (int r = 0; r < comm->size; r++) {
            first[r] = r * count + at;
            n[r] = count - at < BLOCK ? count - at : BLOCK;
        }
        reduce_rows(comm, "reduce-scatter", (char *)out + dtype_bytes(dtype, at), in, first, n,
                    dtype, COMM_SUM);
    }
    free(first);
}

static void host_broadcast(Comm *comm, void *data, size_t bytes, int root) {
    if (comm->carrier->broadcast) {
        enter(comm, "broadcast");
        comm->carrier->broadcast(comm, data, bytes, root);
        leave(comm);
        return;
    }
    Piece *receive = pieces(comm), *send = pieces(comm);
    for (int r = 0; r < comm->size && comm->rank == root; r++) send[r] = (Piece){data, bytes};
    receive[root] = (Piece){data, bytes};
    if (comm->rank != root) send[comm->rank] = receive[comm->rank] = (Piece){NULL, 0};
    exchange(comm, "broadcast", receive, send);
    free(receive), free(send);
}

/* ---- device memory through the host ---- */

/* Memory that the GPU reads and writes by itself, kept for the next time. */
static char *staging(Comm *comm, int which, size_t bytes) {
    if (comm->staging_bytes[which] < bytes) {
        if (comm->staging[which]) pinned_free(comm->staging[which]);
        comm->staging[which] = pinned_alloc(bytes);
        comm->staging_bytes[which] = bytes;
    }
    return comm->staging[which];
}

/* A copy of device memory on the host; the host's memory itself. Waits for the stream, so whatever
 * went up from staging before is there. */
static void *down(Comm *comm, int which, const void *data, size_t bytes) {
    if (!comm->gpu) return (void *)data;
    char *host = staging(comm, which, bytes + 1);
    gpu_download(comm->gpu, host, data, bytes);
    return host;
}

static void *place(Comm *comm, int which, void *data, size_t bytes) {
    return comm->gpu ? staging(comm, which, bytes + 1) : data;
}

static void up(Comm *comm, void *data, const void *host, size_t bytes) {
    if (comm->gpu && bytes) gpu_upload(comm->gpu, data, host, bytes);
}

/* ---- the interface ---- */

static void check_dtype(DType dtype) {
    CHECK(dtype == F32 || dtype == BF16 || dtype == I32, "a collective on %s", dtype_name(dtype));
}

void comm_all_reduce(Comm *comm, void *data, int64_t count, DType dtype, CommOp op) {
    check_dtype(dtype);
    if (!comm || !count) return;
    if (comm->nccl) return nccl_all_reduce(comm->nccl, data, count, dtype, op);
    size_t bytes = dtype_bytes(dtype, count);
    void *host = down(comm, 0, data, bytes);
    host_all_reduce(comm, host, count, dtype, op);
    up(comm, data, host, bytes);
}

void comm_reduce_scatter(Comm *comm, void *out, const void *in, int64_t count, DType dtype) {
    check_dtype(dtype);
    size_t bytes = dtype_bytes(dtype, count);
    if (!count) return;
    if (!comm) return copy_here(comm, out, in, bytes);
    if (comm->nccl) return nccl_reduce_scatter(comm->nccl, out, in, count, dtype);
    const void *rows = down(comm, 0, in, bytes * (size_t)comm->size);
    void *row = place(comm, 1, out, bytes);
    host_reduce_scatter(comm, row, rows, count, dtype);
    up(comm, out, row, bytes);
}

void comm_all_gather(Comm *comm, void *out, const void *in, int64_t count, DType dtype) {
    check_dtype(dtype);
    size_t bytes = dtype_bytes(dtype, count);
    if (!count) return;
    if (!comm) return copy_here(comm, out, in, bytes);
    if (comm->nccl) return nccl_all_gather(comm->nccl, out, in, count, dtype);
    const void *mine = down(comm, 0, in, bytes);
    void *all = place(comm, 1, out, bytes * (size_t)comm->size);
    gather(comm, "all-gather", all, mine, bytes);
    up(comm, out, all, bytes * (size_t)comm->size);
}

void comm_broadcast(Comm *comm, void *data, int64_t count, DType dtype, int root) {
    check_dtype(dtype);
    if (!comm || !count) return;
    if (comm->nccl) return nccl_broadcast(comm->nccl, data, count, dtype, root);
    size_t bytes = dtype_bytes(dtype, count);
    void *host = down(comm, 0, data, bytes);
    host_broadcast(comm, host, bytes, root);
    up(comm, data, host, bytes);
}

static size_t sum_bytes(const Comm *comm, const int64_t *counts, DType dtype) {
    int64_t sum = 0;
    for (int r = 0; r < comm->size; r++) sum += counts[r];
    return dtype_bytes(dtype, sum);
}

void comm_all_to_all(Comm *comm, void *out, const int64_t *receive_counts, const void *in,
                     const int64_t *send_counts, DType dtype) {
    check_dtype(dtype);
    int self = comm_rank(comm);
    CHECK(receive_counts[self] == send_counts[self],
          "rank %d sends itself %lld numbers and expects %lld", self, (long long)send_counts[self],
          (long long)receive_counts[self]);
    if (!comm) return copy_here(comm, out, in, dtype_bytes(dtype, send_counts[0]));
    if (comm->nccl) return nccl_all_to_all(comm->nccl, out, receive_counts, in, send_counts, dtype);
    size_t in_bytes = sum_bytes(comm, send_counts, dtype);
    size_t out_bytes = sum_bytes(comm, receive_counts, dtype);
    char *from = down(comm, 0, in, in_bytes), *to = place(comm, 1, out, out_bytes);
    Piece *receive = pieces(comm), *send = pieces(comm);
    char *next_in = to, *next_out = from;
    for (int r = 0; r < comm->size; r++) {
        receive[r] = (Piece){next_in, dtype_bytes(dtype, receive_counts[r])};
        send[r] = (Piece){next_out, dtype_bytes(dtype, send_counts[r])};
        next_in += receive[r].bytes, next_out += send[r].bytes;
    }
    exchange(comm, "all-to-all", receive, send);
    free(receive), free(send);
    up(comm, out, to, out_bytes);
}

void comm_gather_host(Comm *comm, void *all, const void *mine, size_t bytes) {
    if (comm)
        gather(comm, "gather", all, mine, bytes);
    else if (bytes && all != mine)
        memcpy(all, mine, bytes);
}

void comm_broadcast_host(Comm *comm, void *data, size_t bytes, int root) {
    if (comm) host_broadcast(comm, data, bytes, root);
}

double comm_sum_host(Comm *comm, double value) {
    if (!comm) return value;
    double *all = must_alloc((size_t)comm->size, sizeof *all), sum = 0;
    comm_gather_host(comm, all, &value, sizeof value);
    for (int r = 0; r < comm->size; r++) sum += all[r];
    free(all);
    return sum;
}

void comm_barrier(Comm *comm) {
    if (!comm) return;
    char *all = must_alloc((size_t)comm->size, 1), mine = 0;
    gather(comm, "barrier", all, &mine, 1);
    free(all);
}

void comm_beside_begin(Comm *comm) {
    if (comm && comm->nccl) nccl_beside_begin(comm->nccl);
}

void comm_beside_end(Comm *comm) {
    if (comm && comm->nccl) nccl_beside_end(comm->nccl);
}

void comm_join(Comm *comm) {
    if (comm && comm->nccl) nccl_join(comm->nccl);
}
