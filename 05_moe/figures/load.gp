# Each expert's share of the choices over time: left alone above, balanced below.
eval sized(560)
stats data using 'expert' nooutput
experts = int(STATS_max) + 1
stats data using 'share' nooutput
top = STATS_max
set multiplot layout 2,1
set yrange [0:1.05 * top]
set ylabel 'share of the choices'
unset key
set label 'even' at graph 1.005, first 1.0 / experts
set rmargin 6
do for [r=0:1] {
    set title (r == 0 ? 'Left alone' : 'Balanced')
    if (r == 1) { set xlabel 'training step' }
    plot for [e=0:experts-1] data using (column('run') == r && column('expert') == e ? column('step') : NaN):(column('share')) \
             with lines dt 1 lw 1.5 lc rgb hsv2rgb(e / (experts + 0.0), 0.75, 0.75), \
         1.0 / experts with lines dt 2 lw 1.5 lc rgb 'black'
}
unset multiplot
