/*
 * Six steps to Hopper: each of the instructions that the last rung of the matrix product is made
 * of, in a kernel of its own, so small that it can be read at a glance and checked against plain
 * loops.
 *
 *     copy          one thread orders a box of a matrix from the copy engine (TMA); all wait for it
 *                   at an mbarrier
 *     swizzle       the same box, laid out so that a column of it can be read in one turn
 *     wgmma         a warpgroup multiplies 64 x 64 by 64 x 64 straight from shared memory
 *     ring          several such steps along k, the next ones under way while one is multiplied
 *     specialised   a warp that only loads, a warpgroup that only multiplies
 *     cluster       two blocks, each of which fetches half of B for both
 *
 * Everything runs in ONE block (or one cluster): what is measured is how long a step waits, not how
 * fast the machine is. The kernels are in cuda/steps_hopper.cu, and 01_self_attention/steps runs
 * them.
 */
#ifndef STEPS_H
#define STEPS_H

#include "common/core/gpu.h"

__BEGIN_DECLS

enum { STEP_SIDE = 64 }; /* of a tile; 64 numbers in BF16 are the 128 bytes of a swizzled row */

/* They need sm_90. */
int steps_available(const Gpu *gpu);

/* to [64, 64] = from [64, 64], BF16 on the device, by way of shared memory: steps 1 and 2. */
void step_copy_cuda(Gpu *gpu, void *to, const void *from, int swizzled);

/* Clocks for a warp to read 16 bytes from each of 32 rows of a tile, always the same column of
 * pieces: the mean of many such reads, one after the other. */
double step_column_clocks_cuda(Gpu *gpu, int swizzled);

typedef enum StepWay {
    STEP_WGMMA,        /* k is 64 */
    STEP_ONE_STAGE,    /* load, wait, multiply, wait */
    STEP_RING,         /* four stages */
    STEP_SPECIALISED,  /* the same, and loading is another warp's */
    STEP_EIGHT_STAGES, /* the same, and eight stages */
    STEP_CLUSTER,      /* the same, with 128 rows in two blocks */
    STEP_WAYS
} StepWay;

int step_rows(StepWay way); /* of A and C: 64, in a cluster 128 */

/*
 * c [rows, 64] F32 = a [rows, k] b [k, 64] in BF16, row-major, all on the device; k is a multiple
 * of 64. Returns the clocks that 64 of k took, from the first order to the last sum.
 */
double step_product_cuda(Gpu *gpu, StepWay way, float *c, const void *a, const void *b, int k);

__END_DECLS
#endif
