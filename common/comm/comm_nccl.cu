/*
 * NCCL: collectives between GPUs, and memory of the host that a GPU reads and writes by itself.
 *
 * The program is built with NCCL's header and loads its library when ranks ask for it, so one GPU
 * alone needs none. NVLS, NCCL's way through the switches of NVLink, stays off: its sums differ
 * from run to run. (Rings and trees repeat theirs.)
 *
 * Two streams: that of the Gpu, and one beside it. NCCL itself keeps collectives of one
 * communicator in order, whatever their streams.
 *
 * What hangs, hangs in the stream, and the host knows nothing of it; so each collective leaves an
 * event behind it, always the same one, and the watchdog asks whether that has come.
 */
#include "common/comm/comm_internal.h"
#include "common/core/memory.h"
#include "common/cuda/gpu.cuh"

void *pinned_alloc(size_t bytes) {
    void *data = NULL;
    if (cudaMallocHost(&data, bytes) != cudaSuccess)
        fatal("no room for %.1f MiB of the host's memory that the GPU can reach; smaller batches, "
              "or a GPU for each rank (--comm nccl)",
              bytes / 1048576.0);
    return data;
}

void pinned_free(void *data) { CUDA_CHECK(cudaFreeHost(data)); }

#if __has_include(<nccl.h>)
#include <dlfcn.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* name, of ncclName */
/* clang-format off */
#define FUNCTIONS(X) \
    X(GetVersion) X(GetUniqueId) X(CommInitRank) X(CommSplit) X(CommDestroy) X(CommAbort) \
    X(CommGetAsyncError) X(GetErrorString) X(GetLastError) X(AllReduce) X(ReduceScatter) \
    X(AllGather) X(Broadcast) X(Send) X(Recv) X(GroupStart) X(GroupEnd)
/* clang-format on */

#define POINTER(name) decltype(&::nccl##name) name;
static struct Library {
    FUNCTIONS(POINTER)
    void *handle;
    char version[32];
} nccl_library;

