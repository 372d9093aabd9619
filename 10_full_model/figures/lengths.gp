# How long the documents are that `deepseek data` kept. Data: lengths.csv in the folder of shards.
set title 'Documents by their length'
set xlabel 'tokens (bins double)'
set ylabel 'documents'
set logscale x 2
set boxwidth 0.8 relative
set style fill solid 0.8
unset key
set rmargin 4
set yrange [0:*]
plot data using (column('tokens_from')*1.41):'documents':(column('tokens_from')*0.8) with boxes lt 1
