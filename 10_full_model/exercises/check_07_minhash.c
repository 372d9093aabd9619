/* Exercise 10.7's check of the guess: a pair of documents meets in at least one of twenty bands. */
#include <criterion/criterion.h>
#include <math.h>

extern const double meet_at_half, meet_at_a_fifth;

static double meets(double similarity) {
    double never = 1;
    for (int band = 0; band < 20; band++) {
        double agrees = 1;
        for (int row = 0; row < 5; row++) agrees *= similarity;
        never *= 1 - agrees;
    }
    return 1 - never;
}

Test(minhash, the_guess) {
    cr_assert(fabs(meet_at_half - meets(0.5)) < 0.05, "meet_at_half is not %g", meet_at_half);
    cr_assert(fabs(meet_at_a_fifth - meets(0.2)) < 0.05 && meet_at_a_fifth > 0,
              "meet_at_a_fifth is not %g", meet_at_a_fifth);
}
