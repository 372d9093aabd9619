# The ladder of the matrix product: each rung's share of the library's speed.
eval sized(320)
set title "C = A B on the CPU, 1000 x 1000:\nshare of OpenBLAS, GFLOP/s above the bars"
set ylabel 'percent of OpenBLAS'
set yrange [0:115]
set xrange [-0.6:*]
unset key
set xtics scale 0
set boxwidth 0.62 absolute
set grid noxtics ytics
plot data using 0:'percent':(strcol('rung') eq 'OpenBLAS' ? 8 : 1):xtic(strcol('rung')) with boxes linecolor variable, \
     data using 0:(column('percent') + 4):(sprintf('%.3g', column('gflops'))) with labels
