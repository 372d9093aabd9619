# The ladder of the matrix product: each rung's share of the library's speed, first in F32, then in BF16.
eval sized(400)
set title "C = A B on the GPU: share of cuBLAS,\nTFLOP/s above the bars"
set ylabel 'percent of cuBLAS'
set yrange [0:115]
set xrange [-0.7:9.7]
set ytics 0,20,100
set xtics scale 0 rotate by 40 right
set boxwidth 0.66 absolute
set grid noxtics ytics
is(name, value) = strcol(name) eq value
seen(percent) = percent < 0.8 ? 0.8 : percent # a bar that can be seen; its number stands above it
plot data using 0:(0):xtic(strcol('rung')) with boxes lc rgb 'white' notitle, \
     data using (is('dtype', 'F32') && !is('rung', 'cuBLAS') ? $0 : NaN):(seen(column('percent'))) with boxes lt 1 title 'F32, 4096 x 4096', \
     data using (is('dtype', 'BF16') && !is('rung', 'cuBLAS') ? $0 : NaN):(seen(column('percent'))) with boxes lt 2 title 'BF16, 8192 x 8192', \
     data using (is('rung', 'cuBLAS') ? $0 : NaN):'percent' with boxes lc rgb '#888888' title 'cuBLAS', \
     data using 0:(column('percent') + 4):(sprintf('%.3g', column('gflops') / 1000)) with labels notitle
