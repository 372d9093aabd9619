/* The predictions against the chapter's own formats. */
#include "08_quant/formats.h"
#include "common/core/rng.h"

#include <criterion/criterion.h>
#include <math.h>

extern const double int4_bits, beside_30, largest_e3m2, least_e3m2;
extern const long long fp8_bytes, row_bytes;

/* The number of a code without its sign: three bits of exponent, two of fraction. */
static double e3m2(int code) {
    int e = code >> 2, f = code & 3;
    return e ? ldexp(1 + f / 4.0, e - 3) : ldexp(f / 4.0, 1 - 3);
}

Test(predict, bits) {
    enum { IN = 4096 };
    static float w[IN], back[IN];
    QuantFormat int4 = {I4, 1, 128, false}, fp8 = {F8_E4M3, 128, 128, false};
    double bits = 8.0 * (double)quant_code_bytes(&int4, 16, 1024);
    bits += 16.0 * (double)quant_scale_count(&int4, 16, 1024);
    cr_assert(int4_bits == bits / (16 * 1024), "int4_bits is not %g", int4_bits);
    long long bytes = (long long)quant_code_bytes(&fp8, 2112, 7168);
    bytes += 4 * quant_scale_count(&fp8, 2112, 7168);
    cr_assert(fp8_bytes == bytes, "fp8_bytes is not %lld", fp8_bytes);
    long long row = (long long)quant_code_bytes(&fp8, 1, 256) + 4 * quant_scale_count(&fp8, 1, 256);
    cr_assert(row_bytes == row + (long long)dtype_bytes(BF16, 32), "row_bytes is not %lld",
              row_bytes);
    for (int i = 0; i < IN; i++) w[i] = i ? rng_normal(1, 1, (uint64_t)i) : 30;
    quant_round_trip(back, NULL, w, 1, IN, &(QuantFormat){U8, 1, 0, false}, NULL);
    cr_assert(fabs(quant_error(back + 1, w + 1, IN - 1) / beside_30 - 1) < 0.05,
              "beside_30 is not %g", beside_30);
    cr_assert(largest_e3m2 == e3m2(31), "largest_e3m2 is not %g", largest_e3m2);
    cr_assert(least_e3m2 == e3m2(1), "least_e3m2 is not %g", least_e3m2);
}
