# Operations of attention for each new token, when T of them meet a cache of S, themselves included.
eval sized(380)
stats data using 'S' nooutput
S = int(STATS_max)
stats data using 'crossing' nooutput
crossing = int(STATS_max)
if (crossing < S) {
    set arrow from crossing, graph 0 to crossing, graph 0.72 nohead lt 8
    set label sprintf("T = %d", crossing) at crossing, graph 0.6 offset 0.8,0 textcolor rgb '#666666'
}
set title sprintf("Attention over %d tokens:\noperations for each of T new ones", S)
set logscale x 2
set logscale y 10
set xlabel 'T: new tokens at once'
set ylabel 'millions of operations'
set format y '%g'
set format x '%g'
plot data using 'T':'naive_mflop' with linespoints lt 2 title 'naive: keys and values are made again', \
     data using 'T':'absorbed_mflop' with linespoints lt 1 title 'absorbed: attention on the latents'
