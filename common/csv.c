#include "csv.h"

#include "blas.h"
#include "files.h"
#include "machine.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

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

int csv_open(Csv *csv, const char *path, const char *columns, const char *device, uint64_t seed,
             Error *err) {
    *csv = (Csv){0};
    if (project_path(csv->path, sizeof csv->path, path, err)) return -1;
    char directory[sizeof csv->path];
    memcpy(directory, csv->path, sizeof directory);
    char *slash = strrchr(directory, '/');
    if (slash && slash != directory) {
        *slash = 0;
        if (make_directories(directory, err)) return -1;
    }
    csv->stream = fopen(csv->path, "w");
    if (!csv->stream) return error_set(err, "cannot write %s: %s", csv->path, strerror(errno));

    char command[1024], date[32];
    command_line(command, sizeof command);
    time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    fprintf(csv->stream,
            "# command: %s\n# commit: %s\n# compiler: %s\n# cpu: %s, %d threads in use\n"
            "# blas: %s\n# device: %s\n# seed: %llu\n# date: %s\n",
            command, commit_describe().text, compiler_describe().text, cpu_describe().text,
            blas_threads(), blas_describe().text, device, (unsigned long long)seed, date);
    fprintf(csv->stream, "%s\n", columns);
    if (fflush(csv->stream))
        note_failure(csv); /* told by csv_close: a demo's numbers matter more */
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
