/* Checks exercise 02.6: the numbers, and how often dot() was called. */
#include <criterion/criterion.h>
#include <math.h>

typedef float (*Dot)(const float *a, const float *b, int n);

void scores(float *s, const float *q, const float *k, int q_len, int kv_len, int d, int window,
            Dot dot);

enum { LONGEST = 40, D = 3 };

static long calls;

static float counting_dot(const float *a, const float *b, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    calls++;
    return sum;
}

static void check(int q_len, int kv_len, int window) {
    float q[LONGEST * D], k[LONGEST * D], s[LONGEST * LONGEST];
    for (int i = 0; i < LONGEST * D; i++) {
        q[i] = (float)(i % 7) - 3;
        k[i] = (float)(i % 5) - 2;
    }
    for (int i = 0; i < LONGEST * LONGEST; i++) s[i] = NAN;
    calls = 0;
    scores(s, q, k, q_len, kv_len, D, window, counting_dot);
    long used = calls, visible = 0;
    for (int i = 0; i < q_len; i++)
        for (int j = 0; j < kv_len; j++) {
            int p = kv_len - q_len + i, sees = j <= p && (window == 0 || j > p - window);
            float want = sees ? counting_dot(q + i * D, k + j * D, D) : -INFINITY;
            visible += sees;
            cr_assert(s[i * kv_len + j] == want,
                      "q_len %d, kv_len %d, window %d: s[%d][%d] is %g, not %g", q_len, kv_len,
                      window, i, j, s[i * kv_len + j], want);
        }
    cr_assert(used <= visible,
              "q_len %d, kv_len %d, window %d: %ld dot products, but %ld pairs are visible", q_len,
              kv_len, window, used, visible);
}

Test(skip_the_work, training) { check(LONGEST, LONGEST, 0); }
Test(skip_the_work, decoding) { check(1, LONGEST, 0); }
Test(skip_the_work, chunk) { check(9, 31, 0); }
Test(skip_the_work, window) {
    check(LONGEST, LONGEST, 8);
    check(LONGEST, LONGEST, 1);
    check(5, 33, 16);
    check(5, 33, 100);
}
