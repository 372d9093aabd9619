/*
 * Exercise 05.9: groups by hand.
 *
 * V3's router in small: six experts in three groups of two, of which a token may use two groups,
 * chosen by the sum of score + bias of a group's two experts; then three experts, by score + bias;
 * weights from the scores alone, divided by their sum.
 *
 *     expert   0     1     2     3     4     5
 *     score    0.9   0.1   0.5   0.4   0.3   0.8
 *     bias    -0.3   0     0.1   0.1   0.1   0
 *
 *   group_out        the group that the token may not use
 *   chosen           the three experts, the best first
 *   weights          their weights, in the same order
 *   without_groups   the expert that would take the place of one of the three, if all groups were
 *                    open; 9 if none would
 *
 * POINTS: 2
 */
extern const int group_out, chosen[3], without_groups;
extern const double weights[3];

const int group_out = 9, chosen[3] = {9, 9, 9}, without_groups = 9;
const double weights[3] = {0, 0, 0};
