/*
 * Cutting without copying: a Piece is a pointer into the mapping and a length.
 *
 * A raw document ends at the marker or where the split says; to find that, only the next 2 * cut
 * bytes are looked at. What is longer than `cut` is cut at the last pause before it (blank line,
 * line end, space, character), and a rest of less than 2 * cut is halved, so that no piece is a
 * tiny tail. JSON is parsed only when the text is asked for, by the thread that asks.
 */
#define _GNU_SOURCE /* memmem, memrchr */
#include "10_full_model/data/documents.h"

#include "common/core/memory.h"
#include "common/core/utf8.h"
#include "common/text/text_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

DocumentOptions documents_defaults(void) {
    return (DocumentOptions){
        .cut = 64 * 1024, .longest = 64 * 1024 * 1024, .field = "text", .marker = "<|endoftext|>"};
}

/* ---- opening ---- */

static void start_file(DocumentReader *r) {
    const MappedFile *file = r->file < r->count ? &r->files[r->file] : NULL;
    r->offset = file ? text_mark(file->data, file->size) : 0;
    r->line = 1;
}

int documents_open(DocumentReader *r, const char *const *paths, int count,
                   const DocumentOptions *options, Error *err) {
    *r = (DocumentReader){.options = *options, .paths = paths, .count = count};
    r->files = must_alloc((size_t)count, sizeof *r->files);
    for (int i = 0; i < count; i++) {
        MappedFile *file = &r->files[i];
        if (text_file_map(file, paths[i], err)) {
            documents_close(r);
            return -1;
        }
        if (file->size) madvise((void *)file->data, file->size, MADV_SEQUENTIAL);
        r->total += file->size;
    }
    if (!r->total) {
        error_set(err, "%s%s: there is no text in it", count ? paths[0] : "no file",
                  count > 1 ? " and the others" : "");
        documents_close(r);
        return -1;
    }
    start_file(r);
    return 0;
}

void documents_close(DocumentReader *r) {
    for (int i = 0; i < r->count; i++) file_unmap(&r->files[i]);
    free(r->files);
    *r = (DocumentReader){0};
}

size_t documents_position(const DocumentReader *r) { return r->passed + r->offset; }

void documents_release(DocumentReader *r) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (;; r->released_file++, r->released = 0) {
        int i = r->released_file;
        if (i >= r->count || i > r->file) return;
        size_t end = i < r->file ? r->files[i].size : r->offset / page * page;
        if (end > r->released)
            madvise((void *)(r->files[i].data + r->released), end - r->released, MADV_DONTNEED);
        r->released = end;
        if (i == r->file) return;
    }
}

/* ---- cutting ---- */

bool documents_named_json(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot &&
           (!strcasecmp(dot, ".jsonl") || !strcasecmp(dot, ".ndjson") || !strcasecmp(dot, ".json"));
}

static bool is_json(const DocumentReader *r) {
    if (r->options.format != FORMAT_BY_NAME) return r->options.format == FORMAT_JSONL;
    return documents_named_json(r->paths[r->file]);
}

/* Behind the last place before text + limit where a reader would pause; limit < the text's
 * length. */
static size_t last_pause(const char *text, size_t limit) {
    size_t half = limit / 2;
    for (size_t i = limit; i > half + 1; i--)
        if (text[i - 1] == '\n' && text[i - 2] == '\n') return i;
    const char *at = memrchr(text + half, '\n', limit - half);
    if (!at) at = memrchr(text + half, ' ', limit - half);
    if (at) return (size_t)(at - text) + 1;
    for (size_t i = limit; i + 3 > limit && i > 0; i--) /* not into a character */
        if (((unsigned char)text[i] & 0xC0) != 0x80) return i;
    return limit;
}

/* The length of the paragraph that begins at text, with the blank line behind it. */
static size_t paragraph(const char *text, size_t bytes) {
    for (const char *at = text; (at = memchr(at, '\n', bytes - (size_t)(at - text)));) {
        const char *next = at + 1;
        while (next < text + bytes && (*next == ' ' || *next == '\t' || *next == '\r')) next++;
        if (next == text + bytes) break;
        if (*next == '\n') return (size_t)(next + 1 - text);
        at = next;
    }
    return bytes;
}

/*
 * The length of the raw document that begins at text; *skip: bytes of the marker behind it. Only
 * the next 2 * cut bytes are looked at, so that a file of a terabyte is passed once; a rest
 * between cut and 2 * cut is halved, so that no piece is a tiny tail.
 */
