/* Checks exercise 05.10: the numbers by counting, the sentences by an example of two experts. */
#include <criterion/criterion.h>
#include <math.h>

extern const double rows_of_4096, operations_a_byte, share_read_by_one;
extern const int least_tokens, other_choice, stays_biased, learns_bias;

enum { EXPERTS = 256, TOP_K = 8, BALANCE = 186 };

static double rows(int tokens) { return (double)tokens * TOP_K / EXPERTS; }

/* Each number of a weight: 2 bytes, and a multiplication and an addition for each row. */
static double intensity(int tokens) { return 2 * rows(tokens) / 2; }

Test(under_the_roof, numbers) {
    cr_assert(rows_of_4096 == rows(4096), "rows_of_4096 is not %g", rows_of_4096);
    cr_assert(operations_a_byte == intensity(4096), "operations_a_byte is not %g",
              operations_a_byte);
    int tokens = 64;
    while (intensity(tokens) < BALANCE) tokens += 64;
    cr_assert(least_tokens == tokens, "least_tokens is not %d", least_tokens);
    cr_assert(fabs(share_read_by_one - (double)TOP_K / EXPERTS) < 1e-6,
              "share_read_by_one is not %g", share_read_by_one);
}

/* Two experts, one is taken; its answer is 1, its weight the score, with the bias or without. */
static void route(const float *bias, int in_weights, int *taken, float *y) {
    const float score[2] = {0.6f, 0.5f};
    *taken = score[1] + bias[1] > score[0] + bias[0];
    *y = score[*taken] + (in_weights ? bias[*taken] : 0);
}

Test(under_the_roof, sentences) {
    const float before[2] = {0, 0}, after[2] = {0.01f, -0.01f};
    int was, is;
    float old, new;
    route(before, 1, &was, &old);
    route(after, 1, &is, &new);
    cr_assert(stays_biased == (old != new),
              "think about stays_biased again: what is a bias when it "
              "has stopped moving?");
    route(after, 0, &was, &old);
    cr_assert(other_choice == (was != is), "think about other_choice again: what decides who is "
                                           "taken?");
    cr_assert(learns_bias == 0, "think about learns_bias again: who moves it?");
}
