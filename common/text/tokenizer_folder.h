/*
 * A tokenizer and what lies beside it in a model's folder:
 *
 *     generation_config.json   which tokens begin and end a text, and how answers are sampled
 *     config.json              the first two, too
 *     tokenizer_config.json    the names of such tokens, how conversations are written, ...
 *     and what else is there of that kind: chat_template.jinja, special_tokens_map.json, ...
 *
 * The first of these that names the end of a text has it right, as for transformers; it may be one
 * token or several. None does: it is <|endoftext|>, where there is one. Files that say more than we
 * use are kept as they are, and written again when the tokenizer is saved into another folder.
 */
#ifndef COMMON_TOKENIZER_FOLDER_H
#define COMMON_TOKENIZER_FOLDER_H

#include "common/text/sampler.h"
#include "common/text/tokenizer.h"

Tokenizer *tokenizer_load_folder(const char *directory, Error *err);

/* A tokenizer without tokens that only keeps a folder's files: for one that cannot be read, but is
 * to go along. */
Tokenizer *tokenizer_keep_folder(const char *directory, Error *err);

/* Writes tokenizer.json and what lies beside it, but config.json. The folder must be there. A
 * tokenizer that was learned here gets a tokenizer_config.json and a generation_config.json, as
 * AutoTokenizer and generate() of transformers want them; bos begins a text (-1: nothing
 * does), model_max_length is the model's context. */
int tokenizer_save_folder(const Tokenizer *tokenizer, const char *directory, int bos,
                          int model_max_length, Error *err);

/* The names of those files, tokenizer.json among them; NULL behind the last. */
extern const char *const tokenizer_folder_files[];

/* Sets what the folder's generation_config.json says; the rest stays. Sampling that it switches off
 * is a temperature of 0. -1 and a message for what is no number, or none that there can be. */
int tokenizer_sampling(const Tokenizer *tokenizer, Sampling *sampling, Error *err);

#endif
