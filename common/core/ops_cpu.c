/*
 * The common operations on the CPU, in F32.
 *
 * linear() is a product for which cpu_matmul.c knows faster ways than the definition, so its
 * references stand first. All other kernels are the loops of their definitions, but for the sigmoid
 * shared by SwiGLU's two gradients: they are their own references, and tests compare them with
 * double precision and with finite differences.
 *
 * Loops over rows are shared among threads. Where rows are summed (gradients of weights) the work
 * is cut in a fixed way that does not depend on the number of threads, so neither do the results.
 */
#include "common/core/ops_kernels.h"

#include "common/core/cpu_matmul.h"
#include "common/core/fastmath.h"

#include <math.h>
#include <string.h>

/* Below this many elements a loop is over before the other threads have woken up. */
enum { PARALLEL_MIN = 1 << 14 };

/* ---- linear ---- */

void linear_reference_cpu(float *y, const float *base, const float *x, const float *w,
                          const float *bias, int64_t rows, int64_t in, int64_t out) {
    cpu_matmul_reference(&(CpuMatmul){y, base, out, {x, in, 1}, {w, 1, in}, rows, out, in});
    for (int64_t i = 0; i < rows * out && bias; i++) y[i] += bias[i % out];
}

void linear_backward_reference_cpu(float *dx, float *dw, float *dbias, const float *dy,
                                   const float *x, const float *w, int64_t rows, int64_t in,
                                   int64_t out) {
    const float one = 1; /* a column of ones, all in one place */
    cpu_matmul_reference(&(CpuMatmul){dx, NULL, in, {dy, out, 1}, {w, in, 1}, rows, in, out});
    cpu_matmul_reference(&(CpuMatmul){dw, NULL, in, {dy, 1, out}, {x, in, 1}, out, in, rows});
    cpu_matmul_reference(&(CpuMatmul){dbias, NULL, 1, {dy, 1, out}, {&one, 0, 0}, out, 1, rows});
}

void linear_onto_forward_cpu(float *y, const float *base, const float *x, const float *w,
                             const float *bias, int64_t rows, int64_t in, int64_t out) {
    cpu_matmul(&(CpuMatmul){y, base, out, {x, in, 1}, {w, 1, in}, rows, out, in}); /* x W^T */
    if (!bias) return;
#pragma omp parallel for if (rows * out > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < out; j++) y[i * out + j] += bias[j];
}

void linear_forward_cpu(float *y, const float *x, const float *w, const float *bias, int64_t rows,
                        int64_t in, int64_t out) {
    linear_onto_forward_cpu(y, NULL, x, w, bias, rows, in, out);
}

void linear_backward_cpu(float *dx, int add_x, float *dw, int add_w, float *dbias, int add_bias,
                         const float *dy, const float *x, const float *w, int64_t rows, int64_t in,
                         int64_t out) {
    if (dx) /* dx = dy W */
        cpu_matmul(
            &(CpuMatmul){dx, add_x ? dx : NULL, in, {dy, out, 1}, {w, in, 1}, rows, in, out});
    if (dw) /* dW = dy^T x */
        cpu_matmul(
            &(CpuMatmul){dw, add_w ? dw : NULL, in, {dy, 1, out}, {x, in, 1}, out, in, rows});
    if (!dbias) return;
    if (!add_bias) memset(dbias, 0, (size_t)out * sizeof *dbias);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < out; j++) dbias[j] += dy[i * out + j];
}

/* ---- element by element ---- */

