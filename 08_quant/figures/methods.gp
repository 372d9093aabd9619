# How much worse a model's perplexity is, by format and method. (Row 0 is F32; those behind
# the eleventh are other experiments.)
eval sized(340)
set title "Linear layers in fewer bits:\nhow much worse on unseen text" offset -12,-0.3
set xlabel 'perplexity, per cent above F32' offset -8,0
unset key
set yrange [10.6:-0.6]
set xrange [0:1.15]
set xtics 0.5
set lmargin 31
set ytics noenhanced
set grid xtics noytics
colour(method) = method eq 'rtn' ? 1 : method eq 'gptq' ? 3 : method eq 'awq' ? 5 : 4
plot data every ::1::11 using (0.5 * column('worse')):0:(0.5 * column('worse')):(0.35):(colour(strcol('method'))):yticlabels(strcol('format').', '.strcol('method').', '.strcol('block')) with boxxyerror lc variable, \
     data every ::1::11 using (column('worse')):0:(sprintf('%.2f', column('worse'))) with labels left offset 0.5,0
