/*
 * Charts: files by gnuplot, and small ones as text for the terminal.
 *
 * plot_script runs common/program/figures/style.gp (size, fonts, colours) and then a chapter's
 * figures/NAME.gp, once for svg and once for png. The script finds the path of its CSV in `data`;
 * terminal and output are set already, see style.gp. A missing gnuplot is no error: the demo says
 * how to get it and goes on, and the text chart is there anyway.
 *
 * Text charts are drawn with UTF-8 blocks, or with ASCII when the environment says TERM=dumb.
 */
#ifndef COMMON_PLOT_H
#define COMMON_PLOT_H

#include "common/core/context.h"
#include "common/files/csv.h"

#include <stdint.h>

/*
 * Makes out_path.svg and out_path.png, and their directory, from the CSV by `script`
 * (CHAPTER/figures/NAME.gp). Returns 0; 1 if gnuplot is missing; -1 and gnuplot's message on an
 * error, and then leaves no half-drawn file.
 */
int plot_script(const char *script, const char *csv_path, const char *out_path, Error *err);

/*
 * For demos: draws a lesson's figure "CHAPTER/figures/NAME", by NAME.gp, into out_path (NULL:
 * CHAPTER/figures/out/NAME) and prints "chart: PATH.svg", or why there is none.
 */
void plot_or_explain(const char *figure, const char *csv_path, const char *out_path);

/*
 * The CSV that a figure is drawn from, and, when all its rows are there, the figure (NULL: none).
 * What cannot be written ends the program with a message.
 */
Csv figure_open(const Context *ctx, const char *csv_path, const char *columns);
void figure_close(Csv *csv, const char *figure);

/*
 * A heat map of rows x cols numbers from 0 up to stdout, one cell two characters wide: the fuller,
 * the larger, and blank only for 0 (or less). Beneath it stands what each shade means. labels may
 * be NULL; those of the columns are written downwards.
 */
void text_heat_map(const float *values, int rows, int cols, const char *const *row_labels,
                   const char *const *col_labels);

/* A horizontal bar for each value, with its label and the value and unit behind: four digits, of a
 * whole number all. The longest bar is the largest value. */
void text_bars(const char *const *labels, const double *values, int count, const char *unit);

/*
 * A curve of count points, x ascending, as a filled area `height` lines high, with the axes' ends
 * written out. Many points in one column are averaged, gaps between few are bridged by straight
 * lines. log_y: logarithmic; values <= 0 are left out.
 */
void text_line_chart(const char *title, const double *x, const double *y, int count, int height,
                     int log_y);

#endif
