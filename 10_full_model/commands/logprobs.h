/*
 * What a model thinks of its own answer: `generate --logprobs`.
 */
#ifndef LOGPROBS_H
#define LOGPROBS_H

#include "10_full_model/generate/generate.h"

#include <stdio.h>

/*
 * One line of JSON for each token that sequence b got in the last run:
 *     {"prompt":1,"id":262,"token":" the","logprob":-1.234567}
 * logprob: the natural log of the probability that the model itself gives the token behind all
 * before it, whatever temperature, top-p and the like made of it in the draw. Bytes that are no
 * whole character stand there as U+FFFD; the id says which they are. `prompt` is the number that is
 * written.
 */
void logprobs_print(FILE *out, Model *model, const Generator *g, int b, int prompt);

#endif
