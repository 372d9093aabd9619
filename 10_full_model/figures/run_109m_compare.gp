# Four models, each trained for the same time. Data: compare.csv of tools/compare_109m.sh.
eval sized(400)
of(name, what) = strcol('model') eq name ? column(what) : NaN
set title 'The same seconds of training for four models'
set xlabel 'seconds of training'
set ylabel 'bits per byte of held-out books'
set xrange [0:70]
set yrange [1.4:1.95]
plot data using (of('full', 'seconds')):'bits_per_byte' with linespoints lt 1 title '109m', \
     data using (of('dense', 'seconds')):'bits_per_byte' with linespoints lt 2 title 'without experts', \
     data using (of('no-mtp', 'seconds')):'bits_per_byte' with linespoints lt 3 title 'without a module', \
     data using (of('mha', 'seconds')):'bits_per_byte' with linespoints lt 4 title 'with multi-head attention'
