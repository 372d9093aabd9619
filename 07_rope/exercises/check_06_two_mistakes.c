/* Step by step against the formula: score = q . R_(s - t) k, for the distance and nothing else. */
#include "common/core/rng.h"
#include "common/program/testing.h"

#include <math.h>

void decode_step(float *scores, float *keys, const float q[2], const float k[2], int cached,
                 float f);

Test(two_mistakes, every_step) {
    enum { STEPS = 12 };
    const float f = 0.7f;
    float keys[2 * STEPS] = {0}, k[STEPS][2];
    for (int t = 0; t < STEPS; t++) {
        float q[2], scores[STEPS], expected[STEPS];
        for (int j = 0; j < 2; j++) {
            q[j] = rng_normal(1, 1, (uint64_t)(2 * t + j));
            k[t][j] = rng_normal(1, 2, (uint64_t)(2 * t + j));
        }
        decode_step(scores, keys, q, k[t], t, f);
        for (int s = 0; s <= t; s++) {
            double angle = (s - t) * (double)f;
            double a = k[s][0] * cos(angle) - k[s][1] * sin(angle);
            double b = k[s][0] * sin(angle) + k[s][1] * cos(angle);
            expected[s] = (float)(q[0] * a + q[1] * b);
        }
        check_close("scores", scores, expected, t + 1, 1e-5); /* angles up to 8, in F32 */
    }
}
