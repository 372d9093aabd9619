/*
 * Do the collectives work on these ranks? For a new cluster, before a long run, and for the tests:
 *
 *     mpirun -n 2 --host a,b common/comm/check_comm --bench
 *
 * Every collective on every dtype, with counts that divide and counts that do not, none at all, and
 * all from one. Numbers are small whole ones, so that every sum is exact in BF16, too, and is known
 * beforehand. --fault makes one rank fail in one of the ways in which ranks do.
 */
#include "common/comm/comm.h"
#include "common/core/memory.h"
#include "common/program/options.h"
#include "common/program/progress.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum Fault { NONE, EXITS, KILLED, STOPPED, SPINS, DISK_FULL, NOT_A_NUMBER, SLOW, SWAPPED, DIFFERS };
static const char *const FAULTS[] = {"none", "exits", "killed",  "stopped", "spins", "disk",
                                     "nan",  "slow",  "swapped", "differs", NULL};

typedef struct Check {
    CommonOptions common;
    int kind, fault, rank, at, steps;
    double timeout;
    bool bench;
    Context ctx;
    Comm *comm;
    int64_t done; /* collectives that were as they should be */
} Check;

/* Number i of rank r: from -8 to 8. */
static float number(int r, int64_t i) { return (float)((i * 7 + r * 5 + i / 13) % 17 - 8); }

/* ---- memory of the device, in numbers ---- */

static void *device_numbers(Check *c, const float *host, int64_t count, DType dtype) {
    size_t bytes = dtype_bytes(dtype, count);
    void *device = device_alloc(c->ctx.gpu, bytes + 4);
    char *raw = must_alloc(1, bytes + 4);
    for (int64_t i = 0; i < count; i++) {
        if (dtype == F32) ((float *)raw)[i] = host[i];
        if (dtype == I32) ((int32_t *)raw)[i] = (int32_t)host[i];
        if (dtype == BF16) ((uint16_t *)raw)[i] = bf16_from_float(host[i]);
    }
    if (bytes) device_put(c->ctx.gpu, device, raw, bytes);
    free(raw);
    return device;
}

static void compare(Check *c, const char *what, void *device, const float *expected, int64_t count,
                    DType dtype) {
    size_t bytes = dtype_bytes(dtype, count);
    char *raw = must_alloc(1, bytes + 4);
    if (bytes) device_get(c->ctx.gpu, raw, device, bytes);
    for (int64_t i = 0; i < count; i++) {
        float x = dtype == F32   ? ((float *)raw)[i]
                  : dtype == I32 ? (float)((int32_t *)raw)[i]
                                 : bf16_to_float(((uint16_t *)raw)[i]);
        if (x != expected[i])
            comm_abort(c->comm, "%s of %lld %s: number %lld is %g, and should be %g", what,
                       (long long)count, dtype_name(dtype), (long long)i, x, expected[i]);
    }
    free(raw);
    device_free(c->ctx.gpu, device);
    c->done++;
}

/* ---- each collective ---- */

static float reduced(int size, int64_t i, CommOp op) {
    float all = number(0, i);
    for (int r = 1; r < size; r++) {
        float x = number(r, i);
        all = op == COMM_SUM ? all + x : x > all ? x : all;
    }
    return all;
}

