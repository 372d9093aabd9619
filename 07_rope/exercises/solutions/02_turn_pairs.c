/*
 * Solution 07.2: a pair is a complex number, and turning is multiplying by c + i s. The new first
 * number needs the old second one and the other way round, so both are read before either is
 * written. (Tempting: x[2i] = ... and then x[2i + 1] from the new x[2i]. The lengths then change,
 * and the first test finds it.)
 */
void turn_pairs(float *x, const float *c, const float *s, int pairs);

void turn_pairs(float *x, const float *c, const float *s, int pairs) {
    for (int i = 0; i < pairs; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * c[i] - b * s[i];
        x[2 * i + 1] = a * s[i] + b * c[i];
    }
}
