# Forward and backward against the length of the sequence: time above, memory below.
eval sized(560)
set multiplot layout 2,1
set logscale x 2
set logscale y 10
set key inside top left
set format y '%g'
set format x '%g'

set title 'Time, ms'
plot data using 'T':'materialised_ms' with linespoints title 'T × T matrix', \
     data using 'T':'tiled_ms' with linespoints title 'tiles'

set xlabel 'tokens T'
set title 'Memory beside q, k, v, o; MiB'
plot data using 'T':'materialised_mib' with linespoints title 'T × T matrix', \
     data using 'T':'tiled_mib' with linespoints title 'tiles'
unset multiplot