static void check_equal_counts(Check *c, Comm *comm, int64_t n, DType dtype) {
    int size = comm_size(comm), rank = comm_rank(comm);
    float *mine = must_alloc((size_t)(n * size) + 1, sizeof *mine);
    float *expected = must_alloc((size_t)(n * size) + 1, sizeof *expected);
    for (int64_t i = 0; i < n * size; i++) mine[i] = number(rank, i);
    for (CommOp op = COMM_SUM; op <= COMM_MAX; op++) {
        void *data = device_numbers(c, mine, n, dtype);
        for (int64_t i = 0; i < n; i++) expected[i] = reduced(size, i, op);
        comm_all_reduce(comm, data, n, dtype, op);
        compare(c, op == COMM_SUM ? "all-reduce" : "all-reduce, largest", data, expected, n, dtype);
    }
    for (int in_place = 0; in_place < 2; in_place++) {
        void *in = device_numbers(c, mine, n * size, dtype);
        void *out = in_place ? (char *)in + dtype_bytes(dtype, rank * n)
                             : device_numbers(c, mine, n, dtype);
        for (int64_t i = 0; i < n; i++) expected[i] = reduced(size, rank * n + i, COMM_SUM);
        comm_reduce_scatter(comm, out, in, n, dtype);
        void *copy = device_numbers(c, mine, n, dtype);
        if (n) device_copy(c->ctx.gpu, copy, out, dtype_bytes(dtype, n));
        compare(c, "reduce-scatter", copy, expected, n, dtype);
        if (!in_place) device_free(c->ctx.gpu, out);
        device_free(c->ctx.gpu, in);

        void *all = device_numbers(c, mine, n * size, dtype); /* in place: row `rank` of it */
        void *own = device_numbers(c, mine + rank * n, n, dtype);
        for (int64_t i = 0; i < n * size; i++) expected[i] = number((int)(i / (n ? n : 1)), i);
        comm_all_gather(comm, all, in_place ? (char *)all + dtype_bytes(dtype, rank * n) : own, n,
                        dtype);
        compare(c, "all-gather", all, expected, n * size, dtype);
        device_free(c->ctx.gpu, own);
    }
    for (int root = 0; root < size; root++) {
        void *data = device_numbers(c, mine, n, dtype);
        for (int64_t i = 0; i < n; i++) expected[i] = number(root, i);
        comm_broadcast(comm, data, n, dtype, root);
        compare(c, "broadcast", data, expected, n, dtype);
    }
    free(mine), free(expected);
}

/* How many numbers a sends b. */
typedef int64_t (*Counts)(int a, int b, int size);
static int64_t ragged(int a, int b, int size) { return (a * 31 + b * 17 + size) % 37; }
static int64_t one_sided(int a, int b, int size) { return a == 0 && b == size - 1 ? 1025 : 0; }
static int64_t to_the_first(int a, int b, int size) { return (void)size, b == 0 ? 100 + a : 0; }
static int64_t nothing(int a, int b, int size) { return (void)a, (void)b, (void)size, 0; }
static int64_t large(int a, int b, int size) { return (void)size, 200000 + 1000 * a + b; }

static void check_all_to_all(Check *c, Comm *comm, Counts counts, DType dtype) {
    int size = comm_size(comm), rank = comm_rank(comm);
    int64_t *send = must_alloc(2 * (size_t)size, sizeof *send), *receive = send + size;
    int64_t in = 0, out = 0, at = 0;
    for (int r = 0; r < size; r++) {
        in += send[r] = counts(rank, r, size);
        out += receive[r] = counts(r, rank, size);
    }
    float *mine = must_alloc((size_t)in + 1, sizeof *mine);
    float *expected = must_alloc((size_t)out + 1, sizeof *expected);
    for (int64_t i = 0; i < in; i++) mine[i] = number(rank, i);
    for (int r = 0; r < size; r++) {
        int64_t first = 0;
        for (int before = 0; before < rank; before++) first += counts(r, before, size);
        for (int64_t i = 0; i < receive[r]; i++) expected[at++] = number(r, first + i);
    }
    void *from = device_numbers(c, mine, in, dtype), *to = device_numbers(c, expected, out, dtype);
    if (out) device_set(c->ctx.gpu, to, 0xff, dtype_bytes(dtype, out));
    comm_all_to_all(comm, to, receive, from, send, dtype);
    compare(c, "all-to-all", to, expected, out, dtype);
    device_free(c->ctx.gpu, from);
    free(send), free(mine), free(expected);
}

static void check_host(Check *c, Comm *comm) {
    int size = comm_size(comm), rank = comm_rank(comm), all[64] = {0}, mine = rank * 3 + 1;
    comm_gather_host(comm, all, &mine, sizeof mine);
    for (int r = 0; r < size; r++)
        if (all[r] != r * 3 + 1) comm_abort(comm, "gather: %d of rank %d", all[r], r);
    int said = rank == size - 1 ? 42 : 0;
    comm_broadcast_host(comm, &said, sizeof said, size - 1);
    double sum = comm_sum_host(comm, 1.0 + rank);
    if (said != 42 || sum != 0.5 * size * (size + 1))
        comm_abort(comm, "broadcast or sum: %d, %g", said, sum);
    comm_barrier(comm);
    c->done += 4;
}

