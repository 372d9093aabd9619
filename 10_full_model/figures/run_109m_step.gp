# The run of 109m, step by step: four numbers that say whether it was well. Data: metrics.csv of tools/train_109m.sh,
# thinned by tools/thin.py.
eval sized(860)
set multiplot layout 4,1
set xtics 0.1 nomirror
set yrange [0:*]
unset key
set title 'norm of the gradient, before clipping at 1'
set yrange [0:2]
plot data using 'billions':'gradient_norm' with lines lt 1 lw 1.5
set title 'MaxVio: the busiest expert beyond its share'
set yrange [0:3]
plot data using 'billions':'max_vio' with lines lt 2 lw 1.5
set yrange [0:*]
set title 'tokens a second, in thousands'
plot data using 'billions':(column('tokens_per_second') / 1000) with lines lt 3 lw 1.5
set xlabel 'billions of tokens'
set title 'learning rate, in thousandths'
set ytics 0.25
plot data using 'billions':(1000 * column('learning_rate')) with lines lt 4 lw 1.5
unset multiplot
