/*
 * Charts for the terminal. Each is printed line by line from the top; a cell's character is chosen
 * from a short list of ever fuller ones.
 */
#include "common/program/plot.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LABEL_MAX = 16, BARS_WIDTH = 40, CHART_WIDTH = 64 };

typedef struct Shades {
    const char *heat[5];     /* blank to full */
    const char *rising[9];   /* a column filled from below, in eighths */
    const char *growing[9];  /* a bar filled from the left, in eighths */
    const char *corner, *up; /* of the axes */
    const char *along;
    const char *control; /* in place of a newline and the like in a label */
} Shades;

static const Shades utf8 = {{" ", "░", "▒", "▓", "█"},
                            {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"},
                            {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"},
                            "└",
                            "│",
                            "─",
                            "·"};
static const Shades ascii = {{" ", ".", "-", "+", "#"},
                             {" ", ".", ".", ":", ":", ":", "#", "#", "#"},
                             {"", "", "", "", "-", "-", "-", "-", "="},
                             "+",
                             "|",
                             "-",
                             "."};

static const Shades *shades(void) {
    const char *kind = getenv("TERM");
    return kind && strcmp(kind, "dumb") == 0 ? &ascii : &utf8;
}

/* ---- labels: UTF-8, of any length, perhaps with newlines ---- */

/* Bytes of the character at text: 1 where it is not UTF-8. */
static int character_bytes(const char *text) {
    const unsigned char *byte = (const unsigned char *)text;
    int bytes = *byte >= 0xF0 ? 4 : *byte >= 0xE0 ? 3 : *byte >= 0xC0 ? 2 : 1;
    for (int i = 1; i < bytes; i++)
        if ((byte[i] & 0xC0) != 0x80) return 1;
    return bytes;
}

static int label_width(const char *label) {
    int width = 0;
    for (; *label && width < LABEL_MAX; label += character_bytes(label)) width++;
    return width;
}

static int widest(const char *const *labels, int count) {
    int width = 0;
    for (int i = 0; labels && i < count; i++)
        if (label_width(labels[i]) > width) width = label_width(labels[i]);
    return width;
}

/* One character; what would move the cursor, or is a loose byte, becomes a dot. */
static void print_character(const char *text) {
    int bytes = character_bytes(text);
    unsigned char first = (unsigned char)*text;
    if (bytes == 1 && (first < 0x20 || first >= 0x7F))
        fputs(shades()->control, stdout);
    else
        fwrite(text, 1, (size_t)bytes, stdout);
}

/* The label, cut at LABEL_MAX, with blanks before it up to `width`. */
static void print_label(const char *label, int width) {
    int used = label_width(label);
    printf("%*s", width - used, "");
    for (int i = 0; i < used; i++, label += character_bytes(label)) print_character(label);
}

/* Character i of a label, or a blank when it is shorter. */
static void print_nth(const char *label, int n) {
    for (int i = 0; i < n && *label; i++) label += character_bytes(label);
    if (*label)
        print_character(label);
    else
        putchar(' ');
}

/* ---- heat map ---- */

void text_heat_map(const float *values, int rows, int cols, const char *const *row_labels,
                   const char *const *col_labels) {
    enum { LEVELS = 4 };
    const Shades *s = shades();
    int margin = widest(row_labels, rows), deep = widest(col_labels, cols);
    float max = 0;
    for (int i = 0; i < rows * cols; i++)
        if (values[i] > max) max = values[i];

    for (int line = 0; line < deep; line++) {
        printf("  %*s ", margin, "");
        for (int c = 0; c < cols; c++) {
            /* Labels end at the map, so that short ones stand next to their column. */
            int skip = deep - label_width(col_labels[c]);
            print_nth(line < skip ? "" : col_labels[c], line - skip);
            putchar(' ');
        }
        putchar('\n');
    }
    for (int r = 0; r < rows; r++) {
        fputs("  ", stdout);
        print_label(row_labels ? row_labels[r] : "", margin);
        putchar(' ');
        for (int c = 0; c < cols; c++) {
            float value = values[r * cols + c];
            int level = value > 0 ? (int)ceilf(value / max * LEVELS) : 0;
            if (level > LEVELS) level = LEVELS;
            if (isnan(value))
                fputs("??", stdout);
            else
                printf("%s%s", s->heat[level], s->heat[level]);
        }
        putchar('\n');
    }
    printf("  %*s ", margin, "");
    for (int level = 1; level <= LEVELS; level++)
        printf("%s%s to %.2g%s", s->heat[level], s->heat[level], max * (float)level / LEVELS,
               level < LEVELS ? "   " : "\n");
}

/* ---- bars ---- */

void text_bars(const char *const *labels, const double *values, int count, const char *unit) {
    const Shades *s = shades();
    int margin = widest(labels, count);
    double max = 0;
    for (int i = 0; i < count; i++)
        if (values[i] > max && isfinite(values[i])) max = values[i];
    for (int i = 0; i < count; i++) {
        double share = values[i] > 0 && max > 0 ? fmin(values[i] / max, 1) : 0;
        int eighths = (int)(share * BARS_WIDTH * 8 + 0.5);
        if (values[i] > 0 && eighths == 0) eighths = 1; /* small is not nothing */
        fputs("  ", stdout);
        print_label(labels[i], margin);
        putchar(' ');
        for (int cell = 0; cell < eighths / 8; cell++) fputs(s->growing[8], stdout);
        /* Counts are written out: 12650, not 1.265e+04. */
        bool count = values[i] == floor(values[i]) && fabs(values[i]) < 1e12;
        printf("%s %.*g %s\n", s->growing[eighths % 8], count ? 12 : 4, values[i], unit);
    }
}

/* ---- curve ---- */

/*
 * The curve at each column: the mean of the points in it, else the straight line between the last
 * point before and the first one behind. NaN where there is nothing. Returns the number of points
 * that count.
 */
static int sample_columns(double *column, const double *x, const double *y, int count, int log_y) {
    double sums[CHART_WIDTH] = {0}, first = x[0], span = x[count - 1] - x[0];
    int points[CHART_WIDTH] = {0}, used = 0;
    for (int i = 0; i < count; i++) {
        if (!isfinite(y[i]) || (log_y && y[i] <= 0)) continue;
        int c = span > 0 ? (int)((x[i] - first) / span * (CHART_WIDTH - 1) + 0.5) : 0;
        sums[c] += log_y ? log10(y[i]) : y[i];
        points[c]++;
        used++;
    }
    int before = -1;
    for (int c = 0; c < CHART_WIDTH; c++) column[c] = NAN;
    for (int c = 0; c < CHART_WIDTH; c++) {
        if (!points[c]) continue;
        column[c] = sums[c] / points[c];
        for (int gap = before + 1; before >= 0 && gap < c; gap++)
            column[gap] =
                column[before] + (column[c] - column[before]) * (gap - before) / (c - before);
        before = c;
    }
    return used;
}

void text_line_chart(const char *title, const double *x, const double *y, int count, int height,
                     int log_y) {
    const Shades *s = shades();
    double column[CHART_WIDTH], low = INFINITY, high = -INFINITY;
    printf("  %s\n", title);
    if (count < 1 || sample_columns(column, x, y, count, log_y) == 0) {
        printf("  (no points)\n");
        return;
    }
    for (int c = 0; c < CHART_WIDTH; c++) {
        if (isnan(column[c])) continue;
        low = fmin(low, column[c]);
        high = fmax(high, column[c]);
    }
    for (int line = height - 1; line >= 0; line--) {
        double at = line == height - 1 ? high : low;
        if (line == height - 1 || line == 0)
            printf("  %8.4g %s", log_y ? pow(10, at) : at, s->up);
        else
            printf("  %8s %s", "", s->up);
        for (int c = 0; c < CHART_WIDTH; c++) {
            if (isnan(column[c])) {
                putchar(' ');
                continue;
            }
            /* From one eighth, for the lowest point must be seen, to all of them. */
            double share = high > low ? (column[c] - low) / (high - low) : 0;
            int eighths = 1 + (int)(share * (8 * height - 1) + 0.5) - 8 * line;
            fputs(s->rising[eighths < 0 ? 0 : eighths > 8 ? 8 : eighths], stdout);
        }
        putchar('\n');
    }
    printf("  %8s %s", "", s->corner);
    for (int c = 0; c < CHART_WIDTH; c++) fputs(s->along, stdout);
    char left[32], right[32];
    snprintf(left, sizeof left, "%.6g", x[0]);
    snprintf(right, sizeof right, "%.6g", x[count - 1]);
    printf("\n  %8s  %s%*s\n", "", left, CHART_WIDTH - (int)strlen(left), right);
}
