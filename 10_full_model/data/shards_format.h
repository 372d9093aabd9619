/*
 * A shard's head, as it stands in the file (see shards.h).
 */
#ifndef SHARDS_FORMAT_H
#define SHARDS_FORMAT_H

#include <stdint.h>

/* Files are mapped and read as they are, and they are little-endian. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards need a little-endian machine");

#define SHARD_MAGIC "DSSHARD1"

typedef struct ShardHeader {
    char magic[8] __attribute__((nonstring));
    uint32_t token_bytes, zero;
    uint64_t tokens, documents;
} ShardHeader;

_Static_assert(sizeof(ShardHeader) == 32, "no gaps");

#endif
