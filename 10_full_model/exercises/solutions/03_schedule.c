#include "../common/params.h"

#include <math.h>

float lr_warmup_cosine(int64_t step, int64_t warmup, int64_t total, float peak, float floor) {
    if (step < warmup) return peak * (float)(step + 1) / (float)warmup;
    if (step >= total) return floor;
    double progress = (double)(step - warmup) / (double)(total - warmup);
    return floor + (peak - floor) * (float)((1 + cos(M_PI * progress)) / 2);
}
