# Time of a layer against its number of experts, at constant top-k.
eval sized(320)
stats data using (strcol('table') eq 'experts' ? column('tokens') : NaN) nooutput
tokens = STATS_max
stats data using (strcol('table') eq 'experts' ? column('top_k') : NaN) nooutput
top_k = STATS_max
set title sprintf("A layer of experts, forward and backward:\n%d tokens, top %d", tokens, top_k)
set logscale x 2
set xlabel 'number of experts (tokens for each)' offset 0,-1
set bmargin 5
stats data using (strcol('table') eq 'experts' ? column('experts') : NaN) nooutput
set xrange [0.8 * STATS_min:1.25 * STATS_max]
set ylabel 'milliseconds'
set yrange [0:*]
set xtics ('1' 1)
set for [i=1:9] xtics add (sprintf("%d\n(%d)", 2**i, tokens * top_k / 2**i) 2**i)
set datafile missing NaN
ms(name) = strcol('table') eq 'experts' ? column(name) : NaN
plot data using 'experts':(ms('min_ms')) with linespoints lt 1 notitle
