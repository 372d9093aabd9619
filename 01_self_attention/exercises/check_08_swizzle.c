/* Checks exercise 01.8 by counting turns. */
#include <criterion/criterion.h>
#include <string.h>

int place(int row, int piece);

enum { ROWS = 64, PIECES = 4, COLUMNS = 8 };

/* Of eight threads: as many as the fullest column of pieces has readers. */
static int turns(const int *places) {
    int readers[COLUMNS] = {0}, most = 0;
    for (int i = 0; i < 8; i++) {
        int n = ++readers[places[i] % COLUMNS];
        most = n > most ? n : most;
    }
    return most;
}

static void check_places(void) {
    char taken[ROWS * PIECES] = {0};
    for (int r = 0; r < ROWS; r++)
        for (int p = 0; p < PIECES; p++) {
            int at = place(r, p);
            cr_assert(at >= 4 * r && at < 4 * r + 4,
                      "piece %d of row %d is at %d, outside of its row's four places %d to %d", p,
                      r, at, 4 * r, 4 * r + 3);
            cr_assert(!taken[at], "two pieces of row %d are at %d", r, at);
            taken[at] = 1;
        }
}

Test(swizzle, each_piece_has_a_place) { check_places(); }

Test(swizzle, down_a_column) {
    for (int r0 = 0; r0 < ROWS; r0 += 8)
        for (int p = 0; p < PIECES; p++) {
            int places[8];
            for (int i = 0; i < 8; i++) places[i] = place(r0 + i, p);
            cr_assert(turns(places) == 1, "piece %d of rows %d to %d takes %d turns", p, r0, r0 + 7,
                      turns(places));
        }
}

Test(swizzle, along_two_rows) {
    check_places();
    for (int r0 = 0; r0 < ROWS; r0 += 8) { /* the stub passes this one alone, so look down, too */
        int places[8];
        for (int i = 0; i < 8; i++) places[i] = place(r0 + i, 0);
        cr_assert(turns(places) == 1, "eight rows take %d turns", turns(places));
    }
    for (int r0 = 0; r0 < ROWS; r0 += 2) {
        int places[8];
        for (int i = 0; i < 8; i++) places[i] = place(r0 + i / 4, i % 4);
        cr_assert(turns(places) == 1, "rows %d and %d take %d turns", r0, r0 + 1, turns(places));
    }
}
