/*
 * Exercise 03.9: heads have no order.
 *
 * A model gives the same answers when its heads change places, if all of its four matrices are
 * changed accordingly. Write what they become: key head g is to stand where key head to[g] stood,
 * its query heads go with it, and keep their order within the group. q is [H * D, hidden], k and v
 * [H_kv * D, hidden], o [hidden, H * D]; heads of a group are neighbours. The four of to_fill are
 * to be filled.
 *
 * POINTS: 2
 */
typedef struct Matrices {
    float *q, *k, *v, *o;
} Matrices;

void shuffle_heads(Matrices to_fill, Matrices old, const int *to, int H, int H_kv, int D,
                   int hidden);

void shuffle_heads(Matrices to_fill, Matrices old, const int *to, int H, int H_kv, int D,
                   int hidden) {
    /* Your code here. */
}
