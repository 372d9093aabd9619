/*
 * Exercise 05.7: one is not enough.
 *
 * A router learns through the weights of the experts that it chose. Its weights are w_j = s_j, or,
 * divided by their sum, w_j = s_j / (s_0 + ...) over the chosen. Here are the scores of the chosen
 * experts of a token, and the gradient of the loss with respect to their weights. What is its
 * gradient with respect to the scores? With a pencil:
 *
 *     rivals        scores 0.6 and 0.2, divided;   the loss's gradient is  1 for w_0, -1 for w_1
 *     agreed        scores 0.6 and 0.2, divided;   it is 1 for both
 *     agreed_alone  scores 0.6 and 0.2, as they are; it is 1 for both
 *     one           score 0.6, divided (by itself); it is 1
 *     one_alone     score 0.6, as it is;           it is 1
 *
 * Then say what the comparison of `agreed` and `one` shows: can a router whose weights are divided
 * learn that BOTH of its choices were bad (1 yes, 0 no)? And one that takes a single expert, and
 * divides, that this one was?
 *
 * POINTS: 2
 */
extern const float rivals[2], agreed[2], agreed_alone[2], one, one_alone;
extern const int learns_that_both_were_bad, learns_that_the_one_was_bad;

const float rivals[2] = {9, 9};
const float agreed[2] = {9, 9};
const float agreed_alone[2] = {9, 9};
const float one = 9;
const float one_alone = 9;
const int learns_that_both_were_bad = 9;
const int learns_that_the_one_was_bad = 9;