/* What goes beside gives what goes in order gives. */
static void check_beside(Check *c, Comm *comm) {
    enum { N = 100003 };
    float *mine = must_alloc(N, sizeof *mine), *expected = must_alloc(N, sizeof *expected);
    for (int i = 0; i < N; i++) {
        mine[i] = number(comm_rank(comm), i);
        expected[i] = reduced(comm_size(comm), i, COMM_SUM);
    }
    void *data[3];
    for (int i = 0; i < 3; i++) data[i] = device_numbers(c, mine, N, F32);
    comm_beside_begin(comm);
    for (int i = 0; i < 3; i++) comm_all_reduce(comm, data[i], N - i, F32, COMM_SUM);
    comm_beside_end(comm);
    comm_join(comm);
    for (int i = 0; i < 3; i++) compare(c, "all-reduce beside", data[i], expected, N - i, F32);
    free(mine), free(expected);
}

static void check_all(Check *c, Comm *comm) {
    static const int64_t sizes[] = {0, 1, 3, 31, 127, 4097, 1 << 16, (1 << 17) + 5};
    static const Counts counts[] = {ragged, one_sided, to_the_first, nothing, large};
    static const DType dtypes[] = {F32, BF16, I32};
    for (int d = 0; d < 3; d++) {
        for (int i = 0; i < 8; i++) check_equal_counts(c, comm, sizes[i], dtypes[d]);
        for (int i = 0; i < 5; i++) check_all_to_all(c, comm, counts[i], dtypes[d]);
    }
    check_host(c, comm);
    check_beside(c, comm);
}

/* Even and odd ranks apart, and the first alone. */
static void check_parts(Check *c) {
    int rank = comm_rank(c->comm);
    for (int way = 0; way < 2; way++) {
        Comm *part = comm_split(c->comm, way ? rank % 2 : rank > 0);
        int expected = way ? rank / 2 : rank ? rank - 1 : 0;
        if (comm_rank(part) != expected)
            comm_abort(c->comm, "rank %d is %d in its part", rank, comm_rank(part));
        check_all(c, part);
        comm_close(part);
    }
}

/* ---- faults ---- */

static void fail(Check *c) {
    static const struct timespec second = {1, 0};
    switch ((enum Fault)c->fault) {
    case EXITS:
        _exit(3);
    case KILLED:
        raise(SIGKILL);
        break;
    case STOPPED:
        raise(SIGSTOP);
        break;
    case SPINS:
        for (;;) pause();
    case DISK_FULL:
        fatal("out/last/model.safetensors: No space left on device");
    case NOT_A_NUMBER:
        comm_abort(c->comm, "the loss is not a number; a lower --learning-rate may "
                            "help");
    case SLOW:
        nanosleep(&second, NULL);
        break;
    default:
        break;
    }
}

static void run_steps(Check *c) {
    int rank = comm_rank(c->comm), size = comm_size(c->comm);
    float *data = must_alloc(50000, sizeof *data);
    int64_t send[64] = {0}, receive[64] = {0};
    for (int step = 1; step <= c->steps; step++) {
        comm_step(c->comm, step);
        if (c->fault && c->rank == rank && c->at == step) fail(c);
        comm_gather_host(c->comm, receive, &(int64_t){step}, sizeof(int64_t));
        void *device = device_numbers(c, data, 50000, F32);
        comm_all_reduce(c->comm, device, 50000, F32, COMM_SUM);
        device_free(c->ctx.gpu, device);
        for (int r = 0; r < size; r++) {
            send[r] = 1 + r, receive[r] = 1 + rank;
            if (c->fault == SWAPPED && c->at == step && c->rank == rank)
                receive[r] = r == rank ? 1 + rank : 1 + r;
        }
        void *in = device_numbers(c, data, 4096, F32), *out = device_numbers(c, data, 4096, F32);
        comm_all_to_all(c->comm, out, receive, in, send, F32);
        device_free(c->ctx.gpu, in), device_free(c->ctx.gpu, out);
    }
    free(data);
}

/* ---- how fast ---- */

static double seconds_of(Check *c, int what, void *a, void *b, int64_t n, int times) {
    int size = comm_size(c->comm);
    int64_t counts[64];
    for (int r = 0; r < size; r++) counts[r] = n / size;
    float wait;
    device_get(c->ctx.gpu, &wait, a, sizeof wait);
    comm_barrier(c->comm);
    double start = seconds_now();
    for (int i = 0; i < times; i++) {
        if (what == 0) comm_all_reduce(c->comm, a, n, F32, COMM_SUM);
        if (what == 1) comm_reduce_scatter(c->comm, b, a, n / size, F32);
        if (what == 2) comm_all_gather(c->comm, b, a, n / size, F32);
        if (what == 3) comm_all_to_all(c->comm, b, counts, a, counts, F32);
    }
    device_get(c->ctx.gpu, &wait, a, sizeof wait);
    device_get(c->ctx.gpu, &wait, b, sizeof wait);
    comm_barrier(c->comm);
    return (seconds_now() - start) / times;
}

