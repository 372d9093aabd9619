/*
 * The context: where a computation runs, where its tensors live, and what must be remembered to
 * differentiate it.
 *
 * Arena.  All activations of a step come from one arena and go back to it at once (context_reset);
 *         what an op needs for itself alone may go back before (arena_mark). There is no free() of
 *         single tensors and no malloc() inside the loop; since every step asks for the same sizes
 *         in the same order, it also gets the same addresses.
 * Tape.   With recording on, every op pushes a function that knows its own derivative, together
 *         with the tensors it needs. tape_backward() calls them last to first. That is all of
 *         reverse-mode differentiation; chapter 01 explains it.
 * Rng.    Counter-based: see rng.h.
 *
 * One Context serves one model on one device. Nothing here is global; two contexts do not see each
 * other.
 */
#ifndef COMMON_CONTEXT_H
#define COMMON_CONTEXT_H

#include "common/core/error.h"
#include "common/core/memory.h"
#include "common/core/rng.h"
#include "common/core/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- arena ---- */

typedef struct ArenaBlock ArenaBlock;

typedef struct Arena {
    Device device;
    Gpu *gpu;
    ArenaBlock *first, *current;
    size_t used, peak; /* bytes handed out since the last reset, and the most ever */
} Arena;

/* 256-byte aligned, not cleared; fatal() when memory runs out. */
void *arena_alloc(Arena *arena, size_t bytes);

/*
 * Where an arena stands, and back to there: all that was handed out since the mark is free again.
 * For buffers that one op alone needs, above all not the tape: never while
 * recording. What a GPU has queued may still use them, since what comes later is queued behind it.
 * Marks are released last to first, before the next reset.
 */
typedef struct ArenaMark {
    ArenaBlock *block;
    size_t used_in_block, used;
} ArenaMark;

ArenaMark arena_mark(const Arena *arena);
void arena_release(Arena *arena, ArenaMark mark);

void arena_reset(Arena *arena); /* all of it is free again; the memory is kept for the next step */
void arena_free(Arena *arena);

/* ---- context ---- */

typedef struct Context Context;
typedef void (*BackwardFunction)(Context *ctx, void *saved);

typedef struct TapeNode {
    Tensor *output;            /* the node runs only if output->grad was written */
    BackwardFunction backward; /* reads output->grad, adds to the gradients of the inputs */
    void *saved;               /* the inputs, and what forward kept; lives in the arena */
} TapeNode;

struct Context {
    Device device;
    DType dtype; /* of activations: F32, or BF16 on CUDA */
    Gpu *gpu;    /* NULL on the CPU */
    Arena host;  /* Tensor structs and saved structs */
    Arena data;  /* what the tensors point to; on the device */
    bool recording;
    TapeNode *tape;
    int tape_length, tape_capacity;
    Rng rng;
};

/* Opens the device. dtype BF16 needs CUDA. Returns 0, or -1 and a message. */
int context_init(Context *ctx, Device device, DType dtype, uint64_t seed, Error *err);
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

/* ---- tape ---- */

/* While recording: remembers that `output` was made, and how to differentiate. *saved (size bytes)
 * is copied. */
void tape_push(Context *ctx, Tensor *output, BackwardFunction backward, const void *saved,
               size_t size);

/* RECORD(ctx, y, rmsnorm_backward, RmsNormSaved, .x = x, .w = w): tape_push with the saved struct
 * written in place. */
#define RECORD(ctx, output, backward, Saved, ...) \
    tape_push(ctx, output, backward, &(Saved){__VA_ARGS__}, sizeof(Saved))

/*
 * For a backward function: where the gradient of t goes. NULL when it is not wanted. *add is 0 when
 * the kernel must overwrite (first contribution) and 1 when it must add. Activations' gradients
 * have the activation's dtype and come from the arena; weights' gradients are F32 and belong to
 * Params.
 */
void *grad_slot(Context *ctx, Tensor *t, int *add);

/*
 * For a backward function that hands its output's gradient on as it is: adds from->grad to to's
 * gradient. If `to` has none yet it takes the memory over instead of copying, so this must be the
 * last thing done with from->grad.
 */
void grad_pass(Context *ctx, const Tensor *from, Tensor *to);

/* The gradients of a scalar loss with respect to everything recorded: seeds dloss = 1 and runs the
 * tape from last to first. */
void tape_backward(Context *ctx, Tensor *loss);

#ifdef __cplusplus
}
#endif
#endif
