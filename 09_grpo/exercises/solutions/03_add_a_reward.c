/*
 * Solution 09.3: ten lines. strspn() says how much of a text is digits; a text that is all digits
 * ends there. What is let pass here, a policy will find. (Tempting: atoi() alone, which would pay
 * for "42+" and for an empty answer to a question whose answer is 0.)
 */
#include "09_grpo/rewards/rewards.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

float reward_near(const Answer *a);

static bool is_number(const char *text) { return *text && text[strspn(text, "0123456789")] == 0; }

float reward_near(const Answer *a) {
    if (!a->expected || !is_number(a->expected)) return NAN;
    if (!a->ended || !is_number(a->text)) return 0;
    return 1 / (1 + fabsf((float)(atoll(a->text) - atoll(a->expected))));
}
