/*
 * Charts: files by gnuplot, and small ones as text for the terminal.
 *
 * plot_script runs a chapter's figures/NAME.gp, which finds the paths of its data and its output (without extension) in the
 * variables `data` and `out`, and is run once for svg and once for png. A missing gnuplot is no error: the
 * demo says how to get it and goes on, and the text chart is there anyway.
 */
#ifndef COMMON_PLOT_H
#define COMMON_PLOT_H

#include "error.h"

#include <stdint.h>

/* Runs `script` with data = csv_path; makes out_path.svg and out_path.png. Returns 0; 1 if gnuplot is missing; -1 on error. */
int plot_script(const char *script, const char *csv_path, const char *out_path, Error *err);

/* plot_script for demos: prints "chart: PATH.svg" or why there is none. */
void plot_or_explain(const char *script, const char *csv_path, const char *out_path);

/* A heat map of rows x cols numbers, one cell two characters wide, darkest = max; labels may be NULL. UTF-8, to stdout. */
void text_heat_map(const float *values, int rows, int cols, const char *const *row_labels,
                   const char *const *col_labels);

/* A horizontal bar for each value, with its label and "%.4g UNIT" behind. */
void text_bars(const char *const *labels, const double *values, int count, const char *unit);

/* A line chart of count points, `height` lines high, with the axes' ends written out. log_y: logarithmic. */
void text_line_chart(const char *title, const double *x, const double *y, int count, int height, int log_y);

#endif
