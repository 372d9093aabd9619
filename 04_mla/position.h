/*
 * Where a token stands: the small door through which positions enter latent attention.
 *
 * Chapter 04 needs to know three things about positions and nothing else: that something rotates
 * the last numbers of each query head and of the shared key, that the rotation is by the token's
 * own position, and by which factor it wants the softmax scale changed. Chapter 07 supplies it
 * (rotary embeddings, YaRN). A NULL position means none: a token then sees its past as a
 * set, in no order.
 *
 *     struct Rope { Position position; ...tables... };        an implementation begins like this
 *
 * Rotation is in place. A rotation matrix R is orthogonal, so the gradient of what came in is
 * R^T times the gradient of what went out: backward needs no value of the forward pass, and
 * nothing has to be kept. So rotate() overwrites q and k, and while ctx records it leaves a node
 * on the tape that turns their gradients back, in place too. The operation that made q and k
 * must not need its own output for its backward pass; linear() and slice() do not.
 */
#ifndef POSITION_H
#define POSITION_H

#include "common/core/context.h"

__BEGIN_DECLS

typedef struct Position Position;

/*
 * The same rotation as numbers, for kernels that turn as they go: pair i of a head at position p by
 * the angle whose cosine and sine are cos[p, i] and sin[p, i], F32 [max_position, dim / 2] on the
 * device. A pair is two neighbours, or, if `halves`, numbers i and i + dim / 2.
 */
typedef struct PositionAngles {
    const float *cos, *sin; /* NULL: there are none, rotate() must be asked */
    int dim;                /* numbers of a head that are turned */
    bool halves;
} PositionAngles;

struct Position {
    /*
     * q [B, T, H, D_q], k [B, T, H_k, D_k]: in each head the last `dim` numbers are rotated by the
     * angles of positions[b, t]. positions I32 [B, T] on ctx's device, each in 0 .. max_position-1.
     */
    void (*rotate)(Context *ctx, const Position *self, Tensor *q, Tensor *k, int dim,
                   const Tensor *positions);
    int max_position; /* how many positions have angles */
    float scale;      /* the softmax scale is multiplied by it: 1, or YaRN's mscale^2 */
    PositionAngles angles;
};

/* I32 [B, T] on ctx's device: first, first + 1, ... in every row. */
Tensor *positions_from(Context *ctx, int64_t B, int64_t T, int first);

/* Do positions up to first + tokens - 1 exist? -1 and a message that says how many there are. NULL
 * has no limit. */
int position_room(const Position *position, int64_t first, int64_t tokens, Error *err);

/* positions[b, t] = first[b] + offset + t; first I32 [B], or NULL: zeros */
KERNEL(positions_fill, int32_t *positions, const int32_t *first, int offset, int64_t batch,
       int64_t tokens);

__END_DECLS
#endif
