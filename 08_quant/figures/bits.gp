# Error of normal numbers against the bits that one takes, its share of the scales included.
eval sized(380)
set title "What is left of normal numbers: one scale\nfor a row of 1024, 128, 64 or 32"
set xlabel 'bits of a number, with its share of the scales'
set ylabel 'error, in per cent'
set logscale y
set xrange [3.8:9.3]
set yrange [0.4:20]
set key maxcols auto maxrows 2
of(f) = strcol('format') eq f ? column('bits') : NaN
names = "INT4 NF4 INT8 E4M3 E5M2"
plot for [i=1:5] data using (of(word(names, i))):(100 * column('error')) with linespoints lt i title word(names, i)
