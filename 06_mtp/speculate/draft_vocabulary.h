/*
 * The draft vocabulary: the tokens that are guessed at all.
 *
 * In a small model the head is the largest matrix a token is multiplied with (half of all weights
 * at 109m), and a draft pays for it as a step does. But most of a text is a few thousand tokens. So
 * drafts come from the head's rows of the most frequent ones, gathered once; no other token is ever
 * guessed (q = 0), and the decoder says it all the same: what comes out does not change.
 */
#ifndef DRAFT_VOCABULARY_H
#define DRAFT_VOCABULARY_H

#include "05_moe/decoder/decoder.h"

__BEGIN_DECLS

typedef struct DraftVocabulary {
    int count;
    int32_t *ids; /* [count], rising: of equal logits the smaller id is first here too */
    Tensor map;   /* the same on the device, I32 [count] */
    Tensor head;  /* [count, hidden_size] */
    Gpu *gpu;
} DraftVocabulary;

/*
 * The decoder's head's rows of ids [count], in any order. -1 and a message when an id is not the
 * decoder's or there twice, `end` (-1: there is none) is missing, or memory runs out.
 */
int draft_vocabulary_init(DraftVocabulary *v, Context *ctx, const Decoder *decoder,
                          const int32_t *ids, int count, int32_t end, Error *err);
void draft_vocabulary_free(DraftVocabulary *v); /* zeros: fine */

/*
 * The `count` tokens of which text [length] has most, `end` (-1: none) always among them; of equal
 * counts the smaller ids. -1 and a message when count is less than 1 or more than vocab.
 */
int draft_vocabulary_frequent(int32_t *ids, int count, const int32_t *text, int64_t length,
                              int vocab, int32_t end, Error *err);

__END_DECLS
#endif
