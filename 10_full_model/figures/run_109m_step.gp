# The run of 109m, step by step: four numbers that say whether it was well. Data: metrics.csv of tools/train_109m.sh,
# thinned by tools/thin.py.
set multiplot layout 2,2 margins 0.095,0.975,0.13,0.93 spacing 0.11,0.19
set title font ',13' offset 0,-0.6
set tics font ',11'
set xlabel font ',11' offset 0,0.6
set xtics 0.1 nomirror
set yrange [0:*]
unset key
set title 'norm of the gradient, before clipping at 1'
set yrange [0:2]
plot data using 'billions':'gradient_norm' with lines lt 1 lw 1.5
set title 'MaxVio: the busiest expert beyond its share'
set yrange [0:3]
plot data using 'billions':'max_vio' with lines lt 2 lw 1.5
set xlabel 'billions of tokens'
set yrange [0:*]
set title 'tokens a second, in thousands'
plot data using 'billions':(column('tokens_per_second') / 1000) with lines lt 3 lw 1.5
set title 'learning rate, in thousandths'
set ytics 0.25
plot data using 'billions':(1000 * column('learning_rate')) with lines lt 4 lw 1.5
unset multiplot
