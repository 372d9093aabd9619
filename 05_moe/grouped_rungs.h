/*
 * The rungs of the grouped product on CUDA: the kernels that grouped.h's *_cuda functions choose
 * from, and two slower ways that one would write first.
 *
 *     gather    for every expert: gather its tokens, multiply by cuBLAS
 *     blas      the rows are sorted already (dispatch.h): cuBLAS for every expert
 *     plain     one kernel, on CUDA cores; any size, F32 and BF16
 *     mma       one kernel, tensor cores by mma.sync; BF16, sm_80 and newer
 *     hopper    one kernel, tensor cores by wgmma fed by TMA; BF16, sm_90
 *
 * The first two need the offsets on the host, so the host has to wait for the router in every layer
 * and no CUDA graph can hold the step: they are here to be measured. The others read offsets on the
 * device. Arguments are grouped.h's.
 */
#ifndef GROUPED_RUNGS_H
#define GROUPED_RUNGS_H

#include "05_moe/grouped.h"

__BEGIN_DECLS

/* x [tokens, in] in the tokens' own order, token_of_row I32 [R] on the device; gathered is scratch
 * [R, in]. */
void grouped_forward_gather_cuda(Gpu *gpu, DType dtype, void *y, void *gathered, const void *x,
                                 const int32_t *token_of_row, const void *w,
                                 const int32_t *host_offsets, GroupedShape shape);

/* blas: in place of offsets, host_offsets. */
__typeof__(grouped_forward_cuda) grouped_forward_blas_cuda, grouped_forward_plain_cuda,
    grouped_forward_mma_cuda, grouped_forward_hopper_cuda;
__typeof__(grouped_backward_input_cuda) grouped_backward_input_blas_cuda,
    grouped_backward_input_plain_cuda, grouped_backward_input_mma_cuda,
    grouped_backward_input_hopper_cuda;
__typeof__(grouped_backward_weight_cuda) grouped_backward_weight_blas_cuda,
    grouped_backward_weight_plain_cuda, grouped_backward_weight_mma_cuda,
    grouped_backward_weight_hopper_cuda;
__typeof__(grouped_swiglu_forward_cuda) grouped_swiglu_forward_plain_cuda,
    grouped_swiglu_forward_mma_cuda, grouped_swiglu_forward_hopper_cuda;
__typeof__(grouped_swiglu_backward_input_cuda) grouped_swiglu_backward_input_hopper_cuda;

int grouped_mma_available(Gpu *gpu, DType dtype, GroupedShape shape);
int grouped_hopper_available(Gpu *gpu, DType dtype, GroupedShape shape);

__END_DECLS
#endif
