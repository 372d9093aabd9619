/*
 * Solution 08.2: the step between neighbours is 2^(exponent - 4) where the exponent is that of
 * frexpf(), and never smaller than 2^-9. In steps, the number is a whole one to be found by
 * rintf(), which sends ties to the even one: and since codes count steps, even steps are even
 * codes. Rounding up to the next power of two needs no care: the code that follows 1.875 is that of
 * 2. (Tempting: roundf(), which sends ties away from zero; and 1 << e for the step below 2^-6,
 * where it stays what it is.)
 */
#include "common/core/dtype.h"

#include <math.h>

uint8_t e4m3_from_float(float x) {
    int exponent;
    uint8_t sign = signbit(x) ? 0x80 : 0;
    if (isnan(x)) return sign | 0x7f;
    if (fabsf(x) >= 448) return sign | 0x7e;
    frexpf(fabsf(x), &exponent); /* x lies from 2^(exponent - 1) to 2^exponent */
    if (exponent < -5 || x == 0) exponent = -5;
    int steps = (int)rintf(ldexpf(fabsf(x), 4 - exponent)); /* up to 16, 8 and more but for e = 0 */
    return (uint8_t)(sign | (((exponent + 5) << 3) + steps));
}
