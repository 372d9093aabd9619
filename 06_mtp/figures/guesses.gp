# Drafts that are kept, draft by draft; and the speed-up, predicted and measured.
eval sized(660)
set multiplot layout 2,1
set xtics 1
set xrange [0.5:4.5]
set title 'Kept, of the drafts looked at'
set xlabel 'draft'
set ylabel 'share'
set yrange [0:1]
unset key
plot data using 'drafts':((column('drafts') == 4) ? column('a1') : NaN) with points pt -1 notitle, \
     for [j=1:4] data using (column('drafts') == 4 ? j : NaN):(column(sprintf('a%d', j))) with impulses lw 24 lc rgb '#4c72b0'
set title 'Speed-up'
set xlabel 'drafts at a time'
set ylabel 'times as fast'
set ytics 0.5
set yrange [0:*]
set key
plot 1 with lines dt 2 lc rgb 'black' title 'plain', \
     data using 'drafts':'predicted' with linespoints lw 2 title 'predicted', \
     data using 'drafts':'measured' with points pt 7 ps 1.5 title 'measured'
unset multiplot
