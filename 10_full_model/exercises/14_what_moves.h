/* What is asked, of the preset 109m (108,978,176 parameters) on eight ranks: bytes, of one rank. */
#ifndef WHAT_MOVES_H
#define WHAT_MOVES_H

/* What a rank sends in a step when F32 gradients are added up for all by a ring */
extern const double sent_by_all_reduce;
/* and with ZeRO-1: F32 gradients to whom they belong, and BF16 weights to all */
extern const double sent_by_zero;
/* Masters and two moments, all F32, that a rank keeps with ZeRO-1 */
extern const double kept_by_zero;
/* And of DeepSeek-V3: what one token sends and gets in the forward pass of one layer, its row of
 * 7,168 numbers in BF16 to each of 8 experts, all of them elsewhere, and a row back from each */
extern const double token_of_v3;

#endif
