/*
 * A conversation with a model at the terminal: what you type is continued, behind all that was said
 * since /clear; lines that begin with a slash change the settings (/help lists them). From a pipe
 * come the same lines, and only the texts go out.
 */
#ifndef INTERACTIVE_H
#define INTERACTIVE_H

#include "10_full_model/generate/generate.h"

#include <stdio.h>

/*
 * Reads lines from `in` until its end or /quit. options are what it begins with. Ctrl-C ends an
 * answer; at the prompt, the program. 0, or -1 and a message when the output cannot be written,
 * or the model cannot guess as it is asked to.
 */
int interactive_run(Model *model, const Tokenizer *tokenizer, GenerateOptions options,
                    const GuessOptions *guess, FILE *in, FILE *out, Error *err);

#endif
