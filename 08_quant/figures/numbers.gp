# The numbers that a format has, as ticks: above evenly, below on a logarithmic axis.
if (kind eq 'svg') { set terminal svg size 720,480 dynamic enhanced background rgb 'white' font 'DejaVu Sans,Helvetica,Arial,sans-serif,14' } \
else { set terminal pngcairo size 1440,960 enhanced background rgb 'white' font 'DejaVu Sans,14' fontscale 1.6 linewidth 1.8 pointscale 1.8 }
names = "INT8 E4M3 INT4 NF4"
at(f) = strcol('format') eq f ? column('value') : NaN
set multiplot layout 2,1
set yrange [0.4:4.7]
set ytics ()
do for [i=1:4] { set ytics add (word(names, i) 5 - i) }
set border 1
unset key
unset grid
set lmargin 8
set rmargin 4
set title 'The positive numbers of a format; the largest is the scale times 1'
set xrange [0:1.005]
plot for [i=1:4] data using (at(word(names, i))):(4.7 - i):(0):(0.6) with vectors nohead lw 1 lc rgb word('#0072B2 #D55E00 #009E73 #CC79A7', i)
set title 'The same on a logarithmic axis'
set logscale x
set xrange [3e-6:1.1]
set format x '10^{%T}'
plot for [i=1:4] data using (at(word(names, i))):(4.7 - i):(0):(0.6) with vectors nohead lw 1 lc rgb word('#0072B2 #D55E00 #009E73 #CC79A7', i)
unset multiplot
