# What quantising has done to each matrix of a model, by layers. Data: the quantize.csv that `deepseek quantize` writes;
# errors of outputs are there only if it was given a text.
eval sized(400)
stats data using 'layer' nooutput
set title "Errors of quantised weights:\na point is a matrix"
set xlabel 'layer'
set ylabel 'relative error'
set ytics 0.02
set xtics apart(STATS_max)
set xrange [STATS_min - 0.5:STATS_max + 0.5]
set yrange [0:*]
plot data using (column('layer') - 0.15):'weight_rounded' with points lt 8 pt 6 ps 1.2 title 'weights, rounded', \
     data using (column('layer')):'output_rounded' with points lt 2 pt 5 ps 0.8 title 'outputs, rounded', \
     data using (column('layer') + 0.15):'output_now' with points lt 1 title 'outputs by this method'
