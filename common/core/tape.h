/*
 * The tape: reverse-mode differentiation.
 *
 * While a context records, every op pushes a function that knows its own derivative, together with
 * the tensors it needs. tape_backward() calls them last to first; chapter 01 explains it. The first
 * contribution to a gradient overwrites, later ones add, so gradients need not be cleared.
 */
#ifndef COMMON_TAPE_H
#define COMMON_TAPE_H

#include "common/core/tensor.h"

__BEGIN_DECLS

typedef struct Context Context;
typedef void (*BackwardFunction)(Context *ctx, void *saved);

typedef struct TapeNode {
    Tensor *output;            /* the node runs only if output->grad was written */
    BackwardFunction backward; /* reads output->grad, adds to the gradients of the inputs */
    void *saved;               /* the inputs, and what forward kept; lives in the arena */
} TapeNode;

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

/*
 * Who watches a backward pass: gradients can be used as soon as the last node that writes to them
 * has run, while those of earlier layers are still being computed (common/comm/ranks.h). Nodes are
 * numbered as they were recorded, so backward passes come to node 0 last.
 */
typedef struct TapeWatch {
    void (*writes)(void *self, const Tensor *t, int node); /* node is about to write t's gradient */
    void (*ran)(void *self, int node);                     /* it has: in the device's stream */
    void *self;
} TapeWatch;

/*
 * The gradient of a scalar loss with respect to everything recorded: seeds dloss = 1 and runs the
 * tape from last to first. That ends the recording, and the tape is empty; tensors and gradients
 * stay until context_reset().
 */
void tape_backward(Context *ctx, Tensor *loss);

__END_DECLS
#endif
