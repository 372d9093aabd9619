# Above: one pair of q and of k at four places, a quarter turn for each. Below: the first number of five pairs over 64
# places, from the fast one to one that hardly moves.
eval sized(760)
set multiplot layout 2,1
set title 'A quarter turn for each place'
set size ratio 1
set xrange [-3.8:3.8]; set yrange [-3.8:3.8]
set xtics 1; set ytics 1
set format x ''; set format y ''
set xzeroaxis lt 8 lw 1 dt 1; set yzeroaxis lt 8 lw 1 dt 1
unset border
set tics scale 0
unset key
is(name) = strcol('what') eq name
plot data using (is('q') ? 0 : NaN):(0):'x':'y' with vectors head filled size 0.22,18 lc 1 lw 2.2, \
     data using (is('k') ? 0 : NaN):(0):'x':'y' with vectors head filled size 0.22,18 lc 2 lw 2.2, \
     data using (is('q') ? 1.14*column('x') : NaN):(1.14*column('y')):(sprintf('q%d', column('p'))) with labels tc lt 1, \
     data using (is('k') ? 1.22*column('x') : NaN):(1.22*column('y')):(sprintf('k%d', column('p'))) with labels tc lt 2

set title 'cos(p f): the first number of (1, 0), turned'
set size noratio
unset xzeroaxis; unset yzeroaxis
set border 3
set tics scale 0.6
set xrange [0:64]; set yrange [-1.3:11.7]
set xtics 16 format '%g'
set format x '%g'
set xlabel 'place p'
set ytics ('pair 0' 10.4, 'pair 1' 7.8, 'pair 2' 5.2, 'pair 3' 2.6, 'pair 4' 0)
unset grid
set grid ytics lc rgb '#DDDDDD' lw 1 dt 1
# One lane for each pair, the fastest on top; a lane goes from -1 to 1.
plot for [i=0:4] data using (is(sprintf('pair %d', i)) ? column('p') : NaN):(column('x') + 2.6*(4-i)) with linespoints lt i+1 lw 1 pt 7 ps 0.3
unset multiplot