void add_cpu(float *y, const float *a, const float *b, int64_t n) {
#pragma omp parallel for simd if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

void accumulate_cpu(float *y, const float *x, int64_t n, int add) {
    if (!add) {
        memcpy(y, x, (size_t)n * sizeof *y);
        return;
    }
#pragma omp parallel for simd if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

void slice_forward_cpu(float *y, const float *x, int64_t rows, int64_t width, int64_t from,
                       int64_t count) {
#pragma omp parallel for if (rows * count > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++)
        memcpy(y + i * count, x + i * width + from, (size_t)count * sizeof *y);
}

void slice_backward_cpu(float *dx, int add, const float *dy, int64_t rows, int64_t width,
                        int64_t from, int64_t count) {
#pragma omp parallel for if (rows * width > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        float *row = dx + i * width;
        if (!add) memset(row, 0, (size_t)width * sizeof *row);
        for (int64_t j = 0; j < count; j++) row[from + j] += dy[i * count + j];
    }
}

void concat_forward_cpu(float *y, const float *a, const float *b, int64_t rows, int64_t wa,
                        int64_t wb) {
#pragma omp parallel for if (rows * (wa + wb) > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        memcpy(y + i * (wa + wb), a + i * wa, (size_t)wa * sizeof *y);
        memcpy(y + i * (wa + wb) + wa, b + i * wb, (size_t)wb * sizeof *y);
    }
}

void concat_backward_cpu(float *da, int add_a, float *db, int add_b, const float *dy, int64_t rows,
                         int64_t wa, int64_t wb) {
#pragma omp parallel for if (rows * (wa + wb) > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        const float *row = dy + i * (wa + wb);
        if (da) accumulate_cpu(da + i * wa, row, wa, add_a);
        if (db) accumulate_cpu(db + i * wb, row + wa, wb, add_b);
    }
}

void silu_forward_cpu(float *y, const float *x, int64_t n) {
#pragma omp parallel for simd if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++) y[i] = x[i] / (1.0f + fast_exp(-x[i]));
}

/* With s = sigmoid(x):  (x s)' = s + x s (1 - s) = s (1 + x (1 - s)) */
static inline float silu_derivative(float x, float s) { return s * (1.0f + x * (1.0f - s)); }

void silu_backward_cpu(float *dx, int add_x, const float *dy, const float *x, int64_t n) {
#pragma omp parallel for simd if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++) {
        float s = 1.0f / (1.0f + fast_exp(-x[i]));
        float g = dy[i] * silu_derivative(x[i], s);
        dx[i] = add_x ? dx[i] + g : g;
    }
}

void swiglu_forward_cpu(float *y, const float *gate, const float *up, int64_t n) {
#pragma omp parallel for simd if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++) y[i] = gate[i] / (1.0f + fast_exp(-gate[i])) * up[i];
}

/*
 * y = silu(gate) up:  dgate = dy up silu'(gate),  dup = dy silu(gate). Both from one sigmoid, which
 * is most of the work; so one that is not wanted is made as well, and thrown away.
 */
void swiglu_backward_cpu(float *dgate, int add_gate, float *dup, int add_up, const float *dy,
                         const float *gate, const float *up, int64_t n) {
    enum { BLOCK = 1024 };
#pragma omp parallel for if (n > PARALLEL_MIN)
    for (int64_t start = 0; start < n; start += BLOCK) {
        int count = n - start < BLOCK ? (int)(n - start) : BLOCK;
        float more_g[BLOCK], more_u[BLOCK]; /* what is added afterwards, or not wanted */
        float *g = dgate && !add_gate ? dgate + start : more_g;
        float *u = dup && !add_up ? dup + start : more_u;
        const float *dys = dy + start, *x = gate + start, *ups = up + start;
#pragma omp simd
        for (int i = 0; i < count; i++) {
            float s = 1.0f / (1.0f + fast_exp(-x[i]));
            g[i] = dys[i] * ups[i] * silu_derivative(x[i], s);
            u[i] = dys[i] * x[i] * s;
        }
        if (dgate && add_gate) accumulate_cpu(dgate + start, g, count, 1);
        if (dup && add_up) accumulate_cpu(dup + start, u, count, 1);
    }
}

