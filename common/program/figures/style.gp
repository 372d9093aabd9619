# The common look of all charts. It runs before every figure's own script:
#
#     gnuplot -e "data = 'T.csv'; out = 'out/T'; kind = 'svg'" \
#             common/program/figures/style.gp 02_causal/figures/T.gp
#
# which is what plot_script() of common/program/plot.h does. So a figure's script sets no terminal, no
# output and no fonts; it says what stands on the axes and plots `data` by the names of its columns:
#
#     set title 'Time of a forward pass'
#     set xlabel 'tokens'; set ylabel 'milliseconds'
#     set logscale xy
#     plot data using 'T':'tiled' with linespoints title 'tiled', \
#          data using 'T':'materialised' with linespoints title 'materialised'

if (!exists('kind')) kind = 'svg'

# The same picture twice: svg for lessons (on white, so that it also reads on a dark page), png for
# everything else. A chart is 440 wide and its text 14 high, nowhere smaller: a telephone of 320
# pixels, which shows a picture no wider than itself, still has it 10 high. So titles take up to 46
# letters a line, and a chart of several parts has them one below the other: eval sized(HEIGHT).
sized(height) = kind eq 'svg' \
    ? sprintf("set terminal svg size 440,%d fixed enhanced background rgb 'white' font 'DejaVu Sans,Helvetica,Arial,sans-serif,14'", height) \
    : sprintf("set terminal pngcairo size 1320,%d enhanced background rgb 'white' font 'DejaVu Sans,14' fontscale 2.4 linewidth 2.6 pointscale 2.6", 3 * height)
eval sized(340)
set output out.'.'.(kind eq 'svg' ? 'svg' : 'png')
set encoding utf8

# Our CSV files: comment lines, one line of column names, rows. Empty cells are gaps.
set datafile separator ','
set datafile columnheaders
set datafile missing ''

# Colours of Okabe and Ito (2008), told apart with any kind of colour vision; points of different
# shapes help in print.
set linetype 1 lc rgb '#0072B2' lw 2.5 pt 7 ps 0.8   # blue
set linetype 2 lc rgb '#D55E00' lw 2.5 pt 5 ps 0.8   # vermilion
set linetype 3 lc rgb '#009E73' lw 2.5 pt 9 ps 1.0   # green
set linetype 4 lc rgb '#CC79A7' lw 2.5 pt 11 ps 1.0  # purple
set linetype 5 lc rgb '#E69F00' lw 2.5 pt 13 ps 1.0  # orange
set linetype 6 lc rgb '#56B4E9' lw 2.5 pt 4 ps 0.8   # sky
set linetype 7 lc rgb '#000000' lw 2.5 pt 6 ps 0.8   # black
set linetype 8 lc rgb '#888888' lw 1.5 dt 2 pt 8     # grey, dashed: ceilings and references
set linetype cycle 8

# Quiet axes: two lines, a light grid behind the data.
set border 3 lc rgb '#444444' lw 1
set tics nomirror out scale 0.6 textcolor rgb '#222222'
set grid xtics ytics back lc rgb '#DDDDDD' lw 1 dt 1
set title font ',14' offset 0,-0.3
# Below the picture, where it hides nothing: 20 of the height for each row.
set key bmargin left Left reverse vertical maxcols 1 height 1 samplen 2 spacing 1.1 textcolor rgb '#222222'
set xlabel offset 0,0.5

# How far apart the marks of an axis that ends at `last` may stand, five or so: 1, 2 or 5 times a power of ten, whole.
apart(last) = last < 8 ? 1 : (tens = 10**floor(log10(last / 5.0)), part = last / 5.0 / tens, \
    part <= 1 ? tens : part <= 2 ? 2 * tens : part <= 5 ? 5 * tens : 10 * tens)
set style fill solid 0.85 noborder
set boxwidth 0.8 relative

# One hue from light to dark (ColorBrewer's Blues): more is darker, and it stays so in grey.
set palette defined (0 '#F7FBFF', 1 '#DEEBF7', 2 '#C6DBEF', 3 '#9ECAE1', 4 '#6BAED6', \
                     5 '#4292C6', 6 '#2171B5', 7 '#08519C', 8 '#08306B')
