/*
 * Solution 09.9: the k are all wrong in C(n - c, k) of C(n, k) cases. The ratio is the product
 * over i < k of (n - c - i) / (n - i); with fewer than k wrong ones a factor is 0. (Tempting: 1 -
 * (1 - c/n)^k, as if answers were put back, which says too little: for k = n and c = 1 the answer
 * is 1, and that is 0.63.)
 */
double pass_at_k(int n, int c, int k);

double pass_at_k(int n, int c, int k) {
    double wrong = 1;
    for (int i = 0; i < k; i++) wrong *= n - c - i > 0 ? (double)(n - c - i) / (n - i) : 0;
    return 1 - wrong;
}