struct Nccl {
    Comm *comm;
    ncclComm_t link;
    Gpu *gpu;
    Nccl *root; /* of the world: where the event is */
    cudaStream_t beside;
    cudaEvent_t begin, end;
    bool is_beside, is_joined;
    /* Of the root: */
    int device;
    cudaEvent_t last;  /* behind the collective that was enqueued last */
    double last_since; /* when; 0: there is none */
    const char *last_doing;
    char trouble[512];
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A failure of NCCL's ends all ranks, with NCCL's own words. */
static void done(Nccl *n, const char *what, ncclResult_t status) {
    if (status == ncclSuccess || status == ncclInProgress) return;
    const char *detail = nccl_library.GetLastError(n->link);
    comm_abort(n->comm, "NCCL, %s: %s%s%s", what, nccl_library.GetErrorString(status),
               detail && *detail ? ". " : "", detail ? detail : "");
}

const char *nccl_load(Error *err) {
    Library *l = &nccl_library;
    if (l->handle) return l->version;
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    void *handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        error_set(err, "NCCL's library cannot be loaded: %s", dlerror());
        return NULL;
    }
#define FIND(name)                                                           \
    *(void **)&l->name = dlsym(handle, "nccl" #name);                        \
    if (!l->name) {                                                          \
        error_set(err, "NCCL's library is too old: no nccl" #name " in it"); \
        return NULL;                                                         \
    }
    FUNCTIONS(FIND)
    int version = 0;
    l->GetVersion(&version);
    snprintf(l->version, sizeof l->version, "%d.%d.%d", version / 10000, version / 100 % 100,
             version % 100);
    l->handle = handle;
    return l->version;
}

Nccl *nccl_open(Comm *comm, Nccl *whole, int color) {
    Nccl *n = (Nccl *)must_alloc(1, sizeof *n);
    n->comm = comm;
    n->gpu = comm->gpu;
    n->root = whole ? whole->root : n;
    n->is_joined = true;
    CUDA_CHECK(cudaGetDevice(&n->device));
    if (whole) {
        done(whole, "split",
             nccl_library.CommSplit(whole->link, color, whole->comm->rank, &n->link, NULL));
    } else {
        ncclUniqueId id;
        memset(&id, 0, sizeof id);
        if (comm->rank == 0) done(n, "unique id", nccl_library.GetUniqueId(&id));
        comm_broadcast_host(comm, &id, sizeof id, 0);
        done(n, "opening", nccl_library.CommInitRank(&n->link, comm->size, id, comm->rank));
    }
    CUDA_CHECK(cudaStreamCreateWithFlags(&n->beside, cudaStreamNonBlocking));
    CUDA_CHECK(cudaEventCreateWithFlags(&n->begin, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventCreateWithFlags(&n->end, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventCreateWithFlags(&n->last, cudaEventDisableTiming));
    return n;
}

void nccl_close(Nccl *n) {
    CUDA_CHECK(cudaStreamSynchronize(n->gpu->stream));
    CUDA_CHECK(cudaStreamSynchronize(n->beside));
    done(n, "closing", nccl_library.CommDestroy(n->link));
    cudaEventDestroy(n->begin), cudaEventDestroy(n->end), cudaEventDestroy(n->last);
    cudaStreamDestroy(n->beside);
    free(n);
}

/* ---- collectives ---- */

static cudaStream_t stream_of(const Nccl *n) { return n->is_beside ? n->beside : n->gpu->stream; }

static ncclDataType_t type_of(DType dtype) {
    return dtype == F32 ? ncclFloat32 : dtype == BF16 ? ncclBfloat16 : ncclInt32;
}

/* The event behind what was enqueued last; a group's comes with its end. */
static void mark(Nccl *n, const char *doing) {
    Nccl *root = n->root;
    root->last_doing = doing;
    if (n->is_beside) return;
    CUDA_CHECK(cudaEventRecord(root->last, n->gpu->stream));
    root->last_since = now();
}

void nccl_all_reduce(Nccl *n, void *data, int64_t count, DType dtype, CommOp op) {
    done(n, "all-reduce",
         nccl_library.AllReduce(data, data, (size_t)count, type_of(dtype),
                                op == COMM_SUM ? ncclSum : ncclMax, n->link, stream_of(n)));
    mark(n, "all-reduce");
}

void nccl_reduce_scatter(Nccl *n, void *out, const void *in, int64_t count, DType dtype) {
    done(n, "reduce-scatter",
         nccl_library.ReduceScatter(in, out, (size_t)count, type_of(dtype), ncclSum, n->link,
                                    stream_of(n)));
    mark(n, "reduce-scatter");
}

void nccl_all_gather(Nccl *n, void *out, const void *in, int64_t count, DType dtype) {
    done(n, "all-gather",
         nccl_library.AllGather(in, out, (size_t)count, type_of(dtype), n->link, stream_of(n)));
    mark(n, "all-gather");
}

void nccl_broadcast(Nccl *n, void *data, int64_t count, DType dtype, int root) {
    done(n, "broadcast",
         nccl_library.Broadcast(data, data, (size_t)count, type_of(dtype), root, n->link,
                                stream_of(n)));
    mark(n, "broadcast");
}

/* NCCL has none with unequal counts: a group of sends and receives is one. */
void nccl_all_to_all(Nccl *n, void *out, const int64_t *receive_counts, const void *in,
                     const int64_t *send_counts, DType dtype) {
    const char *from = (const char *)in;
    char *to = (char *)out;
    done(n, "all-to-all", nccl_library.GroupStart());
    for (int r = 0; r < n->comm->size; r++) {
        size_t send = (size_t)send_counts[r], receive = (size_t)receive_counts[r];
        if (r == n->comm->rank && send)
            CUDA_CHECK(cudaMemcpyAsync(to, from, dtype_bytes(dtype, send_counts[r]),
                                       cudaMemcpyDeviceToDevice, stream_of(n)));
        if (r != n->comm->rank && send)
            done(n, "all-to-all",
                 nccl_library.Send(from, send, type_of(dtype), r, n->link, stream_of(n)));
        if (r != n->comm->rank && receive)
            done(n, "all-to-all",
                 nccl_library.Recv(to, receive, type_of(dtype), r, n->link, stream_of(n)));
        from += dtype_bytes(dtype, send_counts[r]);
        to += dtype_bytes(dtype, receive_counts[r]);
    }
    done(n, "all-to-all", nccl_library.GroupEnd());
    mark(n, "all-to-all");
}

/* ---- beside ---- */

void nccl_beside_begin(Nccl *n) {
    CHECK(!n->is_beside, "comm_beside_begin() twice");
    CUDA_CHECK(cudaEventRecord(n->begin, n->gpu->stream));
    CUDA_CHECK(cudaStreamWaitEvent(n->beside, n->begin, 0));
    n->is_beside = true;
    done(n, "group", nccl_library.GroupStart());
}

void nccl_beside_end(Nccl *n) {
    CHECK(n->is_beside, "comm_beside_end() without comm_beside_begin()");
    done(n, "group", nccl_library.GroupEnd());
    CUDA_CHECK(cudaEventRecord(n->end, n->beside));
    CUDA_CHECK(cudaEventRecord(n->root->last, n->beside));
    n->root->last_since = now();
    n->is_beside = n->is_joined = false;
}

void nccl_join(Nccl *n) {
    if (!n->is_joined) CUDA_CHECK(cudaStreamWaitEvent(n->gpu->stream, n->end, 0));
    n->is_joined = true;
}

/* ---- for the watchdog's thread ---- */

const char *nccl_trouble(Nccl *n) {
    ncclResult_t state = ncclSuccess;
    ncclResult_t status = nccl_library.CommGetAsyncError(n->link, &state);
    if (status == ncclSuccess) status = state;
    if (status == ncclSuccess || status == ncclInProgress) return NULL;
    const char *detail = nccl_library.GetLastError(n->link);
    snprintf(n->trouble, sizeof n->trouble, "%s. %s", nccl_library.GetErrorString(status),
             detail ? detail : "");
    return n->trouble;
}

double nccl_waiting(Nccl *n, const char **doing) {
    static thread_local bool on_device; /* else CUDA would open GPU 0 for this thread */
    if (!on_device) on_device = cudaSetDevice(n->device) == cudaSuccess;
    double since = n->last_since;
    if (since == 0 || cudaEventQuery(n->last) != cudaErrorNotReady) return 0;
    *doing = n->last_doing;
    return now() - since;
}

/* From another thread: kernels that wait for a rank that is gone end. */
void nccl_abort(Nccl *n) { nccl_library.CommAbort(n->link); }

#else
#include "common/comm/nccl_none.h"
#endif
