/*
 * What --data names, as a source of batches: text files, or one folder of shards that `deepseek
 * data` wrote. With it comes the tokenizer: the shards' own; or one that is given; or one learned
 * from the text.
 */
#ifndef TEXT_INPUT_H
#define TEXT_INPUT_H

#include "10_full_model/commands/command.h"
#include "10_full_model/data/token_source.h"

typedef struct TextInput {
    TokenSource source;
    Tokenizer *tokenizer;
    int64_t tokens;
    Corpus corpus; /* one of the two */
    Shards shards;
    bool sharded;
} TextInput;

typedef struct TextOptions {
    const StringList *data;
    int context_length;
    /* share of a text that is kept back; 1: all of it. Shards are split already */
    double validation;
    const char *tokenizer; /* a folder with a tokenizer.json to be used; NULL: one is learned */
    int vocab;             /* tokens to learn; of a given tokenizer, the most there may be */
} TextOptions;

/* Is it a folder (of shards, that must be), and no text? */
bool text_input_is_sharded(const StringList *data);

/* -1 and a message for files that cannot be read, or are too short, or a tokenizer that does not
 * fit. */
int text_input_open(TextInput *input, const TextOptions *options, Error *err);
void text_input_close(TextInput *input); /* all zeros: fine */

#endif
