# T new tokens through a layer of V2-Lite's size with 4096 in the cache, in both modes: measured.
eval sized(380)
set title "T new tokens through a layer,\n4096 in the cache with them"
set logscale x 2
set logscale y 10
set xlabel 'T: new tokens at once'
set ylabel 'milliseconds'
set format y '%g'
set format x '%g'
set datafile missing NaN # rows of the other line are no gaps in this one
us(rung) = strcol('part') eq 'layer' && column('S') == 4096 && strcol('rung') eq rung ? column('min_us') / 1000 : NaN
plot data using 'T':(us('naive')) smooth unique with linespoints lt 2 title 'naive', \
     data using 'T':(us('absorbed')) smooth unique with linespoints lt 1 title 'absorbed'
