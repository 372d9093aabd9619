# Forward and backward against the length of the sequence: time on the left, memory on the right.
set multiplot layout 1,2
set logscale x 2
set logscale y 10
set xlabel 'tokens T'
set key top left Left reverse samplen 1.5 font ',12'
set tics font ',11'
set format y '%g'
set format x '%g'

set title 'Time, ms'
plot data using 'T':'materialised_ms' with linespoints title 'T × T matrix', \
     data using 'T':'tiled_ms' with linespoints title 'tiles'

set title 'Memory beside q, k, v, o; MiB'
plot data using 'T':'materialised_mib' with linespoints title 'T × T matrix', \
     data using 'T':'tiled_mib' with linespoints title 'tiles'
unset multiplot
