/* Checks exercise 01.5: the product, and how many lines were fetched. */
#include "01_self_attention/exercises/cache.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>

void multiply(float *c, const float *a, const float *b);

enum { N = 64, LINES = 64, LINE_BYTES = 64, ALLOWED = 3000 };

static struct {
    uintptr_t line;
    long used;
} cache[LINES];
static long now, fetched, accesses;

/* Before the test proper nothing is in the cache; line 0 is no matrix's. */
static void touch(const void *address) {
    uintptr_t line = (uintptr_t)address / LINE_BYTES;
    int oldest = 0;
    accesses++;
    for (int i = 0; i < LINES; i++) {
        if (cache[i].line == line) {
            cache[i].used = ++now;
            return;
        }
        if (cache[i].used < cache[oldest].used) oldest = i;
    }
    fetched++;
    cache[oldest].line = line;
    cache[oldest].used = ++now;
}

float load(const float *address) {
    touch(address);
    return *address;
}

void store(float *address, float value) {
    touch(address);
    *address = value;
}

static _Alignas(LINE_BYTES) float a[N * N], b[N * N], c[N * N];

static void run(void) {
    for (int i = 0; i < N * N; i++) {
        a[i] = (float)(i * 7 % 13) - 6; /* small whole numbers: every order of the sum is exact */
        b[i] = (float)(i * 5 % 11) - 5;
        c[i] = NAN;
    }
    multiply(c, a, b);
}

Test(fewer_cache_lines, the_product_is_right) {
    run();
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            float sum = 0;
            for (int k = 0; k < N; k++) sum += a[i * N + k] * b[k * N + j];
            cr_assert(c[i * N + j] == sum, "c[%d][%d] is %g, not %g", i, j, c[i * N + j], sum);
        }
    cr_assert(accesses >= 2L * N * N * N,
              "only %ld accesses went through the cache: use load() and store()", accesses);
}

Test(fewer_cache_lines, few_lines_are_fetched) {
    run();
    cr_assert(fetched < ALLOWED, "%ld lines were fetched; fewer than %d will do", fetched, ALLOWED);
}
