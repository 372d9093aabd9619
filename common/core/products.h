/*
 * Products in another arithmetic: the door through which a Context's linear(), linear_residual(),
 * grouped_linear() and grouped_swiglu() multiply in a way of their own, forward and backward.
 *
 * ctx->products is NULL, and they multiply in ctx's dtype; or it is a table that chapter 08 fills
 * (FP8). The table says which weights it takes; all others, and everything that is no product of a
 * weight, stay as they were. It must be the same in a step's forward and backward passes.
 *
 * x may meet several weights of one shape (SwiGLU's gate and up): they are terms of one call, so
 * that what is made of x is made once.
 */
#ifndef COMMON_PRODUCTS_H
#define COMMON_PRODUCTS_H

#include "common/core/context.h"

__BEGIN_DECLS

typedef struct ProductTerm {
    const Tensor *w;  /* [out, in], or with experts [E, out, in] */
    void *y;          /* forward: [rows, out] = base + x W^T */
    const void *base; /* NULL, or y's shape */
    const void *dy;   /* backward */
    float *dw;        /* = (or, if add, +=) dy^T x; NULL: not wanted */
    int add;
} ProductTerm;

/* x and who has its rows: offsets I32 [E + 1] as in 05_moe/grouped.h, NULL without experts. */
typedef struct ProductRows {
    const void *x; /* [rows, in] */
    int64_t rows;
    const int32_t *offsets;
} ProductRows;

typedef struct Products {
    bool (*takes)(const Context *ctx, const Tensor *w);
    void (*forward)(Context *ctx, const ProductTerm *terms, int count, ProductRows rows);
    /* dx [rows, in] = (or, if add, +=) the sum over the terms of dy W; NULL: not wanted. Rows that
     * no expert has become zero when overwriting. */
    void (*backward)(Context *ctx, void *dx, int add, const ProductTerm *terms, int count,
                     ProductRows rows);
} Products;

/* bias: of the layer, or NULL; with one it multiplies as usual. */
static inline bool products_take(const Context *ctx, const Tensor *w, const Tensor *bias) {
    return ctx->products && !bias && ctx->products->takes(ctx, w);
}

/* linear() and linear_residual(): base (or nothing) + x W^T by ctx->products, on the tape. */
Tensor *products_linear(Context *ctx, Tensor *x, Tensor *weight, Tensor *base);

__END_DECLS
#endif
