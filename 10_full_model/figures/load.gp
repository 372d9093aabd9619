# How uneven the experts' load is in each step of training. Data: the CSV that ./demo or `deepseek train` writes.
set title 'The busiest expert of the least even layer'
set xlabel 'step'
set ylabel 'MaxVio (0: even; 1: twice its share)'
set samples 500
set yrange [0:*]
set key outside above horizontal
plot data using 'step':'max_vio' with lines lc rgb '#9ECAE1' lw 1 title 'each step', \
     data using 'step':'max_vio' smooth bezier with lines lt 1 title 'smoothed'