static size_t raw_length(const DocumentOptions *o, const char *text, size_t bytes, size_t *skip) {
    size_t window = bytes < 2 * o->cut ? bytes : 2 * o->cut, length = window;
    *skip = 0;
    if (o->split == SPLIT_LINES) {
        const char *end = memchr(text, '\n', window);
        if (end) length = (size_t)(end + 1 - text);
    } else if (o->split == SPLIT_PARAGRAPHS) {
        length = paragraph(text, window);
    }
    if (o->marker) {
        size_t marker = strlen(o->marker), behind = bytes - length;
        const char *end =
            memmem(text, length + (behind < marker - 1 ? behind : marker - 1), o->marker, marker);
        if (end) {
            *skip = marker;
            length = (size_t)(end - text);
        }
    }
    if (length <= o->cut) return length;
    *skip = 0;
    return last_pause(text, length < 2 * o->cut ? length / 2 : o->cut);
}

static bool is_blank(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (!strchr(" \t\r\n", text[i]) || !text[i]) return false;
    return true;
}

static int next_line(DocumentReader *r, const char *text, size_t bytes, size_t *length,
                     Error *err) {
    size_t most = r->options.longest;
    const char *end = memchr(text, '\n', bytes < most ? bytes : most);
    if (!end && bytes > most)
        return error_set(err, "%s:%lld: the line is longer than %zu bytes; are these JSON lines?",
                         r->paths[r->file], (long long)r->line, most);
    *length = end ? (size_t)(end + 1 - text) : bytes;
    return 0;
}

int documents_next(DocumentReader *r, Piece *piece, Error *err) {
    while (r->file < r->count) {
        const MappedFile *file = &r->files[r->file];
        if (r->offset >= file->size) {
            r->passed += file->size;
            r->file++;
            start_file(r);
            continue;
        }
        const char *text = file->data + r->offset;
        size_t bytes = file->size - r->offset, length = 0, skip = 0;
        bool json = is_json(r);
        if (json) {
            if (next_line(r, text, bytes, &length, err)) return -1;
        } else {
            length = raw_length(&r->options, text, bytes, &skip);
        }
        *piece = (Piece){text, length, r->file, json ? r->line : 0};
        r->offset += length + skip;
        r->line += json;
        if (!is_blank(text, length)) return 1;
    }
    return 0;
}

void documents_seek(DocumentReader *r, size_t position) {
    r->passed = 0;
    for (r->file = 0; r->file < r->count; r->file++) {
        size_t size = r->files[r->file].size;
        if (position < r->passed + size) break;
        r->passed += size;
    }
    start_file(r);
    if (r->file == r->count || position - r->passed <= r->offset) return;
    const MappedFile *file = &r->files[r->file];
    size_t from = position - r->passed;
    const char *end = memchr(file->data + from - 1, '\n', file->size - from + 1);
    r->offset = end ? (size_t)(end + 1 - file->data) : file->size;
}

/* ---- texts ---- */

/* json_parse counts lines in what it is given, which is one line: only the byte says something. */
static int bad_line(const DocumentReader *r, const Piece *piece, const Error *why, Error *err) {
    char text[sizeof why->text];
    snprintf(text, sizeof text, "%s", why->text);
    char *line = strstr(text, " at line 1, byte ");
    if (line) memmove(line + 3, line + 11, strlen(line + 11) + 1);
    return error_set(err, "%s:%lld: %s", r->paths[piece->file], (long long)piece->line, text);
}

/* The number that four hexadecimal digits behind "\\u" are, -1 if they are none. */
static int escaped_unit(const char *s, size_t left) {
    int unit = 0;
    if (left < 6 || s[0] != '\\' || s[1] != 'u') return -1;
    for (int i = 2; i < 6; i++) {
        const char *digits = "0123456789abcdef", *at = memchr(digits, s[i] | 0x20, 16);
        if (!at) return -1;
        unit = 16 * unit + (int)(at - digits);
    }
    return unit;
}

static bool is_surrogate(int unit, int first) { return unit >= first && unit < first + 0x400; }

/* Stands for what is no character until the text is found; no character itself (Unicode keeps it
 * for a program's own use). */
#define NO_CHARACTER "\xEF\xB7\x90"

/*
 * JSON as it is met, made JSON as cJSON reads it: bytes that are no UTF-8, and halves of a pair
 * (as cutting an emoji in two leaves them), become NO_CHARACTER; \u0000, which a C string cannot
 * hold, becomes \u0001: like every control character, it is dropped by normalise(). free() the
 * result.
 */
