# The loss of each depth while it is learned; the model without modules for comparison.
eval sized(440)
set title 'The next character, and the ones behind it'
set xlabel 'training step'
set ylabel 'loss'
set key samplen 4
stats data using 'depth' nooutput
deepest = int(STATS_max)
of(m, k) = strcol('model') eq m && column('depth') == k ? column('loss') : NaN
name(k) = k == 0 ? 'next character, with modules' : sprintf('module %d, %d further', k, k)
plot data using 'step':(of('plain', 0)) with lines lt 8 title 'next character, alone', \
     for [k=0:deepest] data using 'step':(of('modules', k)) with lines lt k + 1 title name(k), \
     for [k=1:deepest] data using 'step':(of('heads', k)) with lines lt k + 1 dt 2 \
         title sprintf('head %d', k)
