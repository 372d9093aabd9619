# The numbers that a format has, as ticks: above evenly, below on a logarithmic axis.
eval sized(400)
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
set title "The positive numbers of a format;\nthe largest is the scale times 1"
set xrange [0:1.005]
plot for [i=1:4] data using (at(word(names, i))):(4.7 - i):(0):(0.6) with vectors nohead lw 1 lc rgb word('#0072B2 #D55E00 #009E73 #CC79A7', i)
set title 'The same on a logarithmic axis'
set logscale x
set xrange [3e-6:1.1]
set xtics ('0.00001' 1e-5, '0.0001' 1e-4, '0.001' 1e-3, '0.01' 0.01, '0.1' 0.1, '1' 1)
plot for [i=1:4] data using (at(word(names, i))):(4.7 - i):(0):(0.6) with vectors nohead lw 1 lc rgb word('#0072B2 #D55E00 #009E73 #CC79A7', i)
unset multiplot
