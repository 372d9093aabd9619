/*
 * Solution 02.9. T / M blocks ask for 2 T D numbers each: 4 T T D / M bytes. The operations are 4 T
 * T D. So the intensity is M, whatever T and D are (twice_d is false: operations and bytes both
 * grow with D), and memory alone feeds the machine from 256 on, the next multiple of 64 after 200.
 * The kernels have smaller tiles; the L2 cache serves the rest.
 *
 * Dropout: o = sum m_j p_j v_j and dp_j = m_j do . v_j, so sum p_j dp_j = do . o again. It is
 * tempting to think that every change to P breaks it; what matters is only that o is linear in the
 * p_j, with the same factors that dp_j has.
 *
 * Order: the mathematics does not depend on it, the roundings do. That is why each kernel has a
 * fixed one.
 */
extern const long bytes_asked, matrix_bytes;
extern const int intensity, smallest_m, twice_d, with_dropout, any_order;

const long bytes_asked = 16384L / 64 * 2 * 16384 * 128 * 2;
const long matrix_bytes = 2L * 2 * 16384 * 16384;
const int intensity = 64, smallest_m = 256;
const int twice_d = 0, with_dropout = 1, any_order = 0;
