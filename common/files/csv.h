/*
 * CSV files with their origin: the head says with which program, commit, compiler, machine, device
 * and seed they were made, as comment lines ("# commit: 1a2b3c") that gnuplot skips. Then one line
 * of column names, then the rows. Every figure in the lessons is drawn from such a file.
 */
#ifndef COMMON_CSV_H
#define COMMON_CSV_H

#include "common/core/error.h"

#include <stdint.h>
#include <stdio.h>

typedef struct Csv {
    FILE *stream;
    char path[512];
    int failed; /* errno of the first write that did not work */
} Csv;

/*
 * Creates path and writes the head and the column names ("T,milliseconds"). Its folder must be
 * there; only that of the project's own tables (project_owns) is made. device: gpu_describe's text
 * or "cpu". A file that is there already is replaced if it is such a table, and refused otherwise.
 * Returns 0, or -1 and a message.
 */
int csv_open(Csv *csv, const char *path, const char *columns, const char *device, uint64_t seed,
             Error *err);

/* Before long work: what csv_open would refuse of this path. */
int csv_check(const char *path, Error *err);

/*
 * Goes on with a file of before: rows whose first column is at most `last` stay, later ones (and
 * one that a crash cut off) go, and csv_row appends. Without such a file csv_open; one with other
 * columns is refused. Replaced by renaming: whatever happens, the rows that stay are never lost.
 */
int csv_continue(Csv *csv, const char *path, const char *columns, double last, const char *device,
                 uint64_t seed, Error *err);

/* One row; give the format with its commas and without a newline. Flushed, so that a stopped run
 * leaves whole rows. */
void csv_row(Csv *csv, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* -1 and a message if anything, now or before, could not be written (disk full). */
int csv_close(Csv *csv, Error *err);

#endif
