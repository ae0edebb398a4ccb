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

/* Users' sets; the first dimension is that of `Call`'s users, or of the batch. */
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

/* How far a hidden layer has moved for each user: as a sum of c_r v_r' over rows r, which is not
   formed, or as a copy of the layer. All NULL where it has not moved. `in` leaves shared columns
   out, which only the first layer has. */
typedef struct {
    int64_t num_rows;   /* R, for how many rows there is room */
    void *rows;         /* [b, R, in] v_r; in the first layer those of the support */
    void *scaled_delta; /* [b, R, h] c_r */
    void *weight;       /* [b, h, in] the copy */
    void *shared;       /* [b, h, k] its shared columns */
    void *bias;         /* [b, h] */
} Moved;

typedef struct {
    const void *weight[MOST_HIDDEN]; /* [h, in], the same for all; of the first [h_1, k + c] */
    const void *bias[MOST_HIDDEN];   /* [h]; none of the first, whose `first_output` has it */
    Moved moved[MOST_HIDDEN];
    int64_t num_steps; /* inner steps that moved them */
    int64_t is_own;    /* whether what follows has a first dimension of b users */
    void *output;      /* [., h of the last] */
    void *output_bias; /* [.] */
    void *kernel;      /* [., c]; NULL without kernel */
    void *kernel_shared; /* [., k] */
} Layers;

/* One inner step on the supports of a bucket: `sets` has b entries. */
typedef struct {
    Call call;
    Sets sets;
    Layers layers;
    double rate;
    void *gram; /* [b, r, r, filled up to whole vectors] of the first layer's inputs, 1 added */
} InnerStep;

/* Passes over the queries of a bucket's users, forward, and backward where asked for: `sets` has B
   entries, and so has what is written. */
typedef struct {
    Call call;
    Sets sets;
    Layers layers;
    int64_t num_support_rows;     /* r */
    const void *support_weight;   /* [b, r] weights of the supports' rows; NULL: nothing moved */
    void *prediction;             /* [B, n] */
    void *d_prediction;           /* [B, n] */
    void *d_total;                /* [B] its sum */
    void *hidden[MOST_HIDDEN];    /* [B, n, h] */
    void *delta[MOST_HIDDEN];     /* [B, n, h] dL/dz; NULL where no gradient is asked for */
    void *delta_sum[MOST_HIDDEN]; /* [B, h] */
    const void *mean;             /* [B, k + c] what the kernel multiplies rows with */
    void *d_rows;                 /* [B, n, c]; NULL where gradients of inputs are not asked for */
    void *d_shared;               /* [B, k] */
    void *d_mean;                 /* [B, k + c] */
} Query;

#endif
