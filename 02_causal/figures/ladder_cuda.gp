# data: measured_cuda.csv
# The GPU's rungs in BF16 at T = 4096: forward above, backward below. A bar is the fastest repeat, with its
# share of the BF16 peak above; the white line in it is the median.
eval sized(580)
set multiplot layout 2,1
set ylabel 'TFLOP/s'
set yrange [0:800]
unset grid
set grid ytics
set boxwidth 0.38 absolute
set xtics scale 0
set key inside top left # in the empty corner above the lower rungs

place(r) = r eq 'materialised' ? 0 : r eq 'online' || r eq 'tiled' ? 1 : r eq 'mma' ? 2 : r eq 'hopper' ? 3 : NaN
# strcol() ends at a comma, quoted or not: the commas inside the tables' names go
data = '< sed "s/, / /g" '.data
shown(d) = sprintf('B 4 H 16 T 4096 D %d (values %d) BF16', d, d)
row_of(p) = substr(strcol('row'), 1, strlen(p) + 2) eq p.': '
rung(p) = row_of(p) ? substr(strcol('row'), strlen(p) + 3, strlen(strcol('row'))) : ''
x(p, d) = strcol('table') eq shown(d) ? place(rung(p)) + (d == 64 ? -0.2 : 0.2) : NaN
best(d) = column('gflops') / 1000
median(d) = best(d) * column('min_ms') / column('median_ms')
line(d) = best(d) - median(d) > 5 ? median(d) : NaN # nearer to the top it would only hide the bar
share(d) = sprintf(column('percent_of_peak') < 1 ? '%.1f' : '%.0f', column('percent_of_peak'))

set xrange [-0.6:3.6]
set xtics ('materialised' 0, 'online' 1, 'mma' 2, 'hopper' 3)
set title "Forward, T 4096, BF16, one NVIDIA H200;\n% of the peak; the white line: the median"
plot data using (x('forward', 64)):(best(64)) with boxes lt 6 title 'D 64', \
     data using (x('forward', 128)):(best(128)) with boxes lt 1 title 'D 128', \
     for [d in '64 128'] data using (x('forward', int(d)) - 0.19):(line(d)):(0.38):(0) \
         with vectors nohead lc rgb 'white' lw 2 notitle, \
     for [d in '64 128'] data using (x('forward', int(d))):(best(d)):(share(d)) with labels offset 0,0.6 notitle

set xrange [0.4:3.6]
set xtics ('tiled' 1, 'mma' 2, 'hopper' 3)
set title 'Backward'
plot data using (x('backward', 64)):(best(64)) with boxes lt 6 title 'D 64', \
     data using (x('backward', 128)):(best(128)) with boxes lt 1 title 'D 128', \
     for [d in '64 128'] data using (x('backward', int(d)) - 0.19):(line(d)):(0.38):(0) \
         with vectors nohead lc rgb 'white' lw 2 notitle, \
     for [d in '64 128'] data using (x('backward', int(d))):(best(d)):(share(d)) with labels offset 0,0.6 notitle
unset multiplot
