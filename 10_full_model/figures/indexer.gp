# What indexers know of attention, against the step. Data: the CSV of `deepseek train` of a sparse model.
eval sized(420)
set title "What the indexers know\nof what attention looks at"
stats data using 'step' nooutput
set xtics apart(STATS_max)
set xlabel 'step'
set ylabel 'share'
set yrange [0:1]
set y2label 'loss of an indexer'
set y2tics
set y2range [0:*]
plot data using 'step':'index_recall' with lines lt 1 title 'recall: of the k most looked at', \
     data using 'step':'index_mass' with lines lt 2 title 'attention on its k', \
     data using 'step':'best_mass' with lines lt 2 dt 2 title 'on the best k', \
     data using 'step':'index_loss' axes x1y2 with lines lt 4 title 'loss (right)'
