# Held-out accuracy while rewards teach: each seed, and the band between the lowest and the highest of them.
eval sized(380)
set title 'Learning from rewards: other seeds'
set xlabel 'step'
set ylabel 'held-out accuracy'
stats data using 'step' nooutput
last = STATS_max
every_step = 10
looks = int(last / every_step) + 1
array low[looks]
array high[looks]
do for [i = 1:looks] {
    at = every_step * (i - 1)
    stats data using (column('step') == at ? column('held_out') : NaN) nooutput
    low[i] = STATS_min
    high[i] = STATS_max
}
stats data using 'seed' nooutput
seeds = int(STATS_max)
set samples looks
set yrange [0:1.02] # behind stats, which would heed it
set key maxcols auto maxrows 3
plot [0:last] sample [i = 1:looks] '+' using (every_step * (int($1 + 0.5) - 1)):(low[int($1 + 0.5)]):(high[int($1 + 0.5)]) with filledcurves lc rgb '#C6DBEF' title 'lowest to highest', \
     for [s = 1:seeds] data using (column('seed') == s ? column('step') : NaN):'held_out' with lines lt s lw 1.2 title sprintf('seed %d', s)
