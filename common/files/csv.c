/*
 * Rows go out one at a time and are flushed. What could not be written is remembered (the first
 * errno) and reported at the end, so that no caller has to look at every row. A file that is gone
 * on with is read by mapping: head and rows that stay are copied into a new file, which then takes
 * over the name.
 */
#include "common/files/csv.h"

#include "common/core/blas.h"
#include "common/files/files.h"
#include "common/files/machine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The words of the command line, as one would type them; no more than fit. */
static void command_line(char *text, size_t size) {
    FILE *file = fopen("/proc/self/cmdline", "r");
    size_t used = file ? fread(text, 1, size - 1, file) : 0;
    if (file) fclose(file);
    while (used > 0 && text[used - 1] == 0) used--; /* every word ends with a zero, the last too */
    for (size_t i = 0; i < used; i++)
        if (text[i] == 0 || text[i] == '\n') text[i] = ' '; /* a newline would end the comment */
    text[used] = 0;
}

static void note_failure(Csv *csv) {
    if (!csv->failed) csv->failed = errno ? errno : EIO;
}

static const char HEAD[] = "# command: ";

/* A file that is there makes room only if it is one of ours. */
static int check_old(const char *path, Error *err) {
    MappedFile file;
    if (file_map(&file, path, NULL)) return 0; /* none, or /dev/stdout: opening it will tell */
    bool ours = file.size == 0 ||
                (file.size >= sizeof HEAD - 1 && !memcmp(file.data, HEAD, sizeof HEAD - 1));
    file_unmap(&file);
    if (ours) return 0;
    return error_set(err,
                     "%s is there already and is no table of this program, which would begin with "
                     "'%s': choose another name, or remove it",
                     path, HEAD);
}

/* What is there must be a file that may be written. (Where nothing is, the folder is looked at.) */
static int check_writable(const char *path, Error *err) {
    struct stat info;
    if (stat(path, &info)) return 0;
    int code = S_ISDIR(info.st_mode) ? EISDIR : access(path, W_OK) ? errno : 0;
    return code ? error_set(err, "cannot write %s: %s", path, strerror(code)) : 0;
}

/* The project's own tables get their folder; of another name that has none, it may be mistyped. */
static int check_folder(const char *given, const char *path, Error *err) {
    if (project_owns(given)) return make_directories_above(path, err);
    const char *slash = strrchr(path, '/');
    int length = slash == path ? 1 : slash ? (int)(slash - path) : 0;
    char *folder = must_alloc((size_t)length + 2, 1);
    snprintf(folder, (size_t)length + 2, "%.*s", length ? length : 1, slash ? path : ".");
    struct stat info;
    int code = stat(folder, &info)                               ? errno
               : !S_ISDIR(info.st_mode)                          ? ENOTDIR
               : access(path, F_OK) && access(folder, W_OK) != 0 ? errno
                                                                 : 0;
    int status =
        code ? error_set(err, "cannot write %s: the folder %s: %s", path, folder, strerror(code))
             : 0;
    free(folder);
    return status;
}

int csv_check(const char *path, Error *err) {
    char place[sizeof((Csv *)0)->path];
    if (project_path(place, sizeof place, path, err)) return -1;
    return check_writable(place, err) || check_old(place, err) || check_folder(path, place, err)
               ? -1
               : 0;
}

int csv_open(Csv *csv, const char *path, const char *columns, const char *device, uint64_t seed,
             Error *err) {
    *csv = (Csv){0};
    if (csv_check(path, err) || project_path(csv->path, sizeof csv->path, path, err)) return -1;
    csv->stream = fopen(csv->path, "w");
    if (!csv->stream) return error_set(err, "cannot write %s: %s", csv->path, strerror(errno));

    char command[1024], date[32];
    command_line(command, sizeof command);
    time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    fprintf(csv->stream,
            "%s%s\n# commit: %s\n# compiler: %s\n# cpu: %s, %d threads in use\n"
            "# blas: %s\n# device: %s\n# seed: %llu\n# date: %s\n",
            HEAD, command, commit_describe().text, compiler_describe().text, cpu_describe().text,
            blas_threads(), blas_describe().text, device, (unsigned long long)seed, date);
    fprintf(csv->stream, "%s\n", columns);
    if (fflush(csv->stream))
        note_failure(csv); /* told by csv_close: a demo's numbers matter more */
    return 0;
}

/* The next line with its newline; NULL at the end, or before a line that was cut off. */
static const char *next_line(const MappedFile *file, size_t *at, size_t *length) {
    const char *line = file->data + *at;
    const char *end = memchr(line, '\n', file->size - *at);
    if (!end) return NULL;
    *length = (size_t)(end - line) + 1;
    *at += *length;
    return line;
}

/* Does the line begin with a number up to `last`? It ends with a newline, at which strtod stops. */
static int stays(const char *line, double last) {
    char *end;
    double first = strtod(line, &end);
    return end != line && first <= last;
}

/* Copies what stays. 1: there is nothing, not even columns; nothing was written. */
static int keep_rows(const MappedFile *file, const char *path, const char *columns, double last,
                     Error *err) {
    size_t at = 0, length = 0;
    const char *line;
    while ((line = next_line(file, &at, &length)) && *line == '#') {}
    if (!line) return 1;
    if (length != strlen(columns) + 1 || memcmp(line, columns, length - 1))
        return error_set(err,
                         "%s has other columns than this program writes now, so the rows that are "
                         "there would be lost: move it away, or choose another name",
                         path);
    AtomicFile out;
    if (atomic_open(&out, path, err)) return -1;
    fwrite(file->data, 1, at, out.stream); /* the head */
    while ((line = next_line(file, &at, &length)))
        if (stays(line, last)) fwrite(line, 1, length, out.stream);
    return atomic_commit(&out, err);
}

int csv_continue(Csv *csv, const char *path, const char *columns, double last, const char *device,
                 uint64_t seed, Error *err) {
    *csv = (Csv){0};
    if (project_path(csv->path, sizeof csv->path, path, err)) return -1;
    MappedFile file;
    int other = 1;
    if (!file_map(&file, csv->path, NULL)) {
        other = keep_rows(&file, csv->path, columns, last, err);
        file_unmap(&file);
    }
    if (other < 0) return -1;
    if (other) return csv_open(csv, path, columns, device, seed, err);
    csv->stream = fopen(csv->path, "a");
    if (!csv->stream) return error_set(err, "cannot write %s: %s", csv->path, strerror(errno));
    return 0;
}

void csv_row(Csv *csv, const char *format, ...) {
    va_list args;
    va_start(args, format);
    errno = 0;
    if (vfprintf(csv->stream, format, args) < 0) note_failure(csv);
    va_end(args);
    if (fputc('\n', csv->stream) == EOF || fflush(csv->stream)) note_failure(csv);
}

int csv_close(Csv *csv, Error *err) {
    if (fclose(csv->stream)) note_failure(csv);
    csv->stream = NULL;
    if (csv->failed)
        return error_set(err, "%s is not complete: %s", csv->path, strerror(csv->failed));
    return 0;
}
