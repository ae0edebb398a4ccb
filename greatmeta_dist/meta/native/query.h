/* Forward and backward over the query of one user, and the gradients of what its rows are made of.
*/

/* dL/dx [n, c] and dL/dshared [k] through the first layer. */
static void P(through_first_layer)(const P(user) *u, real *d_rows, real *d_shared, real *free)
{
    const P(layer) *first = &u->layers[0];
    const int64_t n = u->n, k = u->shared_columns;
    const int is_own = first->own_weight != NULL;
    const real *weight = is_own ? first->own_weight : first->weight;
    const real *shared = is_own ? first->own_shared : first->weight - k;
    const int64_t stride = is_own ? first->in : first->stride;
    memset(d_rows, 0, n * first->in * sizeof(real));
    memset(d_shared, 0, k * sizeof(real));
    P(add_product)(d_rows, first->in, (P(matrix)){first->delta, first->out, 1}, weight, stride, n,
                   first->in, first->out, 1);
    for (int64_t j = 0; j < first->out; j++)
        P(add_scaled)(d_shared, first->delta_sum[j], shared + j * (is_own ? k : stride), k);
    if (first->m == 0)
        return;
    P(through_low_rank)(first, d_rows, n, free);
    real total = 0;
    for (int64_t i = 0; i < first->m; i++)
        total += P(dot)(first->scaled_delta + i * first->out, first->delta_sum, first->out);
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
    P(user) u = P(user_of)(&q->call, &q->sets, &q->layers, index, position, index);
    const int64_t n = u.n, c = u.columns, k = u.shared_columns;
    const int64_t r = q->num_support_rows;
    const int has_gradient = q->delta[0] != NULL;
    int64_t m = 0;
    real *free = scratch;
    if (q->support_weight)
        m = P(count_rows)(part(q->support_weight, position, r), r);
    for (int64_t l = 0; l < u.depth; l++) {
        P(layer) *layer = &u.layers[l];
        layer->z = P(take)(&free, n * layer->out);
        layer->h = has_gradient ? part(q->hidden[l], index, n * layer->out)
                                : P(take)(&free, n * layer->out);
        layer->delta = part(q->delta[l], index, n * layer->out);
        layer->delta_sum = part(q->delta_sum[l], index, layer->out);
        if (layer->scaled_delta)
            layer->m = l == 0 ? m : q->layers.num_steps * m;
    }
    u.prediction = part(q->prediction, index, n);
    u.d_prediction = part(q->d_prediction, index, n);
    const P(layer) *first = &u.layers[0];
    if (first->own_weight)
        P(own_first_layer)(&u, free);
    else
        memcpy(first->z, (const real *)q->sets.first_output + index * n * first->out,
               n * first->out * sizeof(real));
    if (first->m > 0)
        P(add_low_rank)(first, u.x, n, 1 + P(dot)(u.shared, u.shared, k), free);
    P(forward)(&u, free);
    if (!has_gradient)
        return;
    P(through_loss)(&u);
    P(backward)(&u, free);
    *part(q->d_total, index, 1) = u.d_total;
    if (!q->d_rows)
        return;
    real *d_rows = part(q->d_rows, index, n * c), *d_shared = part(q->d_shared, index, k);
    P(through_first_layer)(&u, d_rows, d_shared, free);
    if (u.kernel_x)
        P(through_kernel)(&u, part(q->mean, index, k + c), d_rows, d_shared,
                          part(q->d_mean, index, k + c));
}

#undef part
#undef vector
#undef mask
#undef INLINE
#undef LANES
#undef TILE_ROWS
