/*
 * Positions: lists of them, and whether the table is long enough.
 */
#include "04_mla/position.h"

Tensor *positions_from(Context *ctx, int64_t B, int64_t T, int first) {
    Tensor *positions = tensor_new(ctx, "positions", I32, SHAPE(B, T));
    ON(ctx, positions_fill, positions->data, NULL, first, B, T);
    return positions;
}

int position_room(const Position *position, int64_t first, int64_t tokens, Error *err) {
    if (!position || first + tokens <= position->max_position) return 0;
    return error_set(err,
                     "there are angles for %d positions (max_position_embeddings), but %lld tokens "
                     "from position %lld on need %lld; make the table longer or the text shorter",
                     position->max_position, (long long)tokens, (long long)first,
                     (long long)(first + tokens));
}