/* GB/s: what each rank sends and must send, by the time of all. */
static void bench(Check *c) {
    static const char *const names[] = {"all-reduce", "reduce-scatter", "all-gather", "all-to-all"};
    int size = comm_size(c->comm);
    bool speaks = comm_rank(c->comm) == 0;
    if (speaks) printf("%-16s %12s %12s %10s\n", "", "bytes", "ms", "GB/s sent");
    for (int what = 0; what < 4; what++)
        for (int64_t n = 1 << 8; n <= 1 << 24; n <<= 8) {
            float *zeros = must_alloc((size_t)n, sizeof *zeros);
            void *a = device_numbers(c, zeros, n, F32), *b = device_numbers(c, zeros, n, F32);
            double least = 1e9;
            for (int i = 0; i < 5; i++) {
                double s = seconds_of(c, what, a, b, n, n > 1 << 20 ? 2 : 20);
                least = s < least ? s : least;
            }
            double sent = 4.0 * (double)n * (size - 1) / size * (what == 0 ? 2 : 1);
            if (speaks)
                printf("%-16s %12lld %12.3f %10.2f\n", names[what], (long long)(4 * n), 1e3 * least,
                       sent / least / 1e9);
            device_free(c->ctx.gpu, a), device_free(c->ctx.gpu, b);
            free(zeros);
        }
}

static int open(Check *c, Error *err) {
    const CommOptions options = {
        .device = c->common.device, .kind = (CommKind)c->kind, .timeout = c->timeout};
    if (comm_open(&c->comm, &options, err)) return -1;
    if (comm_size(c->comm) > 64) return error_set(err, "at most 64 ranks");
    int status = c->common.device == CUDA
                     ? context_init_gpu(&c->ctx, comm_gpu(c->comm), F32, 1, err)
                     : context_init(&c->ctx, CPU, F32, 1, err);
    if (comm_agree(c->comm, status, err)) return -1;
    comm_use_gpu(c->comm, c->ctx.gpu);
    bool other = c->fault == DIFFERS && c->rank == comm_rank(c->comm);
    return comm_same(c->comm, "config",
                     other ? "layers 4\nhidden_size 128" : "layers 4\nhidden_size 64", err);
}

int main(int argc, char **argv) {
    Check check = {.steps = 20, .at = 10, .rank = 1}, *c = &check;
    static const char *const kinds[] = {"auto", "host", "nccl", NULL};
    const Option flags[] = {
        OPT_CHOICE("comm", 0, "WAY", &c->kind, kinds,
                   "What carries a GPU's memory: nccl, or the host, where ranks may share a GPU"),
        OPT_FLAG("bench", 0, &c->bench, "Measure how fast they are"),
        OPT_CHOICE("fault", 0, "HOW", &c->fault, FAULTS, "What --rank does at step --at"),
        OPT_INT("rank", 0, "R", &c->rank, 0, 63, "Which rank fails"),
        OPT_INT("at", 0, "N", &c->at, 0, 1 << 30, "At which step"),
        OPT_INT("steps", 0, "N", &c->steps, 0, 1 << 30, "Steps with collectives in them"),
        OPT_FLOAT("timeout", 0, "S", &c->timeout, 0, 1e6,
                  "Seconds in one collective that count as standing still (default 600)"),
        OPT_COMMON(&c->common),
        OPT_END,
    };
    options_parse(argc, argv,
                  "Tries the collectives on the ranks that it is started on, by mpirun, srun, "
                  "torchrun or `deepseek launch`.",
                  flags);
    Error err;
    if (open(c, &err)) fatal("%s", err.text);
    if (!c->fault) check_all(c, c->comm);
    if (!c->fault && c->comm) check_parts(c);
    run_steps(c);
    if (c->bench) bench(c);
    if (comm_rank(c->comm) == 0)
        printf("%d rank%s by %s: %lld collectives as they should be\n", comm_size(c->comm),
               comm_size(c->comm) > 1 ? "s" : "", comm_make(c->comm), (long long)c->done);
    comm_close(c->comm);
    context_free(&c->ctx);
    return 0;
}
