/*
 * The level part is cut out of the clock; what is left is one curve of rise and fall.
 */
#include "10_full_model/train/schedule.h"

#include "common/core/params.h"

/* [schedule_rate] */
float schedule_rate(const Schedule *s, int64_t step) {
    int64_t level_ends = s->warmup + s->constant;
    if (step >= s->warmup && step < level_ends) return s->peak;
    /* Without its level part the rest is one curve. */
    int64_t without = step < s->warmup ? step : step - s->constant;
    return lr_warmup_cosine(without, s->warmup, s->steps - s->constant, s->peak, s->floor);
}
/* [/schedule_rate] */
