# One decoding step, attention alone, against the tokens in the cache.
set title 'One decoding step: attention with a cache'
set logscale xy 2
set xlabel 'tokens in the cache'
set ylabel 'microseconds'
set format y '%.0f'
set key top left
time(variant, rung) = (strcol('variant') eq variant && strcol('rung') eq rung ? column('min_us') : NaN)
plot for [v in 'MHA GQA MQA'] data using 'tokens':(time(v, 'grouped')) with linespoints title v, \
     for [v in 'GQA MQA'] data using 'tokens':(time(v, 'chapter 02')) with linespoints dt 2 \
         title v.', each query head reading for itself'
