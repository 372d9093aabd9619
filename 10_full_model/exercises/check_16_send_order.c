/* Exercise 10.16's check: the definition, on many routings. */
#include "10_full_model/exercises/16_send_order.h"

#include <criterion/criterion.h>

enum { ROWS = 200, EXPERTS = 16 };

static int route(int kind, int i) {
    uint32_t x = (uint32_t)i * 2654435761u >> 16;
    return kind == 0 ? (int)(x % EXPERTS) : kind == 1 ? EXPERTS - 1 : kind == 2 ? (int)(x % 3) : 5;
}

Test(sending, order) {
    for (int kind = 0; kind < 4; kind++)
        for (int rows = 0; rows <= ROWS; rows += 67)
            for (int ranks = 1; ranks <= EXPERTS; ranks *= 2) {
                int32_t expert[ROWS + 1], order[ROWS + 1], expected[ROWS + 1];
                int64_t counts[EXPERTS], wanted[EXPERTS] = {0};
                int at = 0;
                for (int i = 0; i < rows; i++) expert[i] = route(kind, i), order[i] = -1;
                for (int e = 0; e < EXPERTS; e++)
                    for (int i = 0; i < rows; i++)
                        if (expert[i] == e) expected[at++] = i, wanted[e / (EXPERTS / ranks)]++;
                for (int r = 0; r < ranks; r++) counts[r] = -1;
                send_order(counts, order, expert, rows, EXPERTS, ranks);
                for (int r = 0; r < ranks; r++)
                    cr_assert(counts[r] == wanted[r], "rank %d of %d gets %d rows, not %d", r,
                              ranks, (int)wanted[r], (int)counts[r]);
                for (int i = 0; i < rows; i++)
                    cr_assert(order[i] == expected[i], "place %d is row %d's, not row %d's", i,
                              expected[i], order[i]);
            }
}
