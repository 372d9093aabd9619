/*
 * Exercise 07.2: turn pairs.
 *
 * x is the rotated part of one head: `pairs` pairs of neighbours, (x[0], x[1]), (x[2], x[3]), ...
 * Turn pair i, in place, by the angle whose cosine and sine are c[i] and s[i], counterclockwise:
 * (1, 0) by a quarter turn becomes (0, 1).
 *
 * POINTS: 2
 */
void turn_pairs(float *x, const float *c, const float *s, int pairs);

void turn_pairs(float *x, const float *c, const float *s, int pairs) {
    for (int i = 0; i < pairs; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * c[i] - b * s[i];
        x[2 * i + 1] = a * s[i] + b * c[i];
    }
}
