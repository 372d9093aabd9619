/*
 * Products with codes on the CPU: the plain way.
 *
 * A panel of W, some of its rows, becomes numbers in a buffer that stays in a cache, and is
 * multiplied like any other matrix (cpu_matmul.h).
 */
#include "08_quant/quantised.h"

#include "common/core/cpu_matmul.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

QuantisedMatrix quantised_matrix(const Tensor *w, int64_t e) {
    const Quantised *q = w->quantised;
    int64_t out = tensor_dim(w, -2), in = tensor_dim(w, -1);
    int64_t scale_row = tensor_dim(&q->scale, -1), scales = tensor_dim(&q->scale, -2) * scale_row;
    return (QuantisedMatrix){.dtype = w->dtype,
                             .block_out = q->block_out,
                             .block_in = q->block_in,
                             .out = out,
                             .in = in,
                             .scale_row = scale_row,
                             .codes = (uint8_t *)w->data + dtype_bytes(w->dtype, e * out * in),
                             .scale = (float *)q->scale.data + e * scales};
}

/* ---- the definition ---- */

/*
 * E4M3: sign, 4 bits of exponent, 3 of fraction. Moved to where F32 has them they are the number
 * times 2^-120, subnormal ones too, for the smallest exponent means the same in both formats.
 */
static inline float e4m3(uint8_t code) {
    uint32_t bits = (uint32_t)(code & 0x7f) << 20 | (uint32_t)(code & 0x80) << 24;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (code & 0x7f) == 0x7f ? NAN : x * 0x1p120f;
}

float quantised_number(const QuantisedMatrix *w, int64_t i, int64_t j) {
    int64_t at = i * w->in + j, k = j % w->block_in, half = w->block_in / 2;
    float scale = w->scale[i / w->block_out * w->scale_row + j / w->block_in];
    if (w->dtype == F8_E4M3) return scale * e4m3(w->codes[at]);
    if (w->dtype == U8) return scale * (float)(w->codes[at] - 128);
    int byte = w->codes[(at - k) / 2 + k % half]; /* I4: numbers k and k + half of a group */
    return scale * (float)((k < half ? byte & 15 : byte >> 4) - 8);
}

void quantised_reference_cpu(const QuantisedProduct *p) {
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t i = p->first; i < p->first + p->count; i++) {
            double sum = p->base ? p->base[r * p->y_row + i] : 0;
            for (int64_t j = 0; j < p->w.in; j++)
                sum += (double)p->x[r * p->x_row + j] * quantised_number(&p->w, i, j);
            p->y[r * p->y_row + i] = (float)sum;
        }
}

/* ---- codes to numbers ---- */

void quantised_numbers_cpu(float *to, const QuantisedMatrix *w, int64_t first, int64_t count) {
    int64_t in = w->in, group = w->block_in, half = group / 2;
    for (int64_t i = first; i < first + count; i++, to += in) {
        const float *scale = w->scale + i / w->block_out * w->scale_row;
        const uint8_t *codes = w->codes + (w->dtype == I4 ? i * in / 2 : i * in);
        for (int64_t j = 0; j < in; j += group, scale++) {
            int64_t here = min(group, in - j);
            if (w->dtype == U8)
                for (int64_t k = j; k < j + here; k++) to[k] = *scale * (float)(codes[k] - 128);
            else if (w->dtype == F8_E4M3)
                for (int64_t k = j; k < j + here; k++) to[k] = *scale * e4m3(codes[k]);
            else
                for (int64_t k = 0; k < half; k++) {
                    int byte = codes[j / 2 + k];
                    to[j + k] = *scale * (float)((byte & 15) - 8);
                    to[j + k + half] = *scale * (float)((byte >> 4) - 8);
                }
        }
    }
}

void quantised_panels_cpu(const QuantisedProduct *p) {
    enum { PANEL = 1 << 15 }; /* numbers: 128 KB, a part of a second-level cache */
    int64_t in = p->w.in, height = min(p->count, PANEL / in > 16 ? PANEL / in : 16);
    float *panel = must_alloc((size_t)(height * in), sizeof *panel);
    for (int64_t i = p->first, n; i < p->first + p->count; i += n) {
        n = min(height, p->first + p->count - i);
        quantised_numbers_cpu(panel, &p->w, i, n);
        cpu_matmul(&(CpuMatmul){.c = p->y + i,
                                .base = p->base ? p->base + i : NULL,
                                .c_row = p->y_row,
                                .a = {p->x, p->x_row, 1},
                                .b = {panel, 1, in},
                                .m = p->rows,
                                .n = n,
                                .k = in});
    }
    free(panel);
}
