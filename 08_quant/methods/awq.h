/*
 * AWQ (Lin et al. 2023): weights that meet large inputs are rounded more finely.
 *
 *     W x = (W s) (x / s)        s one number for each input channel
 *
 * A channel whose weights are multiplied by s > 1 before they are rounded, and whose inputs are
 * divided by it, loses s times less, as long as the group's scale does not grow with it. Inputs
 * are large in the same channels for every token, so one s does for all of them; 1 / s goes into
 * what comes before (a norm's weight, say) and costs nothing.
 *
 *     s_j = (mean |x_j|)^r, made to lie around 1, with the r of 0, 1/20, .. 19/20 that loses least
 *
 * Then each group's largest weights are cut off as far as that helps: all others get finer steps.
 */
#ifndef QUANT_AWQ_H
#define QUANT_AWQ_H

#include "08_quant/formats.h"
#include "08_quant/methods/inputs.h"

__BEGIN_DECLS

/* A linear layer that reads an input. */
typedef struct InputReader {
    const InputStats *stats; /* of the rows that this one reads */
    float *w;                /* [out, in] */
    int64_t out;
} InputReader;

/*
 * s [in] for several layers that read the same channels: the least sum of
 * ||X (round(W s) / s - W)^T||^2. mean_abs [in]: of the channels. Returns r. Each layer's rows must
 * fit the format.
 */
double awq_scales(float *s, const InputReader *readers, int count, const float *mean_abs,
                  int64_t in, const QuantFormat *format);

/*
 * Cuts off w's largest numbers, each group's at 1, 0.95, .. 0.55 of its largest, whichever leaves
 * the least ||x_g (round(w_g) - w_g)||^2. Block_out must be 1.
 */
void awq_clip(float *w, int64_t out, const InputStats *stats, const QuantFormat *format);

__END_DECLS
#endif
