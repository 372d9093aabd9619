/* What is asked, of V3.2's sizes: 128 heads over latents of 512 + 64, an indexer of 64 heads of 128
 * numbers, k = 2048. One new token in one layer, attention and indexer alone, an operation for each
 * product and for each sum. */
#ifndef WHEN_IT_PAYS_H
#define WHEN_IT_PAYS_H

/* dense operations over sparse ones, with 131,072 tokens before it */
extern const double times_fewer_at_128k;
/* from how many tokens on sparse has fewer */
extern const double crossing;
/* how many times fewer it comes near to, however long the text */
extern const double most_times_fewer;
/* dense bytes over sparse ones at 131,072: latents in BF16, index keys of 132 bytes */
extern const double bytes_at_128k;

#endif
