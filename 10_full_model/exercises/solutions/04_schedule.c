/*
 * Solution 10.4. Two straight parts and a curve. The first step's rate is peak / warmup and not 0:
 * a step at rate 0 learns nothing. The cosine counts from the end of the level part, not from step
 * 0, or it would begin with a jump. (Tempting: step / warmup, which reaches the peak one step
 * late; and the floor for the last step, steps - 1, where it belongs to step `steps`.)
 */
#include "common/core/optimizer.h"

#include <math.h>

float schedule_rate(const Schedule *s, int64_t step) {
    int64_t falls = s->warmup + s->constant;
    if (step < s->warmup) return s->peak * (float)(step + 1) / (float)s->warmup;
    if (step < falls) return s->peak;
    if (step >= s->steps) return s->floor;
    double progress = (double)(step - falls) / (double)(s->steps - falls);
    return s->floor + (s->peak - s->floor) * (float)((1 + cos(M_PI * progress)) / 2);
}
