/*
 * NCCL's side of comm_internal.h where there is none: without nvcc (comm_gpu_none.c), or with a
 * CUDA toolkit that lacks nccl.h (comm_nccl.cu). nccl_load() says so, and nobody calls the rest.
 */
#ifndef COMMON_NCCL_NONE_H
#define COMMON_NCCL_NONE_H

#include "common/comm/comm_internal.h"

__BEGIN_DECLS

static void no_nccl(void) { check_failed(__FILE__, __LINE__, "nccl", "built without NCCL"); }

const char *nccl_load(Error *err) {
    error_set(err, "this program was built without NCCL (nccl.h, beside nvcc); see `make doctor`");
    return NULL;
}
Nccl *nccl_open(Comm *comm, Nccl *whole, int color) {
    return (void)comm, (void)whole, (void)color, no_nccl(), (Nccl *)NULL;
}
void nccl_close(Nccl *nccl) { (void)nccl, no_nccl(); }
void nccl_all_reduce(Nccl *nccl, void *data, int64_t count, DType dtype, CommOp op) {
    (void)nccl, (void)data, (void)count, (void)dtype, (void)op, no_nccl();
}
void nccl_reduce_scatter(Nccl *nccl, void *out, const void *in, int64_t count, DType dtype) {
    (void)nccl, (void)out, (void)in, (void)count, (void)dtype, no_nccl();
}
void nccl_all_gather(Nccl *nccl, void *out, const void *in, int64_t count, DType dtype) {
    (void)nccl, (void)out, (void)in, (void)count, (void)dtype, no_nccl();
}
void nccl_broadcast(Nccl *nccl, void *data, int64_t count, DType dtype, int root) {
    (void)nccl, (void)data, (void)count, (void)dtype, (void)root, no_nccl();
}
void nccl_all_to_all(Nccl *nccl, void *out, const int64_t *receive_counts, const void *in,
                     const int64_t *send_counts, DType dtype) {
    (void)nccl, (void)out, (void)receive_counts, (void)in, (void)send_counts, (void)dtype,
        no_nccl();
}
void nccl_beside_begin(Nccl *nccl) { (void)nccl, no_nccl(); }
void nccl_beside_end(Nccl *nccl) { (void)nccl, no_nccl(); }
void nccl_join(Nccl *nccl) { (void)nccl, no_nccl(); }
const char *nccl_trouble(Nccl *nccl) { return (void)nccl, (const char *)NULL; }
double nccl_waiting(Nccl *nccl, const char **doing) { return (void)nccl, (void)doing, 0.0; }
void nccl_abort(Nccl *nccl) { (void)nccl; }

__END_DECLS
#endif