static char *mend_line(const char *text, size_t bytes, size_t *length) {
    char *out = must_realloc(NULL, 3 * bytes + 1, 1), *end = out;
    for (size_t i = 0; i < bytes;) {
        const char *s = text + i, *instead = NULL;
        int taken = utf8_character(s, bytes - i), unit = escaped_unit(s, bytes - i);
        if (taken < 0) {
            taken = -taken;
            instead = NO_CHARACTER;
        } else if (unit == 0) {
            taken = 6;
            instead = "\\u0001";
        } else if (is_surrogate(unit, 0xD800) &&
                   is_surrogate(escaped_unit(s + 6, bytes - i - 6), 0xDC00)) {
            taken = 12;
        } else if (is_surrogate(unit, 0xD800) || is_surrogate(unit, 0xDC00)) {
            taken = 6;
            instead = NO_CHARACTER;
        } else if (*s == '\\' && bytes - i > 1 && (unsigned char)s[1] < 0x80) {
            taken = 2; /* both: what stands behind a backslash escapes nothing */
        }
        size_t copied = instead ? strlen(instead) : (size_t)taken;
        memcpy(end, instead ? instead : s, copied);
        end += copied;
        i += (size_t)taken;
    }
    *length = (size_t)(end - out);
    return out;
}

/* Puts U+FFFD in its place; returns how often. */
static size_t show_no_characters(char *text) {
    size_t count = 0;
    for (; (text = strstr(text, NO_CHARACTER)); text += 3, count++) memcpy(text, "\xEF\xBF\xBD", 3);
    return count;
}

/* The object in a line; *mended: not as it stood there. NULL and a message. */
static cJSON *parse_line(const DocumentReader *r, const Piece *piece, bool *mended, Error *err) {
    Error why;
    size_t bytes = piece->bytes; /* without the line's end: no error is found behind it */
    while (bytes && (piece->text[bytes - 1] == '\n' || piece->text[bytes - 1] == '\r')) bytes--;
    size_t mark = text_mark(piece->text, bytes), length; /* of files put together */
    cJSON *json = json_parse("the line", piece->text + mark, bytes - mark, &why);
    *mended = !json;
    if (*mended) {
        char *line = mend_line(piece->text + mark, bytes - mark, &length);
        json = json_parse("the line", line, length, &why);
        free(line);
    }
    if (!json) bad_line(r, piece, &why, err);
    return json;
}

/* The text of a line's field, in json; NULL and a message, or without one where it may be missing
 * and is, or is null. `hint` stands behind what says that it is missing. */
static char *text_of_field(const cJSON *json, const char *field, bool may_miss, const char *hint,
                           Error *why) {
    int fields = 0;
    cJSON *item, *found = NULL;
    cJSON_ArrayForEach(item, json) {
        if (!item->string || strcmp(item->string, field)) continue;
        found = item;
        fields++;
    }
    why->text[0] = 0;
    if (!cJSON_IsObject(json))
        error_set(why, "the line is JSON, but not an object with a field \"%s\"", field);
    else if (may_miss && (!found || cJSON_IsNull(found)))
        return NULL;
    else if (!found)
        error_set(why, "there is no field \"%s\"%s", field, hint);
    else if (fields > 1)
        error_set(why, "the field \"%s\" is there %d times", field, fields);
    else if (!cJSON_IsString(found))
        error_set(why, "the field \"%s\" is not a string", field);
    else
        return found->valuestring;
    return NULL;
}

int document_text(const DocumentReader *r, const Piece *piece, DocumentText *text, Error *err) {
    *text = (DocumentText){.text = piece->text, .bytes = piece->bytes};
    if (!piece->line) return 0;
    Error why;
    bool mended;
    cJSON *json = parse_line(r, piece, &mended, err);
    if (!json) return -1;
    char *found = text_of_field(json, r->options.field, false, " (--field names another)", &why);
    if (!found) {
        cJSON_Delete(json);
        return bad_line(r, piece, &why, err);
    }
    size_t replaced = mended ? show_no_characters(found) : 0;
    *text = (DocumentText){found, strlen(found), replaced, json};
    return 0;
}

int document_fields(const DocumentReader *r, const Piece *piece, DocumentField *fields, int count,
                    cJSON **owner, Error *err) {
    Error why;
    bool mended;
    *owner = parse_line(r, piece, &mended, err);
    if (!*owner) return -1;
    for (int i = 0; i < count; i++) {
        DocumentField *f = &fields[i];
        f->text = text_of_field(*owner, f->name, f->may_miss, "", &why);
        f->replaced = f->text && mended ? show_no_characters(f->text) : 0;
        if (f->text || !why.text[0]) continue;
        cJSON_Delete(*owner);
        *owner = NULL;
        return bad_line(r, piece, &why, err);
    }
    return 0;
}

void document_text_free(DocumentText *text) {
    cJSON_Delete(text->owner);
    text->owner = NULL;
}
