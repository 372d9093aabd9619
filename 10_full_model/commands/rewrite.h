/*
 * What convert and quantize have in common: a model comes out of one folder and goes, as other
 * numbers, into another, and all that lies beside its weights goes with it.
 */
#ifndef REWRITE_H
#define REWRITE_H

#include "10_full_model/checkpoint/checkpoint.h"

/* The folder for the result, locked (output_folder.h); not the one the model comes from. The lock's
 * descriptor, or -1 and a message. `command` begins the message. */
int rewrite_open(const char *command, const char *from, const char *out, bool overwrite,
                 Error *err);

/* The tokenizer of a model's folder; or where only others can read it, or there is none, what
 * carries its files over. NULL and a message. */
Tokenizer *rewrite_tokenizer(const ModelConfig *cfg, const char *from, Error *err);

/* All files of the result take their places at once; config.json keeps the keys that this program
 * does not know. Prints that it is done. */
int rewrite_model(Model *model, const Tokenizer *tokenizer, const char *from, const char *out,
                  const SaveOptions *save, Error *err);

#endif
