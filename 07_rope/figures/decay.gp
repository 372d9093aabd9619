# What is left of the product of a q with the same k some places away: the mean over all directions.
set title 'q · k of equal q and k against their distance (64 numbers)'
set logscale x 2
set xrange [1:4096]; set yrange [-0.35:1.05]
set xlabel 'distance in tokens'
set xtics ('1' 1, '4' 4, '16' 16, '64' 64, '256' 256, '1024' 1024, '4096' 4096)
set ytics 0.25
set xzeroaxis lt 8 lw 1 dt 1
set key bottom left Left
plot data using 'distance':'theta_100' with lines lt 2 lw 1.3 title 'θ = 100', \
     data using 'distance':'theta_10000' with lines lt 1 lw 2.2 title 'θ = 10000', \
     data using 'distance':'theta_1000000' with lines lt 3 lw 2 title 'θ = 1000000', \
     data using 'distance':'bound_10000' with lines lt 8 lw 2 title 'bound for any q and k, θ = 10000'
