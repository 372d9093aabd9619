/*
 * The context: where a computation runs, where its tensors live, and what must be remembered to
 * differentiate it.
 *
 * Arena.  All activations of a step, given back at once by context_reset(): see arena.h.
 * Tape.   With recording on, every op leaves a note there: see tape.h.
 * Rng.    Counter-based: see rng.h.
 *
 * One Context serves one model on one device. Nothing here is global; two contexts do not see each
 * other. Several processes that train one model have a Context each, which says who it is among
 * them (rank of size) and through what they speak (comm).
 */
#ifndef COMMON_CONTEXT_H
#define COMMON_CONTEXT_H

#include "common/core/arena.h"
#include "common/core/error.h"
#include "common/core/memory.h"
#include "common/core/rng.h"
#include "common/core/tape.h"
#include "common/core/tensor.h"

__BEGIN_DECLS

struct Context {
    Device device;
    DType dtype; /* of activations: F32, or BF16 on CUDA */
    Gpu *gpu;    /* NULL on the CPU */
    Arena host;  /* Tensor structs and saved structs */
    Arena data;  /* what the tensors point to; on the device */
    bool recording;
    TapeNode *tape;
    int tape_length, tape_node; /* tape_node: the one whose derivative is being computed */
    size_t tape_capacity;
    const TapeWatch *watch; /* NULL: nobody does */
    Rng rng;
    DType moments; /* what AdamW's are kept in for weights that train: F32, or BF16 (optimizer.h) */
    const struct Products *products; /* NULL, or how weights are multiplied (products.h) */
    int rank, size;    /* this process among those that compute together: 0 of 1 when it is alone */
    struct Comm *comm; /* NULL when it is alone */
    struct Comm *experts; /* those that share a layer's experts; NULL: each has all of them */
    int spread;           /* how many these are; 0: as 1 */
    bool zero;            /* the ranks share the optimizer, too (params.h) */
    int ways;             /* so many ranks could share weights that are laid out so; 0: as 1 */
};

/* Opens the device, of several GPUs the first. BF16 needs CUDA. Returns 0, or -1 and a message. */
int context_init(Context *ctx, Device device, DType dtype, uint64_t seed, Error *err);
int context_init_gpu(Context *ctx, int index, DType dtype, uint64_t seed, Error *err);
void context_free(Context *ctx);

/* End of a step: forgets the tape and gives all tensors back to the arena. Weights and their
 * gradients are not in it. */
void context_reset(Context *ctx);

/* Bytes of activations, gradients and tape at the worst moment so far. */
size_t context_peak_bytes(const Context *ctx);

/* ---- tensors in the arena ---- */

/* A new tensor of ctx's device, not cleared. While recording it requires a gradient (only F32 and
 * BF16 do). */
Tensor *tensor_new(Context *ctx, const char *name, DType dtype, const int64_t *shape, int ndim);

/* The same numbers under another shape; the gradient flows through. */
Tensor *reshape(Context *ctx, Tensor *t, const int64_t *shape, int ndim);

/* A copy of host data on ctx's device, converted from F32 to `dtype` if that is BF16. requires_grad
 * is false. */
Tensor *tensor_copy_in(Context *ctx, const char *name, DType dtype, const void *host,
                       const int64_t *shape, int ndim);

/* Copies to and from host memory: F32 on the host whatever t's dtype is (F32 or BF16). */
void tensor_upload(Context *ctx, Tensor *t, const float *host);
void tensor_download(Context *ctx, float *host, const Tensor *t);
void tensor_download_ints(Context *ctx, int32_t *host, const Tensor *t); /* I32 */

__END_DECLS
#endif
