# Error of all numbers but one, against the size of that one.
eval sized(380)
set title "What one large number does\nto those that share its scale"
set xlabel 'the largest number (all others: about 1)'
set ylabel 'error of the others, per cent'
set logscale xy
set yrange [0.4:130]
set key maxcols auto maxrows 2
set xtics ('1' 1, '10' 10, '100' 100, '1,000' 1e3, '10,000' 1e4, '' 1e5, '1,000,000' 1e6)
set rmargin 4
plot data using 'outlier':(100 * column('int8_token')) with linespoints lt 1 title 'INT8, a token', \
     data using 'outlier':(100 * column('int8_block')) with linespoints lt 6 title 'INT8, 1 x 128', \
     data using 'outlier':(100 * column('e4m3_token')) with linespoints lt 2 title 'E4M3, a token', \
     data using 'outlier':(100 * column('e4m3_block')) with linespoints lt 5 title 'E4M3, 1 x 128'
