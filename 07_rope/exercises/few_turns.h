/*
 * Functions that count: cosine and sine, one call each time.
 */
#ifndef FEW_TURNS_H
#define FEW_TURNS_H

double counted_cos(double angle);
double counted_sin(double angle);

/* c, s [places, pairs]: cos and sin of p f[i] for p = 0 .. places - 1 */
void fill_table(double *c, double *s, const double *f, int pairs, int places);

#endif
