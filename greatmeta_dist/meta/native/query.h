/* Forward and backward over the query of one user, and the gradients of what its rows are made of.
*/

/* The first layer's low-rank delta, sum of c_r v_r' over m rows of the support, adds sum of
   c_r (v_r x + 1) to z. */
static void P(add_low_rank)(const Query *q, const P(user) *u, int64_t position, int64_t m,
                            real *free)
{
    const int64_t h = u->width[0], r = q->first.num_rows, n = u->n, c = u->columns;
    const int64_t padded = (n + LANES - 1) / LANES * LANES;
    const real *support = user_part(q->first.rows, position, r * c);
    const real *scaled_delta = user_part(q->first.scaled_delta, position, r * h);
    const real common = 1 + P(dot)(u->shared, u->shared, u->shared_columns);
    real *gram = P(take)(&free, m * padded); /* [m, n] */
    for (int64_t j = 0; j < c; j++)
        for (int64_t i = n; i < padded; i++)
            free[j * padded + i] = 0;
    P(transpose)(free, padded, u->x, n, c);
    for (int64_t j = 0; j < m * padded; j++)
        gram[j] = common;
    P(add_product)(gram, padded, (P(matrix)){support, c, 1}, free, padded, m, padded, c, 1);
    P(add_product)(u->z[0], h, (P(matrix)){gram, 1, padded}, scaled_delta, h, n, h, m, 1);
}

/* dL/dx [n, c] and dL/dshared [k] through the first layer. */
static void P(through_first_layer)(const Query *q, const P(user) *u, int64_t position, int64_t m,
                                   real *d_rows, real *d_shared, real *free)
{
    const int64_t h = u->width[0], r = q->first.num_rows, n = u->n, c = u->columns;
    const int64_t k = u->shared_columns;
    const int is_own = q->first.weight != NULL;
    const real *shared_weight = is_own ? user_part(q->first.shared, position, h * k)
                                       : (const real *)q->first_weight;
    const real *weight = is_own ? user_part(q->first.weight, position, h * c) : shared_weight + k;
    const int64_t stride = is_own ? c : k + c;
    const real *d = u->delta[0], *d_sum = u->delta_sum[0];
    memset(d_rows, 0, n * c * sizeof(real));
    memset(d_shared, 0, k * sizeof(real));
    P(add_product)(d_rows, c, (P(matrix)){d, h, 1}, weight, stride, n, c, h, 1);
    for (int64_t j = 0; j < h; j++)
        P(add_scaled)(d_shared, d_sum[j], shared_weight + j * (is_own ? k : k + c), k);
    if (!q->first.scaled_delta)
        return;
    const real *support = user_part(q->first.rows, position, r * c);
    const real *scaled_delta = user_part(q->first.scaled_delta, position, r * h);
    const int64_t padded = (m + LANES - 1) / LANES * LANES;
    real *coefficients = P(take)(&free, n * padded), *transposed = P(take)(&free, h * padded);
    for (int64_t j = 0; j < h; j++)
        for (int64_t i = m; i < padded; i++)
            transposed[j * padded + i] = 0;
    P(transpose)(transposed, padded, scaled_delta, m, h);
    memset(coefficients, 0, n * padded * sizeof(real));
    P(add_product)(coefficients, padded, (P(matrix)){d, h, 1}, transposed, padded, n, padded, h, 1);
    P(add_product)(d_rows, c, (P(matrix)){coefficients, padded, 1}, support, c, n, c, m, 1);
    real total = 0;
    for (int64_t i = 0; i < m; i++)
        total += P(dot)(scaled_delta + i * h, d_sum, h);
    P(add_scaled)(d_shared, total, u->shared, k);
}

/* What the kernel k (x * mean) adds to the gradients of x, and that of the mean. */
static void P(through_kernel)(const P(user) *u, const real *mean, real *d_rows, real *d_shared,
                              real *d_mean)
{
    const int64_t c = u->columns, k = u->shared_columns;
    for (int64_t j = 0; j < k; j++) {
        const real d = u->d_total * u->kernel_of_shared[j];
        d_shared[j] += d * mean[j];
        d_mean[j] = d * u->shared[j];
    }
    memset(d_mean + k, 0, c * sizeof(real));
    for (int64_t i = 0; i < u->n; i++) {
        const real d = u->d_prediction[i];
        for (int64_t j = 0; j < c; j++) {
            d_rows[i * c + j] += d * u->kernel[j] * mean[k + j];
            d_mean[k + j] += d * u->kernel[j] * u->x[i * c + j];
        }
    }
}

static void P(query)(const void *work, int64_t position, void *scratch)
{
    const Query *q = work;
    const int64_t index = q->call.users ? q->call.users[position] : position;
    P(user) u = P(user_of)(&q->call, &q->sets, &q->layers, index, index);
    const int64_t h = u.width[0], n = u.n, c = u.columns, k = u.shared_columns;
    int64_t m = 0;
    real *free = scratch;
    for (int64_t l = 0; l < u.depth; l++) {
        u.z[l] = P(take)(&free, n * u.width[l]);
        u.h[l] = user_part(q->hidden[l], index, n * u.width[l]);
        u.delta[l] = user_part(q->delta[l], index, n * u.width[l]);
        u.delta_sum[l] = user_part(q->delta_sum[l], index, u.width[l]);
    }
    u.prediction = user_part(q->prediction, index, n);
    u.d_prediction = user_part(q->d_prediction, index, n);
    if (q->first.weight)
        P(own_first_layer)(&u, user_part(q->first.shared, position, h * k),
                           user_part(q->first.weight, position, h * c),
                           user_part(q->first.bias, position, h), free);
    else
        memcpy(u.z[0], (const real *)q->sets.first_output + index * n * h, n * h * sizeof(real));
    if (q->first.scaled_delta) {
        const int64_t r = q->first.num_rows;
        m = P(count_rows)(user_part(q->first.weights, position, r), r);
        P(add_low_rank)(q, &u, position, m, free);
    }
    P(forward)(&u, free);
    P(backward)(&u);
    *user_part(q->d_total, index, 1) = u.d_total;
    if (!q->d_rows)
        return;
    real *d_rows = user_part(q->d_rows, index, n * c), *d_shared = user_part(q->d_shared, index, k);
    P(through_first_layer)(q, &u, position, m, d_rows, d_shared, free);
    if (u.kernel_x)
        P(through_kernel)(&u, user_part(q->mean, index, k + c), d_rows, d_shared,
                          user_part(q->d_mean, index, k + c));
}

#undef user_part
#undef vector
#undef mask
#undef INLINE
#undef LANES
#undef TILE_ROWS
