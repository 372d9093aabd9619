/*
 * Solution 10.23. The maximum and the sum are found in one pass: when a larger logit comes, the sum
 * so far is brought to it by e^(old - new). Two lanes are joined by the same rule, five times.
 * Where a lane has seen nothing but -inf (or nothing at all), old - new would be -inf - -inf, which
 * is NaN; its sum is 0, whatever it is multiplied by, so any finite reference will do.
 *
 * Lane l takes the logits l, l + 32, ...: 32 neighbours in each step, one piece of memory. The
 * tempting wrong answer gives each lane a stretch of vocab / 32 logits, as one would give it to a
 * thread of a CPU: then each step touches 32 pieces and uses 4 bytes of each. The other one loops
 * three times. And a trap of working in place: the target's logit has to be read before the
 * gradient is written over it.
 */
#include "10_full_model/exercises/23_loss_by_a_warp.h"

#include <math.h>

float warp_loss(int lane, int vocab, int target, float scale);

/* Brings (max, sum) and (other_max, other_sum) together. */
static void join(float *max, float *sum, float other_max, float other_sum) {
    float largest = fmaxf(*max, other_max), to = largest == -INFINITY ? 0 : largest;
    *sum = *sum * expf(*max - to) + other_sum * expf(other_max - to);
    *max = largest;
}

float warp_loss(int lane, int vocab, int target, float scale) {
    if (target < 0) {
        for (int j = lane; j < vocab; j += 32) store(j, 0);
        return 0;
    }
    float max = -INFINITY, sum = 0, of_target = load(target);
    for (int j = lane; j < vocab; j += 32) join(&max, &sum, load(j), 1);
    for (int mask = 16; mask; mask /= 2) {
        float other_max = shuffle_xor(max, mask), other_sum = shuffle_xor(sum, mask);
        join(&max, &sum, other_max, other_sum);
    }
    float lse = max + logf(sum);
    for (int j = lane; j < vocab; j += 32)
        store(j, (expf(load(j) - lse) - (float)(j == target)) * scale);
    return lse - of_target;
}
