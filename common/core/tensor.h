/*
 * A tensor: numbers in row-major order, and what is needed to know what they are.
 *
 * Tensors are always contiguous; the last dimension is the fastest. Linear weights are [out, in] as
 * in PyTorch. A tensor does not own its data: an Arena does (activations), a Params list (weights)
 * or a mapped file. So a Tensor may be copied by value, and a view is a second Tensor on the same
 * data.
 *
 * grad is where the gradient of the loss with respect to this tensor goes. The first contribution
 * in a step is written, every later one is added; has_grad tells which (see grad_slot in
 * context.h). So gradients need not be cleared.
 */
#ifndef COMMON_TENSOR_H
#define COMMON_TENSOR_H

#include "common/core/dtype.h"

#include <stdbool.h>

__BEGIN_DECLS

typedef enum Device { CPU, CUDA } Device;

enum { MAX_DIMS = 4 };

typedef struct Tensor {
    void *data;
    DType dtype;
    Device device;
    int ndim;
    int64_t shape[MAX_DIMS];           /* entries past ndim are 1 */
    const char *name;                  /* for messages; never NULL */
    bool requires_grad;                /* is its gradient wanted? */
    bool has_grad;                     /* has a contribution to grad been written in this step? */
    struct Tensor *grad;               /* same shape; NULL until it is first written */
    const struct Quantised *quantised; /* NULL, or: the data are codes (quantised.h) */
} Tensor;

/* SHAPE(B, T, D) stands for two arguments: the sizes and how many there are. */
#define SHAPE(...) \
    (const int64_t[]){__VA_ARGS__}, (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

const char *device_name(Device device);

int64_t tensor_count(const Tensor *t); /* elements */
size_t tensor_bytes(const Tensor *t);
int64_t tensor_dim(const Tensor *t, int i); /* i < 0 counts from the end: -1 is the last */
int64_t tensor_rows(const Tensor *t);       /* product of all dimensions but the last */

/* "[2, 16, 64]" in a buffer of the caller's. */
typedef struct ShapeText {
    char text[96];
} ShapeText;
ShapeText shape_text(const Tensor *t);

/* Have all of them this dtype? A NULL among them does not count. */
bool tensors_have_dtype(const Tensor *const *list, size_t count, DType dtype);

/* Aborts unless t has this dtype and shape (-1 matches any size); names the tensor, the shape it
 * has and the one wanted. */
void check_shape(const char *where, const Tensor *t, DType dtype, const int64_t *shape, int ndim);

/* Describes data that lives elsewhere. requires_grad is false. */
Tensor tensor_view(void *data, const char *name, DType dtype, Device device, const int64_t *shape,
                   int ndim);

/* t[i] as a float, for F32, BF16, I32 and I64 tensors on the CPU. */
float tensor_get(const Tensor *t, int64_t i);

__END_DECLS
#endif
