# Each expert's share of the choices over time: left alone above, balanced below.
if (kind eq 'svg') { set terminal svg size 720,640 dynamic enhanced background rgb 'white' font 'DejaVu Sans,Helvetica,Arial,sans-serif,14' } \
else { set terminal pngcairo size 1440,1280 enhanced background rgb 'white' font 'DejaVu Sans,14' fontscale 1.6 linewidth 1.8 pointscale 1.8 }
stats data using 'expert' nooutput
experts = int(STATS_max) + 1
stats data using 'share' nooutput
top = STATS_max
set multiplot layout 2,1
set yrange [0:1.05 * top]
set ylabel 'share of the choices'
unset key
set label 'even' at graph 1.005, first 1.0 / experts font ',11'
set rmargin 6
do for [r=0:1] {
    set title (r == 0 ? 'Left alone' : 'Balanced')
    if (r == 1) { set xlabel 'training step' }
    plot for [e=0:experts-1] data using (column('run') == r && column('expert') == e ? column('step') : NaN):(column('share')) \
             with lines dt 1 lw 1.5 lc rgb hsv2rgb(e / (experts + 0.0), 0.75, 0.75), \
         1.0 / experts with lines dt 2 lw 1.5 lc rgb 'black'
}
unset multiplot
