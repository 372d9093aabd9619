/*
 * Solution 04.6. Pages outside, heads inside, chapter 02's three numbers for each head. It is
 * tempting to keep one m for all heads of a page: that is right, too, if it is their largest, but a
 * head whose scores are all far below underflows to 0 / 0.
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
    float m[128], l[128], p[PAGE_TOKENS];
    for (int h = 0; h < heads; h++) m[h] = -INFINITY, l[h] = 0;
    for (int i = 0; i < heads * rank; i++) o[i] = 0;
    for (int first = 0; first < length; first += PAGE_TOKENS) {
        const float *page = read_page(memory, first / PAGE_TOKENS);
        int rows = length - first < PAGE_TOKENS ? length - first : PAGE_TOKENS;
        for (int h = 0; h < heads; h++) {
            float top = m[h];
            for (int t = 0; t < rows; t++) {
                p[t] = dot(q + h * width, page + t * width, width) * scale;
                top = fmaxf(top, p[t]);
            }
            float rescale = expf(m[h] - top); /* 0 for the first page */
            m[h] = top;
            l[h] *= rescale;
            for (int c = 0; c < rank; c++) o[h * rank + c] *= rescale;
            for (int t = 0; t < rows; t++) {
                p[t] = expf(p[t] - top);
                l[h] += p[t];
                for (int c = 0; c < rank; c++) o[h * rank + c] += p[t] * page[t * width + c];
            }
        }
    }
    for (int i = 0; i < heads * rank; i++) o[i] /= l[i / rank];
}
