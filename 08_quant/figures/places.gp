# One kind of matrix at a time in INT4: how much worse the model is.
set title "One kind of matrix at a time in INT4,\na scale for each row" offset -10,-0.3
set xlabel 'perplexity, per cent above F32' offset -6,0
unset key
set yrange [8.6:-0.6]
set xrange [0:0.78]
set xtics 0.2
set lmargin 26
set ytics noenhanced
set grid xtics noytics
plot data using (0.5 * column('worse')):0:(0.5 * column('worse')):(0.35):yticlabels(strcol('place').sprintf(' (%.0f k)', column('numbers') / 1000)) with boxxyerror lt 1, \
     data using (column('worse')):0:(sprintf('%.2f', column('worse'))) with labels left offset 0.5,0
