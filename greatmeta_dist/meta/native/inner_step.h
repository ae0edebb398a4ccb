/* One inner step of one user, on its support. */

/* z [n, h_1] of the first layer: W x + b, as far as it has moved. */
static void P(first_layer)(const InnerStep *s, const P(user) *u, int64_t position, real *free)
{
    const int64_t h = u->width[0], r = s->sets.num_rows, c = u->columns, k = u->shared_columns;
    if (!s->is_first_step && !s->first.scaled_delta) {
        P(own_first_layer)(u, user_part(s->first.shared, position, h * k),
                           user_part(s->first.weight, position, h * c),
                           user_part(s->first.bias, position, h), free);
        return;
    }
    memcpy(u->z[0], (const real *)s->sets.first_output + position * r * h, u->n * h * sizeof(real));
    if (s->is_first_step)
        return;
    const int64_t leading = (r + LANES - 1) / LANES * LANES;
    P(matrix) gram = {user_part(s->gram, position, r * leading), leading, 1};
    P(add_product)(u->z[0], h, gram, user_part(s->first.scaled_delta, position, r * h), h, u->n, h,
                   u->n, 1);
}

/* The first layer's move, from dL/dz. */
static void P(move_first_layer)(const InnerStep *s, const P(user) *u, int64_t position)
{
    const int64_t h = u->width[0], r = s->sets.num_rows, c = u->columns, k = u->shared_columns;
    const real rate = (real)s->rate, *d = u->delta[0], *d_sum = u->delta_sum[0];
    if (s->first.scaled_delta) {
        P(add_scaled)(user_part(s->first.scaled_delta, position, r * h), -rate, d, u->n * h);
        return;
    }
    real *shared = user_part(s->first.shared, position, h * k);
    real *weight = user_part(s->first.weight, position, h * c);
    for (int64_t j = 0; j < h; j++)
        P(add_scaled)(shared + j * k, -rate * d_sum[j], u->shared, k);
    P(add_product)(weight, c, (P(matrix)){d, 1, h}, u->x, c, h, c, u->n, -rate);
    P(add_scaled)(user_part(s->first.bias, position, h), -rate, d_sum, h);
}

/* All other layers' moves. */
static void P(move_other_layers)(const P(user) *u, real rate)
{
    const int64_t n = u->n, c = u->columns, last = u->width[u->depth - 1];
    for (int64_t l = 1; l < u->depth; l++) {
        const int64_t width = u->width[l], in = u->width[l - 1];
        P(add_product)(u->weight[l], in, (P(matrix)){u->delta[l], 1, width}, u->h[l - 1], in, width,
                       in, n, -rate);
        P(add_scaled)(u->bias[l], -rate, u->delta_sum[l], width);
    }
    const real *h = u->h[u->depth - 1];
    for (int64_t i = 0; i < n; i++)
        P(add_scaled)(u->output, -rate * u->d_prediction[i], h + i * last, last);
    *u->output_bias -= rate * u->d_total;
    if (!u->kernel_x)
        return;
    for (int64_t i = 0; i < n; i++)
        P(add_scaled)(u->kernel, -rate * u->d_prediction[i], u->kernel_x + i * c, c);
    P(add_scaled)(u->kernel_of_shared, -rate * u->d_total, u->kernel_shared, u->shared_columns);
}

/* X X' and what the shared columns and the bias add to all of it. */
static void P(make_gram)(const InnerStep *s, const P(user) *u, int64_t position, real *free)
{
    const int64_t r = s->sets.num_rows, n = u->n, c = u->columns;
    const int64_t leading = (r + LANES - 1) / LANES * LANES;
    const int64_t padded = (n + LANES - 1) / LANES * LANES;
    real *gram = user_part(s->gram, position, r * leading);
    const real common = 1 + P(dot)(u->shared, u->shared, u->shared_columns);
    for (int64_t j = 0; j < c; j++)
        for (int64_t i = n; i < padded; i++)
            free[j * padded + i] = 0;
    P(transpose)(free, padded, u->x, n, c);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < padded; j++)
            gram[i * leading + j] = common;
    P(add_product)(gram, leading, (P(matrix)){u->x, c, 1}, free, padded, n, padded, c, 1);
}

static void P(inner_step)(const void *work, int64_t position, void *scratch)
{
    const InnerStep *s = work;
    const int64_t index = s->call.users ? s->call.users[position] : position;
    P(user) u = P(user_of)(&s->call, &s->sets, &s->layers, position, index);
    u.n = P(count_rows)(u.row_weight, u.n);
    if (u.n == 0) {
        for (int64_t l = 0; u.d_film && l < u.depth; l++)
            for (int64_t j = 0; j < 2 * u.width[l]; j++)
                *u.d_film++ = 0;
        return;
    }
    real *free = scratch;
    for (int64_t l = 0; l < u.depth; l++) {
        u.z[l] = P(take)(&free, u.n * u.width[l]);
        u.h[l] = P(take)(&free, u.n * u.width[l]);
        u.delta[l] = P(take)(&free, u.n * u.width[l]);
        u.delta_sum[l] = P(take)(&free, u.width[l]);
    }
    u.prediction = P(take)(&free, u.n);
    u.d_prediction = P(take)(&free, u.n);
    P(first_layer)(s, &u, position, free);
    P(forward)(&u, free);
    P(backward)(&u);
    P(move_first_layer)(s, &u, position);
    P(move_other_layers)(&u, (real)s->rate);
    if (s->is_first_step && s->gram)
        P(make_gram)(s, &u, position, free);
}
