/* Exercise 10.15's check: the rounds are played with numbers. */
#include "10_full_model/exercises/15_ring.h"

#include <criterion/criterion.h>
#include <string.h>

enum { MOST = 9 };

Test(ring, adds_up) {
    for (int size = 1; size <= MOST; size++) {
        long has[MOST][MOST], sum[MOST] = {0};
        for (int r = 0; r < size; r++)
            for (int i = 0; i < size; i++) sum[i] += has[r][i] = 1 + r * 100 + i * i * 7;
        for (int round = 0; round < 2 * (size - 1); round++) {
            long before[MOST][MOST];
            memcpy(before, has, sizeof has);
            for (int r = 0; r < size; r++) { /* all at once */
                RingMove m = ring_move(r, round, size);
                cr_assert(m.piece >= 0 && m.piece < size, "round %d: rank %d of %d sends piece %d",
                          round, r, size, m.piece);
                long *to = &has[(r + 1) % size][m.piece];
                *to = m.adds ? *to + before[r][m.piece] : before[r][m.piece];
            }
            for (int r = 0; round == size - 2 && r < size; r++)
                cr_assert(has[r][r] == sum[r],
                          "%d ranks: after %d rounds piece %d of rank %d is %ld, not %ld", size,
                          size - 1, r, r, has[r][r], sum[r]);
        }
        for (int r = 0; r < size; r++)
            for (int i = 0; i < size; i++)
                cr_assert(has[r][i] == sum[i], "%d ranks: piece %d of rank %d is %ld, not %ld",
                          size, i, r, has[r][i], sum[i]);
    }
}
