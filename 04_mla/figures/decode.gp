# One new token through a layer, by the tokens in the cache, in both modes.
eval sized(360)
set title 'One new token through the layer'
set logscale x 2
set logscale y 10
set xlabel 'tokens in the cache'
set ylabel 'milliseconds'
set format y '%g'
set format x '%g'
plot data using 'tokens':'naive_ms' with linespoints lt 2 title 'naive: keys and values are made again', \
     data using 'tokens':'absorbed_ms' with linespoints lt 1 title 'absorbed: attention on the latents'
