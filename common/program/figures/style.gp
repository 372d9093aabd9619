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
# everything else.
if (kind eq 'svg') {
    set terminal svg size 720,450 dynamic enhanced background rgb 'white' \
        font 'DejaVu Sans,Helvetica,Arial,sans-serif,14'
    set output out.'.svg'
} else {
    set terminal pngcairo size 1440,900 enhanced background rgb 'white' \
        font 'DejaVu Sans,14' fontscale 1.6 linewidth 1.8 pointscale 1.8
    set output out.'.png'
}
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
set title font ',16' offset 0,-0.3
set key top left Left reverse samplen 2 spacing 1.15 textcolor rgb '#222222'
set style fill solid 0.85 noborder
set boxwidth 0.8 relative

# One hue from light to dark (ColorBrewer's Blues): more is darker, and it stays so in grey.
set palette defined (0 '#F7FBFF', 1 '#DEEBF7', 2 '#C6DBEF', 3 '#9ECAE1', 4 '#6BAED6', \
                     5 '#4292C6', 6 '#2171B5', 7 '#08519C', 8 '#08306B')