void dropout_cpu(float *y, int add, const float *x, int64_t n, DropoutMask m) {
    float scale = 1.0f / (1.0f - m.p);
    int64_t blocks = (m.each + 3) / 4; /* of a sample */
#pragma omp parallel for if (n > PARALLEL_MIN)
    for (int64_t at = 0; at < n / m.each * blocks; at++) {
        int64_t b = at / blocks, block = at % blocks;
        Philox r = philox(m.seed, m.stream, (m.sample + (uint64_t)b) << 32 | (uint64_t)block);
        for (int64_t k = 0; k < 4 && 4 * block + k < m.each; k++) {
            int64_t i = b * m.each + 4 * block + k;
            float u = (float)(r.word[k] >> 8) * 0x1p-24f;
            float kept = u < m.p ? 0.0f : x[i] * scale;
            y[i] = add ? y[i] + kept : kept;
        }
    }
}

/* ---- rmsnorm ---- */

void rmsnorm_forward_cpu(float *y, float *rstd, const float *x, const float *w, int64_t rows,
                         int64_t d, float eps) {
#pragma omp parallel for if (rows * d > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        const float *xi = x + i * d;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < d; j++) squares += xi[j] * xi[j];
        float r = 1.0f / sqrtf(squares / (float)d + eps);
        for (int64_t j = 0; j < d; j++) y[i * d + j] = xi[j] * r * w[j];
        rstd[i] = r;
    }
}

/*
 * With x^ = x rstd, so that y = x^ w:
 *     dw_j = sum over rows dy_j x^_j
 *     dx_j = rstd (w_j dy_j - x^_j mean_k(w_k dy_k x^_k))
 * The second term is there because rstd itself depends on every x_k.
 */
void rmsnorm_backward_cpu(float *dx, int add_x, float *dw, int add_w, float *scratch,
                          const float *dy, const float *x, const float *w, const float *rstd,
                          int64_t rows, int64_t d) {
#pragma omp parallel for if (rows * d > PARALLEL_MIN)
    for (int64_t chunk = 0; chunk < RMSNORM_CHUNKS; chunk++) {
        float *sums = dw ? scratch + chunk * d : NULL;
        if (sums) memset(sums, 0, (size_t)d * sizeof *sums);
        int64_t end = (chunk + 1) * rows / RMSNORM_CHUNKS;
        for (int64_t i = chunk * rows / RMSNORM_CHUNKS; i < end; i++) {
            const float *xi = x + i * d, *dyi = dy + i * d;
            float r = rstd[i];
            if (sums)
                for (int64_t j = 0; j < d; j++) sums[j] += dyi[j] * xi[j] * r;
            if (!dx) continue;
            float dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int64_t j = 0; j < d; j++) dot += w[j] * dyi[j] * xi[j];
            float c = dot * r * r / (float)d; /* mean(w dy x^) / x * x^: one rstd from each x^ */
            float *dxi = dx + i * d;
            for (int64_t j = 0; j < d; j++) {
                float g = r * (w[j] * dyi[j] - xi[j] * c);
                dxi[j] = add_x ? dxi[j] + g : g;
            }
        }
    }
    if (!dw) return;
    for (int64_t chunk = 0; chunk < RMSNORM_CHUNKS; chunk++)
        accumulate_cpu(dw, scratch + chunk * d, d, add_w || chunk > 0);
}

/* ---- embedding ---- */

void embedding_forward_cpu(float *y, const float *table, const int32_t *ids, int64_t rows,
                           int64_t d, int64_t vocab) {
    for (int64_t i = 0; i < rows; i++)
        CHECK(ids[i] >= 0 && ids[i] < vocab,
              "embedding: id %d at position %lld is outside [0, %lld)", ids[i], (long long)i,
              (long long)vocab);
#pragma omp parallel for if (rows * d > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) memcpy(y + i * d, table + ids[i] * d, (size_t)d * sizeof *y);
}

