# What is left of the product of a q with the same k some places away: the mean over all directions. Faint: the exact
# numbers for one θ; the strong lines are means over the next eighth of distances.
eval sized(420)
set title "q · k of equal q and k (64 numbers)\nagainst their distance"
set logscale x 2
set xrange [1:4200]; set yrange [-0.3:1.1]
set xlabel 'distance in tokens'
set ylabel 'q · k (1 where they meet)'
set xtics ('1' 1, '4' 4, '16' 16, '64' 64, '256' 256, '1024' 1024, '4096' 4096)
set ytics -0.25, 0.25, 1
set xzeroaxis lt 8 lw 1 dt 1
plot data using 'distance':'exact_10000' with lines lc rgb '#B3D4E8' lw 1 title 'θ = 10,000, at each distance', \
     data using 'distance':'theta_1000000' with lines lt 3 title 'θ = 1,000,000', \
     data using 'distance':'theta_10000' with lines lt 1 title 'θ = 10,000', \
     data using 'distance':'theta_100' with lines lt 2 title 'θ = 100'
