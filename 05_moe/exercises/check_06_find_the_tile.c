/* Every tile of some loads, against a plain list, and the calls counted. */
#include "05_moe/exercises/find_the_tile.h"

#include <criterion/criterion.h>

enum { MAX_EXPERTS = 256 };

struct Tiles {
    int before[MAX_EXPERTS + 1], calls, experts;
};

int tiles_before(Tiles *tiles, int e) {
    cr_assert(e >= 0 && e <= tiles->experts, "tiles_before(%d) of %d experts", e, tiles->experts);
    tiles->calls++;
    return tiles->before[e];
}

static void check(int experts, int limit, int (*load)(int e)) {
    static Tiles tiles;
    tiles.experts = experts;
    for (int e = 0; e < experts; e++) tiles.before[e + 1] = tiles.before[e] + load(e);
    for (int tile = 0; tile < tiles.before[experts]; tile++) {
        int want = 0, expert = -1, number = -1;
        while (tiles.before[want + 1] <= tile) want++;
        tiles.calls = 0;
        find_tile(&expert, &number, &tiles, experts, tile);
        cr_assert(expert == want && number == tile - tiles.before[want],
                  "tile %d of %d experts: expert %d, number %d is wrong", tile, experts, expert,
                  number);
        cr_assert(tiles.calls <= limit, "tile %d of %d experts took %d calls; %d would do", tile,
                  experts, tiles.calls, limit);
    }
}

static int even(int e) { return 1 + 0 * e; }
static int ragged(int e) { return e % 7 == 3 ? 5 : e % 3 == 0 ? 0 : 2; }
static int the_last_one_only(int e) { return e == 255 ? 9 : 0; }
static int the_first_one_only(int e) { return e == 0 ? 9 : 0; }

Test(find_the_tile, few_calls) {
    check(256, 9, even);
    check(256, 9, ragged);
    check(256, 9, the_last_one_only);
    check(256, 9, the_first_one_only);
    check(33, 7, ragged);
    check(1, 2, even);
}
