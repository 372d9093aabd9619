/*
 * Exercise 04.6: a page at a time.
 *
 * Graded by a count. decode_pages() below is right: one token's heads attend to the latents of a
 * sequence (read_pages.h has the shapes). But for each head it reads every page twice, once for the
 * scores and once for the values, and reading is what decoding waits for. Make it read every page
 * once, for all heads, keys and values together: ceil(length / PAGE_TOKENS) calls of read_page(),
 * with the same result.
 *
 * It is the heart of the chapter's kernels. With all scores gone when the next page comes, the
 * softmax has to be chapter 02's: a running maximum m, sum l and output o for each head.
 *
 * POINTS: 4
 */
#include "04_mla/exercises/read_pages.h"

#include <math.h>

static float dot(const float *a, const float *b, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

void decode_pages(float *o, const float *q, Memory *memory, int length, int heads, int rank,
                  int rope, float scale) {
    int width = rank + rope;
    for (int h = 0; h < heads; h++) {
        float scores[4096], m = -INFINITY, l = 0;
        for (int t = 0; t < length; t++) {
            const float *row = read_page(memory, t / PAGE_TOKENS) + t % PAGE_TOKENS * width;
            scores[t] = dot(q + h * width, row, width) * scale;
            m = fmaxf(m, scores[t]);
        }
        for (int c = 0; c < rank; c++) o[h * rank + c] = 0;
        for (int t = 0; t < length; t++) {
            const float *row = read_page(memory, t / PAGE_TOKENS) + t % PAGE_TOKENS * width;
            float p = expf(scores[t] - m);
            l += p;
            for (int c = 0; c < rank; c++) o[h * rank + c] += p * row[c];
        }
        for (int c = 0; c < rank; c++) o[h * rank + c] /= l;
    }
}
