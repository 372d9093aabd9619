/* The predictions against the chapter's own formats. */
#include "08_quant/formats.h"
#include "common/core/rng.h"

#include <criterion/criterion.h>
#include <math.h>

extern const double int4_bits, beside_100, largest_e4m3, least_e4m3;
extern const long long fp8_bytes, row_bytes;

Test(predict, bits) {
    enum { IN = 4096 };
    static float w[IN], back[IN];
    QuantFormat int4 = {I4, 1, 128, false}, fp8 = {F8_E4M3, 128, 128, false};
    cr_assert(int4_bits == quant_bits(&int4, 16, 1024), "int4_bits is not %g", int4_bits);
    long long bytes = (long long)quant_code_bytes(&fp8, 576, 7168);
    bytes += 4 * quant_scale_count(&fp8, 576, 7168);
    cr_assert(fp8_bytes == bytes, "fp8_bytes is not %lld", fp8_bytes);
    long long row = (long long)quant_code_bytes(&fp8, 1, 512) + 4 * quant_scale_count(&fp8, 1, 512);
    cr_assert(row_bytes == row + (long long)dtype_bytes(BF16, 64), "row_bytes is not %lld",
              row_bytes);
    for (int i = 0; i < IN; i++) w[i] = i ? rng_normal(1, 1, (uint64_t)i) : 100;
    quant_round_trip(back, NULL, w, 1, IN, &(QuantFormat){U8, 1, 0, false}, NULL);
    cr_assert(fabs(quant_error(back + 1, w + 1, IN - 1) / beside_100 - 1) < 0.05,
              "beside_100 is not %g", beside_100);
    cr_assert(largest_e4m3 == (double)e4m3_to_float(0x7e), "largest_e4m3 is not %g", largest_e4m3);
    cr_assert(least_e4m3 == 512 * (double)e4m3_to_float(1), "least_e4m3 is not %g", least_e4m3);
}
