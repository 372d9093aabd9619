/*
 * Exercise 08.6: straight through.
 *
 * The two kernels of quantisation-aware training (qat.h), for blocks of `block` numbers side by
 * side. Forward, for each block:
 *
 *     scale = clip_at * max |w| / largest     at least FLT_MIN; of a block of zeros: 1
 *     y     = scale * round(w / scale)        a tie to the even number; cut to -largest .. largest
 *
 * Backward: dw = dy where round(w / scale) is within -largest .. largest, else 0; added to what dw
 * holds if `add`. Whoever wrote this differentiated round(), which is flat.
 *
 * POINTS: 2
 *
 * REPLACES: fake_quantise_forward_cpu in 08_quant/qat_cpu.c
 *
 * REPLACES: fake_quantise_backward_cpu in 08_quant/qat_cpu.c
 *
 * TESTS: test_qat
 */
#include "08_quant/qat.h"

#include <float.h>
#include <math.h>

void fake_quantise_forward_cpu(float *y, float *scales, const float *w, int64_t blocks,
                               int64_t block, float largest, float clip_at) {
    for (int64_t n = 0; n < blocks; n++) {
        scales[n] = 1;
        for (int64_t j = n * block; j < (n + 1) * block; j++) y[j] = rintf(w[j]);
    }
}

void fake_quantise_backward_cpu(float *dw, int add, const float *dy, const float *w,
                                const float *scales, int64_t blocks, int64_t block, float largest) {
    for (int64_t j = 0; j < blocks * block; j++) dw[j] = add ? dw[j] : 0;
}
