/*
 * The demo, quickly: it ends well and fits a terminal.
 */
#include "common/tests/test_demo.h"

Test(demo, fits_a_terminal) {
    demo_fits("--text 'a rose is a rose is a rose'"), demo_fits("");
    char *said =
        demo_output("--text '1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25'");
    cr_assert(strstr(said, "(of this text, the first 24 words)"), "%s", said);
}
