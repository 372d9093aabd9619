/*
 * The reference: a copy of the policy that stays where it is while the policy learns, so that the
 * KL to it says how far that has gone.
 *
 * It may be replaced now and then: for a long run the distance from where all began is the wrong
 * thing to pay for (DeepSeek-R1 and V3.2 replace it; TRL's sync_ref_model mixes).
 */
#ifndef REFERENCE_H
#define REFERENCE_H

#include "common/core/params.h"

/*
 * Every weight and every F32 buffer of `reference`:  alpha policy + (1 - alpha) reference. alpha 1
 * makes it the policy, bit for bit. Both have the same weights; reference may be frozen, and
 * narrower than the policy's masters: then it is rounded.
 */
void reference_mix(Params *reference, Params *policy, float alpha);

#endif
