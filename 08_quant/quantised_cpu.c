/*
 * Products with codes on the CPU: the plain way.
 *
 * A panel of W, some of its rows, becomes numbers in a buffer that stays in a cache, and is
 * multiplied like any other matrix (cpu_matmul.h).
 */
#include "08_quant/quantised.h"
#include "08_quant/quantised_lanes.h"

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

float quantised_number(const QuantisedMatrix *w, int64_t i, int64_t j) {
    int64_t at = i * w->in + j, k = j % w->block_in, half = w->block_in / 2;
    float scale = w->scale[i / w->block_out * w->scale_row + j / w->block_in];
    if (w->dtype == F8_E4M3) return scale * e4m3_to_float(w->codes[at]);
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

/* count numbers from codes that are as many bytes. */
INLINE void numbers(float *to, const uint8_t *codes, float scale, int64_t count,
                    const CodeKind kind) {
    Vector all = scale * code_unit(kind) - (Vector){0};
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES) *(Vector *)(to + k) = all * code_lanes(codes + k, kind);
    if (k == count) return;
    uint8_t some[LANES] = {0};
    memcpy(some, codes + k, (size_t)(count - k));
    Vector last = all * code_lanes(some, kind);
    memcpy(to + k, &last, (size_t)(count - k) * sizeof *to);
}

void quantised_numbers_cpu(float *to, const QuantisedMatrix *w, int64_t first, int64_t count) {
    int64_t in = w->in, group = w->block_in, half = group / 2;
    for (int64_t i = first; i < first + count; i++, to += in) {
        const float *scale = w->scale + i / w->block_out * w->scale_row;
        const uint8_t *codes = w->codes + (w->dtype == I4 ? i * in / 2 : i * in);
        for (int64_t j = 0; j < in; j += group, scale++) {
            if (w->dtype == U8) numbers(to + j, codes + j, *scale, group, CODE_U8);
            if (w->dtype == F8_E4M3)
                numbers(to + j, codes + j, *scale, min(group, in - j), CODE_E4M3);
            if (w->dtype != I4) continue;
            numbers(to + j, codes + j / 2, *scale, half, CODE_LOW);
            numbers(to + j + half, codes + j / 2, *scale, half, CODE_HIGH);
        }
        if (w->dtype == F8_E4M3 && has_nan(codes, in))
            for (int64_t j = 0; j < in; j++)
                if ((codes[j] & 127) == 127) to[j] = NAN;
    }
}

void quantised_panels_cpu(const QuantisedProduct *p) {
    enum { FEW_HEIGHT = 16, HEIGHT = 128 };
    int64_t in = p->w.in, height = min(p->count, p->rows <= CPU_FEW_ROWS ? FEW_HEIGHT : HEIGHT);
    float *panel = must_realloc(NULL, (size_t)(height * in), sizeof *panel);
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
