/* Exercise 07.9's check: the thetas in the project's own frequencies. */
#include "07_rope/rope.h"

#include <criterion/criterion.h>
#include <math.h>

double theta_for(int dim, int i, double length, double turns);
double theta_times(int dim, int i, double factor);

static double frequency(double theta, int dim, int i, RopeType type, double factor) {
    RopeConfig cfg = rope_config(dim, 4096);
    double f[64];
    cfg.rope_theta = theta;
    cfg.rope_type = type;
    cfg.factor = factor;
    rope_frequencies(&cfg, f);
    return f[i];
}

Test(theta, for_a_number_of_turns) {
    static const int dims[] = {16, 64, 128};
    for (int d = 0; d < 3; d++)
        for (int i = 1; i < dims[d] / 2; i++) {
            double theta = theta_for(dims[d], i, 8192, 0.75);
            double turns = 8192 * frequency(theta, dims[d], i, ROPE_DEFAULT, 1) / (2 * M_PI);
            cr_assert(fabs(turns - 0.75) < 1e-9, "pair %d of %d makes %g turns", i, dims[d] / 2,
                      turns);
        }
}

Test(theta, slower_by_a_factor) {
    for (int i = 1; i < 32; i++) {
        double before = frequency(10000, 64, i, ROPE_DEFAULT, 1);
        double after = frequency(10000 * theta_times(64, i, 40), 64, i, ROPE_DEFAULT, 1);
        cr_assert(fabs(before / after - 40) < 1e-7, "pair %d is %g times as slow", i,
                  before / after);
    }
    double ntk = frequency(10000, 64, 20, ROPE_NTK, 40);
    double ours = frequency(10000 * theta_times(64, 31, 40), 64, 20, ROPE_DEFAULT, 1);
    cr_assert(fabs(ours / ntk - 1) < 1e-9, "for the last pair it is not NTK's theta");
}
