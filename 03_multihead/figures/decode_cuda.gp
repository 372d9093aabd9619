# The GPU's file, drawn as the CPU's.
where = ', one NVIDIA H200'
load '03_multihead/figures/decode.gp'
