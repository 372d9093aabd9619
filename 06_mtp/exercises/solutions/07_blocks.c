/*
 * Solution 06.7. r_i is how much of the model's probability of the first i drafts their drafter had
 * too, at most 1; h_i leaves exactly the mass that later places and replacements need. The tempting
 * answer stops at the first u_i >= h_i: then a block that is likely as a whole is thrown away for
 * its first token, and the distribution is wrong as well.
 */
#include <stdint.h>

int block_accepts(float *rest, const float *p, const float *q, const int32_t *drafts, int k,
                  int vocab, const float *u);

/* rest = max(r p - q, 0); returns its sum. */
static double leave(float *rest, const float *p, const float *q, int vocab, double r) {
    double sum = 0;
    for (int x = 0; x < vocab; x++) {
        double more = r * p[x] - q[x];
        rest[x] = more > 0 ? (float)more : 0;
        sum += rest[x];
    }
    return sum;
}

int block_accepts(float *rest, const float *p, const float *q, const int32_t *drafts, int k,
                  int vocab, const float *u) {
    double r = 1, kept = 1; /* kept: r of the drafts that stay */
    int stay = 0;
    for (int i = 1; i <= k; i++) {
        int at = (i - 1) * vocab + drafts[i - 1];
        r *= (double)p[at] / q[at];
        if (r > 1) r = 1;
        double h = r;
        if (i < k) {
            double left = leave(rest, p + i * vocab, q + i * vocab, vocab, r);
            h = left + 1 - r > 0 ? left / (left + 1 - r) : 1;
        }
        if (u[i - 1] < h) stay = i, kept = r;
    }
    if (stay < k) {
        leave(rest, p + stay * vocab, q + stay * vocab, vocab, kept);
        return stay;
    }
    for (int x = 0; x < vocab; x++) rest[x] = p[k * vocab + x];
    return k;
}
