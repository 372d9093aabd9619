/*
 * Byte-level BPE (Sennrich et al. 2016; GPT-2's byte variant).
 *
 * Text is split into words by one or more patterns (Oniguruma); a word's bytes are its first
 * tokens; then, among the adjacent pairs that were merged in training, the one learned earliest is
 * merged, the leftmost first, until none is left. Every byte is a token, so any text, valid UTF-8
 * or not, encodes, and decode(encode(text)) == text for any bytes (unless a file asks for pieces to
 * be removed, or for a space to be put before a text).
 *
 * Files are Hugging Face's tokenizer.json. What such a file may ask for beyond byte-level BPE
 * (another model, a normalizer, tokens that swallow spaces, ...) is refused with a message rather
 * than ignored. Its truncation, padding and post_processor are kept when saved, but encode() does
 * not apply them: the ids are those of the tokenizers library with add_special_tokens=False.
 *
 * A Tokenizer does not change after it is made: any number of threads may use it at once.
 */
#ifndef COMMON_TOKENIZER_H
#define COMMON_TOKENIZER_H

#include "common/core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Tokenizer Tokenizer;

/* Called now and then while training, for a progress bar; may be NULL. */
typedef void (*TokenizerProgress)(void *user, int merges_done, int merges_wanted);

/*
 * Learns vocab_size - 256 - 1 merges from text. Ids 0 .. 255 are bytes (GPT-2's order: the 188
 * printable ones, then the rest), then come the merges in the order learned, and last the special
 * token <|endoftext|>; where the text contains it, nothing is learned across. Of pairs of equal
 * count the one of smaller ids is first. Learning stops early when no pair is left that occurs
 * twice. vocab_size < 257 or an empty text is an error.
 */
Tokenizer *tokenizer_train(const char *text, size_t bytes, int vocab_size,
                           TokenizerProgress progress, void *user, Error *err);

Tokenizer *tokenizer_load(const char *path, Error *err);
int tokenizer_save(const Tokenizer *tokenizer, const char *path, Error *err);
void tokenizer_free(Tokenizer *tokenizer); /* NULL is fine */

int tokenizer_vocab_size(const Tokenizer *tokenizer); /* 1 + the largest id */

/*
 * Where a text begins and ends. A tokenizer that was learned here, or whose folder says nothing,
 * ends it with <|endoftext|>, or with nothing (-1). A folder's files may name several tokens that
 * end an answer (tokenizer_folder.h); the first of them is what stands between the texts of ours.
 */
int tokenizer_bos(const Tokenizer *tokenizer); /* -1: no folder says what begins a text */
int tokenizer_eot(const Tokenizer *tokenizer);
bool tokenizer_is_end(const Tokenizer *tokenizer, int32_t id);
void tokenizer_set_end(Tokenizer *tokenizer, int32_t id); /* this alone */
void tokenizer_add_end(Tokenizer *tokenizer, int32_t id); /* before those that there are */

/*
 * Ids of text, in an array for the caller to free(); *count is set. Special and other added tokens
 * in the text are recognised. Large texts use all threads; the ids do not depend on how many.
 */
int32_t *tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t bytes,
                          size_t *count);

/* The bytes of one token; *bytes is set. An added token gives its text, an id outside the
 * vocabulary 0 bytes. */
const char *tokenizer_token(const Tokenizer *tokenizer, int32_t id, size_t *bytes);

/* The bytes of ids, zero-terminated, for the caller to free(); *bytes (without the zero) is set. */
char *tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, size_t count, size_t *bytes);

#endif
