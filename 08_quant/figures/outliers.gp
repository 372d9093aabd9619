# Error of all numbers but one, against the size of that one.
set title 'What one large number does to those that share its scale'
set xlabel 'the largest number (all others are normal, about 1)'
set ylabel 'error of the others, in per cent'
set logscale xy
set yrange [0.4:130]
set key at graph 0.99, 0.12 bottom right maxrows 2
set format x '10^{%T}'
plot data using 'outlier':(100 * column('int8_token')) with linespoints lt 1 title 'INT8, a token', \
     data using 'outlier':(100 * column('int8_block')) with linespoints lt 6 title 'INT8, 1 x 128', \
     data using 'outlier':(100 * column('e4m3_token')) with linespoints lt 2 title 'E4M3, a token', \
     data using 'outlier':(100 * column('e4m3_block')) with linespoints lt 5 title 'E4M3, 1 x 128'
