/*
 * Byte-level BPE (Sennrich et al. 2016; GPT-2's byte variant).
 *
 * Text is split into words by a pattern (PCRE2); a word's bytes are the first tokens; then, among the adjacent pairs
 * that the training saw, the one learned earliest is merged, until none is left. Every byte is a token, so any text, valid
 * UTF-8 or not, encodes, and decode(encode(text)) == text for any bytes.
 * Files are Hugging Face's tokenizer.json.
 */
#ifndef COMMON_TOKENIZER_H
#define COMMON_TOKENIZER_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Tokenizer Tokenizer;

/* Called now and then while training, for a progress bar; may be NULL. */
typedef void (*TokenizerProgress)(void *user, int merges_done, int merges_wanted);

/*
 * Learns vocab_size - 256 - 1 merges from text: ids 0..255 are bytes (in GPT-2's order of printable characters), then
 * merges in the order learned, and last the special token <|endoftext|>. Pairs of equal count: the smaller ids first. Fewer merges when the
 * text has no pair left that occurs twice. vocab_size < 257 or empty text is an error.
 */
Tokenizer *tokenizer_train(const char *text, size_t bytes, int vocab_size,
                           TokenizerProgress progress, void *user, Error *err);

Tokenizer *tokenizer_load(const char *path, Error *err);
int tokenizer_save(const Tokenizer *tokenizer, const char *path, Error *err);
void tokenizer_free(Tokenizer *tokenizer);

int tokenizer_vocab_size(const Tokenizer *tokenizer); /* 1 + the largest id */
int tokenizer_eot(const Tokenizer *tokenizer);        /* id of <|endoftext|>, or -1 */

/* Ids of text, in an array for the caller to free(); *count is set. Special tokens in the text are recognised. Uses all threads. */
int32_t *tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t bytes,
                          size_t *count);

/* The bytes of one token; *bytes is set. Special tokens give their text. An id outside the vocabulary gives 0 bytes. */
const char *tokenizer_token(const Tokenizer *tokenizer, int32_t id, size_t *bytes);

/* The bytes of ids, zero-terminated, for the caller to free(); *bytes (without the zero) is set. */
char *tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, size_t count, size_t *bytes);

#ifdef __cplusplus
}
#endif
#endif