void embedding_backward_cpu(float *dtable, int add, int32_t *scratch, const float *dy,
                            const int32_t *ids, int64_t rows, int64_t d, int64_t vocab) {
    /* Counting sort: order[start[id] .. start[id + 1]) are the rows that used id, in ascending
     * order. */
    int32_t *start = scratch, *order = scratch + vocab + 1;
    memset(start, 0, (size_t)(vocab + 1) * sizeof *start);
    for (int64_t i = 0; i < rows; i++) start[ids[i]]++;
    int32_t total = 0;
    for (int64_t id = 0; id <= vocab; id++) total += start[id], start[id] = total;
    for (int64_t i = rows - 1; i >= 0; i--) order[--start[ids[i]]] = (int32_t)i;
#pragma omp parallel for schedule(static, 64) if (vocab * d > PARALLEL_MIN)
    for (int64_t id = 0; id < vocab; id++) {
        float *sum = dtable + id * d;
        if (!add) memset(sum, 0, (size_t)d * sizeof *sum);
        for (int32_t k = start[id]; k < start[id + 1]; k++)
            for (int64_t j = 0; j < d; j++) sum[j] += dy[order[k] * d + j];
    }
}

/* ---- cross entropy ---- */

void cross_entropy_forward_cpu(float *loss, float *losses, float *lse, const float *logits,
                               const int32_t *targets, int64_t rows, int64_t vocab) {
#pragma omp parallel for if (rows * vocab > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        const float *z = logits + i * vocab;
        float largest = z[0], sum = 0;
#pragma omp simd reduction(max : largest)
        for (int64_t j = 0; j < vocab; j++) largest = z[j] > largest ? z[j] : largest;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < vocab; j++) sum += fast_exp(z[j] - largest);
        lse[i] = largest + logf(sum);
        int32_t target = targets[i];
        CHECK(target == IGNORE_TARGET || (target >= 0 && target < vocab),
              "cross_entropy: target %d of row %lld is outside [0, %lld)", target, (long long)i,
              (long long)vocab);
        /* lse - z, but without adding the large maximum only to take it off again */
        losses[i] = target == IGNORE_TARGET ? 0.0f : logf(sum) + (largest - z[target]);
    }
    double total = 0;
    int64_t counted = 0;
    for (int64_t i = 0; i < rows; i++) {
        total += losses[i];
        counted += targets[i] != IGNORE_TARGET;
    }
    loss[0] = counted ? (float)(total / (double)counted) : 0.0f;
    loss[1] = (float)counted;
}

/* d loss / d z_j = (softmax(z)_j - [j = target]) / rows counted */
void cross_entropy_backward_cpu(float *logits, const float *dloss, const float *loss,
                                const float *lse, const int32_t *targets, int64_t rows,
                                int64_t vocab) {
    float scale = loss[1] > 0 ? dloss[0] / loss[1] : 0.0f;
#pragma omp parallel for if (rows * vocab > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        float *z = logits + i * vocab;
        if (targets[i] == IGNORE_TARGET) {
            memset(z, 0, (size_t)vocab * sizeof *z);
            continue;
        }
        for (int64_t j = 0; j < vocab; j++) z[j] = fast_exp(z[j] - lse[i]) * scale;
        z[targets[i]] -= scale;
    }
}

/* ---- sums ---- */

void sum_forward_cpu(float *out, float *scratch, const float *x, const float *c, int64_t n,
                     float scale) {
#pragma omp parallel for if (n > PARALLEL_MIN)
    for (int64_t chunk = 0; chunk < SUM_CHUNKS; chunk++) {
        int64_t end = (chunk + 1) * n / SUM_CHUNKS;
        double total = 0;
        for (int64_t i = chunk * n / SUM_CHUNKS; i < end; i++)
            total += (double)x[i] * (c ? c[i] : 1.0f);
        scratch[chunk] = (float)total;
    }
    double total = 0;
    for (int chunk = 0; chunk < SUM_CHUNKS; chunk++) total += scratch[chunk];
    out[0] = (float)(total * scale);
}

void sum_backward_cpu(float *dx, int add, const float *dout, const float *c, int64_t n,
                      float scale) {
    float g = dout[0] * scale;
#pragma omp parallel for simd if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++) {
        float gi = c ? g * c[i] : g;
        dx[i] = add ? dx[i] + gi : gi;
    }
}
