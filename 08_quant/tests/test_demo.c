/*
 * The demo, quickly: it ends well and fits a terminal.
 */
#include "common/tests/test_demo.h"

Test(demo, fits_a_terminal) { demo_fits("--steps 20 --layers 1"); }
