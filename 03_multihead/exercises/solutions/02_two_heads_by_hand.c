/*
 * Solution 03.2. The second token sees two. In head 0 its query is 2, so the exponentials are 2^(2
 * * 1) = 4 and 2^(2 * 2) = 16, in all 20; in head 1 it is 1: 2^0 and 2^1, in all 3. Shared, head
 * 1's query 1 meets head 0's keys: 2^1 and 2^2, and head 0's values.
 *
 * The tempting wrong answer lets the third token take part, too: its key is as good as the others',
 * but the mask does not show it. And in multi-query attention it is tempting to share the query as
 * well: then both heads would find the same, and there would be no reason to have two.
 */
extern const double head0, head1, output0, output1, shared1;

const double head0 = (4 * 1.0 + 16 * 2.0) / 20;
const double head1 = (1 * 0.0 + 2 * 1.0) / 3;
const double output0 = 9.0 / 5 + 2.0 / 3;
const double output1 = 9.0 / 5 - 2.0 / 3;
const double shared1 = (2 * 1.0 + 4 * 2.0) / 6;
