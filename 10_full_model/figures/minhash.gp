# Which pairs of documents are taken for near duplicates. Data: the CSV that ./bench_data writes.
eval sized(440)
set title "MinHash: documents that meet,\nby their similarity"
set xlabel 'similarity (Jaccard, of sets of shingles)'
set ylabel 'probability'
set xrange [0:1]
set yrange [0:1.02]
set key samplen 4
plot data using 'similarity':'bands_16_rows_8' with lines lt 1 lw 2 title '16 bands of 8', \
     data using 'similarity':'bands_32_rows_4' with lines lt 2 dt 2 title '32 bands of 4', \
     data using 'similarity':'bands_8_rows_16' with lines lt 3 dt 2 title '8 bands of 16', \
     data using 'similarity':'met' with points lt 1 pt 6 ps 0.8 title 'met in a band, measured (16 of 8)', \
     data using 'similarity':'dropped' with points lt 4 pt 7 ps 0.6 title 'of these, dropped (0.8 or more)'
