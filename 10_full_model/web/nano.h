/*
 * A small model in one piece of memory: what a page of the book downloads instead of a folder.
 *
 *     header       int32: NANO_MAGIC, vocab_size, index_n_heads, index_head_dim, index_topk, merges
 *     bytes        int16 [256]: the id of each byte
 *     merges       int16 [merges, 3]: left, right, result, in the order in which they were learned
 *     weights      in the order in which the model registers them, then its buffers; of each what
 *                  nano_format() says: F32, or codes and then their scales in BF16
 *
 * Sizes that are not in the header are those of the preset "nano-q". An FFN's matrices have four
 * bits, with a scale for 32 numbers of a row; attention's and the table of embeddings eight, with a
 * scale for each row (chapter 08); what is small is F32. A model of 1.9 million numbers is 1.2 MB.
 *
 * Invariant: pack.c and nano.c walk over the same weights in the same order: both ask the model.
 */
#ifndef NANO_H
#define NANO_H

#include "08_quant/formats.h"
#include "10_full_model/model/model.h"

enum { NANO_MAGIC = 0x4f4e414e, NANO_HEADER = 6, NANO_MOST_TOKENS = 4096 };

typedef struct NanoMerge {
    int16_t left, right, result;
} NanoMerge;

typedef struct Nano {
    Context ctx;
    Model model;
    int16_t byte_id[256];
    NanoMerge *merges;
    int merge_count;
    char *token[NANO_MOST_TOKENS]; /* each one's bytes, terminated; NULL: it has none */
} Nano;

/* How a weight lies in the file; dtype F32: plainly. */
QuantFormat nano_format(const Tensor *weight);

/*
 * Opens `size` bytes of `data`. numbers: every weight becomes F32, so that a tape can record what
 * the model does; else projections stay codes, and chapter 08's products multiply with them. -1
 * and a message when the data is not such a model, or memory runs out.
 */
int nano_open(Nano *nano, const void *data, size_t size, bool numbers, Error *err);

/* Ids of text, at most `most`: words of letters, digits or other signs, each with the space before
 * it, as GPT-2 cuts them (all that is not ASCII is a letter here); then the merges, the earliest
 * first. */
int nano_encode(const Nano *nano, int32_t *ids, int most, const char *text);

#endif
