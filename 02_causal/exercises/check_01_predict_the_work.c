/* Checks exercise 02.1 by counting. */
#include <criterion/criterion.h>

extern const long scores_visible, scores_computed, bytes_matrix, bytes_lse;

enum { T = 1000, TILE = 32, HEADS = 12 };

Test(predict_the_work, scores) {
    long visible = 0, computed = 0;
    for (int first = 0; first < T; first += TILE) {
        int queries = T - first < TILE ? T - first : TILE;
        for (int i = first; i < first + queries; i++) visible += i + 1;
        computed += (long)queries * (first + queries);
    }
    cr_assert(scores_visible == visible, "scores_visible is not %ld", scores_visible);
    cr_assert(scores_computed == computed, "scores_computed is not %ld", scores_computed);
}

Test(predict_the_work, bytes) {
    cr_assert(bytes_matrix == 4L * HEADS * T * T, "bytes_matrix is not %ld", bytes_matrix);
    cr_assert(bytes_lse == 4L * HEADS * T, "bytes_lse is not %ld", bytes_lse);
}
