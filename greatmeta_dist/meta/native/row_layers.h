/* What a call works on. `library.py` holds the same structures, field by field.

   Shapes: b users of a length bucket, B of the batch, n rows of a user's set (padded), r of its
   support (padded), c columns of a row, k columns that a user's rows share, h_1, h_2, ... widths of
   the hidden layers, F = 2 (h_1 + h_2 + ...). Tensors are contiguous, of one precision. Padding
   stands behind a user's rows and weighs 0. */
#ifndef GREATMETA_ROW_LAYERS_H
#define GREATMETA_ROW_LAYERS_H

#include <stdint.h>

#define MOST_HIDDEN 8

enum { ACTIVATION_NONE, ACTIVATION_RELU, ACTIVATION_TANH };
enum { LOSS_MSE, LOSS_BCE };

typedef struct {
    int64_t is_double;
    int64_t vector_bytes; /* widest vectors to use, where the processor has them */
    int64_t num_threads;
    int64_t scratch_bytes; /* of each thread */
    void *scratch;
    int64_t activation;
    int64_t loss;
    int64_t num_hidden;
    int64_t width[MOST_HIDDEN];
    int64_t num_columns;  /* c */
    int64_t num_shared;   /* k */
    int64_t num_users;    /* b */
    const int64_t *users; /* [b] which of the batch's users they are; NULL: all, in order */
} Call;

/* Users' sets; the first dimension of all is `num_sets`. */
typedef struct {
    int64_t num_rows;          /* n */
    const void *rows;          /* [., n, c] */
    const void *shared;        /* [., k] */
    const void *kernel_rows;   /* [., n, c]; NULL without kernel */
    const void *kernel_shared; /* [., k] */
    const void *label;         /* [., n] */
    const void *row_weight;    /* [., n] */
    const void *logit;         /* [., n]; NULL for ratings */
    const void *first_output;  /* [., n, h_1] of the shared first layer, bias included */
    const void *film;          /* [B, F] scale 1, shift 1, scale 2, ...; NULL without encoder */
    void *d_film;              /* [B, F] dL/dfilm; written */
} Sets;

/* The layers but the first, each user's own or the same for all. */
typedef struct {
    int64_t is_own;            /* whether there is a first dimension of B users */
    void *weight[MOST_HIDDEN]; /* [B, h, in]; none of the first layer */
    void *bias[MOST_HIDDEN];   /* [B, h]; none of the first layer */
    void *output;              /* [B, h of the last] */
    void *output_bias;         /* [B] */
    void *kernel;              /* [B, c]; NULL without kernel */
    void *kernel_shared;       /* [B, k] */
} Layers;

/* How the first layer has moved: as rows of its delta, or as a copy for each user. */
typedef struct {
    int64_t num_rows;    /* r */
    const void *rows;    /* [b, r, c] that the layer moved by */
    const void *weights; /* [b, r] their weights */
    void *scaled_delta;  /* [b, r, h_1]; NULL where it is a copy, or has not moved */
    void *shared;        /* [b, h_1, k] the copy; NULL where it is none */
    void *weight;        /* [b, h_1, c] */
    void *bias;          /* [b, h_1] */
} First;

/* One inner step on the supports of a bucket: `sets` has b entries. All `layers` are own. */
typedef struct {
    Call call;
    Sets sets;
    Layers layers;
    First first;
    int64_t is_first_step;
    double rate;
    void *gram; /* [b, r, r, filled up to whole vectors] of the first layer's inputs, 1 added */
} InnerStep;

/* Passes forward and backward over the queries of a bucket's users: `sets` has B entries. */
typedef struct {
    Call call;
    Sets sets;
    Layers layers;
    First first;
    void *prediction;             /* [B, n] */
    void *d_prediction;           /* [B, n] */
    void *d_total;                /* [B] its sum */
    void *hidden[MOST_HIDDEN];    /* [B, n, h] */
    void *delta[MOST_HIDDEN];     /* [B, n, h] dL/dz */
    void *delta_sum[MOST_HIDDEN]; /* [B, h] */
    const void *first_weight;     /* [h_1, k + c] of the shared first layer */
    const void *mean;             /* [B, k + c] what the kernel multiplies rows with */
    void *d_rows;                 /* [B, n, c]; NULL where gradients of inputs are not asked for */
    void *d_shared;               /* [B, k] */
    void *d_mean;                 /* [B, k + c] */
} Query;

#endif
