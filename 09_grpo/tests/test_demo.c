/*
 * The demo, quickly: it ends well and fits a terminal.
 */
#include "common/tests/test_demo.h"

Test(demo, fits_a_terminal) { demo_fits("--steps 3 --stop-at 0.02 --hidden 32 --prompts 8"); }
