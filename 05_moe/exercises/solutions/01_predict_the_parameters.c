/*
 * Solution 05.1. An expert is three matrices. Stored are 64 + 2 of them, used 6 + 2, and the gate
 * by every token in full, though few of its rows win: one must ask all experts to choose some. The
 * tempting wrong answer for `multiplications` takes 64 experts; but a row of the permuted matrix
 * meets one expert, so there are 6 for each token whatever E is. That is the chapter in one number.
 */
extern const long long one_expert, total, active, rows, multiplications;

const long long one_expert = 3LL * 2048 * 1408;
const long long total = 66LL * 3 * 2048 * 1408 + 64 * 2048;
const long long active = 8LL * 3 * 2048 * 1408 + 64 * 2048;
const long long rows = 33 * 6;
const long long multiplications = 33LL * 6 * 3 * 2048 * 1408;
