/*
 * Exercise 10.22: merge by hand
 *
 * Byte-level BPE (common/text/BPE.md) learns from these words, with spaces before them as they
 * stand:
 *
 *     " ban" 4 times, " banana" 2 times, " can" 3 times
 *
 * The pattern splits the text into just these words. Of pairs of equal count the one whose left
 * token has the smaller id is first (then the right one); bytes count in the order of the
 * alphabet, the space after all letters, and a token that was learned later has a larger id. Find
 * the first four merges, with a pencil. Write each as its text ("an", say):
 *
 *   merges[4]     in the order learned
 *   tokens        how many tokens " bananas" becomes with these four
 *
 * POINTS: 2
 */
extern const char *const merges[4];
extern const int tokens;

const char *const merges[4] = {"", "", "", ""};
const int tokens = 0;
