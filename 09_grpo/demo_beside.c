/*
 * The demo's own run beside those of other seeds, which a longer command has kept
 * (tools/seeds.py 09_grpo/figures/seeds.csv): one run is an anecdote, some are a band.
 */
#include "09_grpo/demo.h"

#include "common/files/files.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SHOWN = 6 }; /* points of the curve */

typedef struct Band {
    double low, high;
    int seeds;
} Band;

/* All rows "-,seed,step,accuracy,..." of this step; seeds 0: there are none. */
static Band band_at(FILE *file, double step) {
    Band band = {INFINITY, -INFINITY, 0};
    char line[512];
    rewind(file);
    while (fgets(line, sizeof line, file)) {
        int seed;
        double at, accuracy;
        if (sscanf(line, "-,%d,%lf,%lf", &seed, &at, &accuracy) != 3 || at != step) continue;
        band.low = fmin(band.low, accuracy), band.high = fmax(band.high, accuracy);
        band.seeds++;
    }
    return band;
}

void demo_beside(const DemoCurve *curve) {
    char path[512];
    Error err;
    FILE *file = NULL;
    if (!project_path(path, sizeof path, DEMO_SEEDS, &err)) file = fopen(path, "r");
    if (!file) return;
    printf("\n   %6s %10s     other seeds, plain settings (%s)\n", "step", "this run", DEMO_SEEDS);
    for (int i = 0; i <= SHOWN; i++) {
        int at = i * (curve->count - 1) / SHOWN;
        if (i && at == (i - 1) * (curve->count - 1) / SHOWN) continue;
        Band band = band_at(file, curve->step[at]);
        printf("   %6.0f %10.3f", curve->step[at], curve->accuracy[at]);
        if (band.seeds) printf("     %.3f to %.3f, of %d", band.low, band.high, band.seeds);
        printf("\n");
    }
    fclose(file);
}
