/*
 * Compressed files are known by their first bytes, UTF-16 and UTF-32 by the mark; without one, by
 * zero bytes, which UTF-8 text does not have and which in UTF-16 every second byte is, wherever
 * there are spaces, line ends or Latin letters.
 */
#include "common/text/text_file.h"

#include <stdbool.h>
#include <string.h>

size_t text_mark(const char *text, size_t bytes) {
    return bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
}

const char *text_is_really(const char *text, size_t bytes) {
    static const struct {
        const char *magic, *name;
        size_t length;
    } kinds[] = {{"\x1F\x8B", "gzip", 2},       {"\x28\xB5\x2F\xFD", "zstd", 4},
                 {"\xFD\x37zXZ", "xz", 5},      {"BZh", "bzip2", 3},
                 {"PK\x03\x04", "zip", 4},      {"PAR1", "parquet", 4},
                 {"\xFF\xFE\0\0", "UTF-32", 4}, {"\0\0\xFE\xFF", "UTF-32", 4},
                 {"\xFF\xFE", "UTF-16", 2},     {"\xFE\xFF", "UTF-16", 2}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (bytes >= kinds[i].length && !memcmp(text, kinds[i].magic, kinds[i].length))
            return kinds[i].name;
    enum { LOOKED_AT = 4096 };
    size_t zeros[2] = {0}, looked_at = bytes < LOOKED_AT ? bytes : LOOKED_AT;
    for (size_t i = 0; i < looked_at; i++) zeros[i % 2] += !text[i];
    bool one_sided = !zeros[0] != !zeros[1];
    size_t all = zeros[0] + zeros[1];
    return one_sided && all > 1 && 8 * all > looked_at ? "UTF-16" : NULL;
}

int text_file_map(MappedFile *file, const char *path, Error *err) {
    if (file_map(file, path, err)) return -1;
    const char *really = text_is_really(file->data, file->size);
    if (!really) return 0;
    file_unmap(file);
    if (strncmp(really, "UTF", 3) == 0)
        return error_set(err, "%s is %s; make it UTF-8 first: iconv -f %s -t UTF-8", path, really,
                         really);
    return error_set(err, "%s is a %s file; unpack it first", path, really);
}
