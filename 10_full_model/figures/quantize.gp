# What quantising has done to each matrix of a model, by layers. Data: the quantize.csv that `deepseek quantize` writes.
set title 'Error of quantised weights'
set xlabel 'layer'
set ylabel 'relative error'
set xtics 1
set offsets 0.3, 0.3, 0, 0
set yrange [0:*]
set key top right Right noreverse
plot data using 'layer':'rounding' with points lt 8 pt 6 ps 1.4 title 'plain rounding', \
     data using 'layer':'error' with points lt 1 title 'this method'
