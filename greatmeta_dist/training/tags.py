"""TensorBoard's tags: what each shows, and the first page, which has the main ones.

What stands before a tag's first slash is a section of TensorBoard's page *Time Series*.
"""

from fnmatch import fnmatchcase

TAGS = {
    "best/step": "The step with the least RMSE on the validation users so far (of clicks, log "
    "loss). Predictions use it.",
    "best/*": "A metric of the best step so far, on the validation users.",
    "train/loss": "Mean query loss of a step's users, after adaptation.",
    "train/loss_unadapted": "Mean query loss of a step's users, before adaptation.",
    "train/rmse": "RMSE of a step's users after adaptation, in the ratings' units.",
    "train/nonfinite_share": "Share of a step's users whose loss, gradient or factors are not "
    "finite. They count in nothing else.",
    "meta/entropy": "Entropy of a step's weights. With uniform weights it is the logarithm of the "
    "number of users.",
    "meta/effective_sample_size": "1/Σw²: how many users, counting the same, a step's weights are "
    "worth.",
    "meta/effective_sample_share": "Effective sample size as a share of a step's users. 1 with "
    "uniform weights; near 0 where a few users decide the step.",
    "meta/weights": "Weights of a step's users. 1 is a uniform weight.",
    "meta/magnitude": "The factor *magnitude*: how far each user would move the model.",
    "meta/gap": "The factor *gap*: cosines of each user's gradients after adaptation and before "
    "it, one for each tensor of the layers.",
    "meta/agreement": "The factor *agreement*: each user's gradient against the batch's mean "
    "gradient, one number for each tensor.",
    "meta/context": "What the support sets tell the scheduler of users' preferences.",
    "meta/correlation_with_gain/weight": "Correlation of users' weights with the loss that "
    "adaptation takes away.",
    "meta/correlation_with_gain/*": "Correlation of this factor, averaged over a user's numbers, "
    "with the loss that adaptation takes away.",
    "meta/weight_by_group/*": "Mean weight of a step's users of this preference group. 1 is a "
    "uniform weight.",
    "meta/weight_by_activity/*": "Mean weight of a step's users with so many support rows. 1 is a "
    "uniform weight.",
    "meta/*_by_group/*": "Mean of this factor over a step's users of this preference group.",
    "meta/*_by_activity/*": "Mean of this factor over a step's users with so many support rows.",
    "val/*/rmse_by_group/*": "RMSE of this split's users of one preference group, after "
    "adaptation.",
    "val/*/minority_rmse": "RMSE of this split's users of the smallest preference groups.",
    "val/*/rmse": "RMSE of this split's users after adaptation, in the ratings' units.",
    "val/*/mae": "Mean absolute error of this split's users after adaptation, in the ratings' "
    "units.",
    "val/*/log_loss": "Mean log loss of this split's query rows after adaptation (clicks).",
    "val/*/auc": "AUC: how surely a clicked row of a user is put before one that was not clicked.",
    "val/*/ndcg@*": "nDCG of this split's query rows, cut off at so many. 1 is the best order.",
    "val/*/*": "A metric of this split's users, after adaptation.",
    "perf/users_per_s": "Training users a second, over all workers, since the last point. "
    "Validations are left out.",
    "perf/loop/*": "Seconds a step that the first worker spends in this phase of the loop, since "
    "the last point. A step waits for no GPU at its end: there it may end before its kernels do.",
    "perf/seconds/*": "Seconds a step in messages of this kind, waiting included; the mean over "
    "workers.",
    "perf/bytes/*": "Bytes a step that all workers together send in messages of this kind.",
    "perf/seconds_for_snapshot": "Seconds that a checkpoint held up training.",
    "system/workers": "Workers that train.",
    "system/memory_mib/all": "Memory of all workers together, in MiB.",
    "system/memory_mib/largest": "Memory of the worker that has most, in MiB.",
    "system/peak_memory_mib": "Peak memory of the first worker, in MiB.",
    "system/processors": "Processors that all workers together keep busy.",
    "system/gpu_memory_mib": "GPU memory that tensors take on the worker where it is most, in MiB.",
    "system/gpu_peak_memory_mib": "The largest GPU memory of any worker since it started, in MiB.",
    "system/gpu_busy_share": "Share of the time in which GPUs compute; the mean over workers. "
    "Needs the package nvidia-ml-py.",
    "system/status": "0 while the run trains, 1 once it is done, 2 where it was stopped, 3 where "
    "it failed. A run that was killed keeps 0.",
    "system/events": "What happened to the run: starts, restarts, checkpoints, stops, failures.",
}
"""Patterns of tags, the first that fits counts; and what they show, in Markdown."""

SCENARIO_RMSE = "val/(warm|user_cold|item_cold|both_cold)/rmse"
FIRST_PAGE = {
    "Is it learning?": {
        "RMSE on validation users, and the best so far": ("val/valid/rmse", "best/rmse"),
        "log loss on validation users, and the best so far": (
            "val/valid/log_loss",
            "best/log_loss",
        ),
        "AUC on validation users": ("val/valid/auc",),
        "RMSE by scenario": (SCENARIO_RMSE,),
        "nDCG@10 on validation users": ("val/valid/ndcg@10",),
        "loss of a step's users, before and after adaptation": (
            "train/loss_unadapted",
            "train/loss",
        ),
        "share of users left out (not finite)": ("train/nonfinite_share",),
    },
    "Is it balanced?": {
        "RMSE by preference group, validation users": ("val/valid/rmse_by_group/.*",),
        "RMSE of minority and of all validation users": (
            "val/valid/minority_rmse",
            "val/valid/rmse",
        ),
        "weight by preference group (uniform: 1)": ("meta/weight_by_group/.*",),
        "weight by number of support rows (uniform: 1)": ("meta/weight_by_activity/.*",),
        "effective sample size, share of the batch": ("meta/effective_sample_share",),
        "correlation with the gain of adaptation": ("meta/correlation_with_gain/.*",),
    },
    "Is it fast?": {
        "users a second": ("perf/users_per_s",),
        "seconds a step, by phase": ("perf/loop/.*",),
        "seconds a step in messages, by kind": ("perf/seconds/.*",),
        "bytes a step in messages, by kind": ("perf/bytes/.*",),
        "memory of all workers, MiB": ("system/memory_mib/all",),
        "GPU memory, MiB": ("system/gpu_memory_mib", "system/gpu_peak_memory_mib"),
        "workers": ("system/workers",),
    },
}
"""TensorBoard's page *Custom Scalars*: questions, their charts, and regular expressions of the
tags that a chart draws. Each must fit a tag as a whole."""
NEEDS = {
    "has_scheduler": ("meta/",),
    "has_gpu": ("system/gpu",),
    "is_group": ("perf/seconds/", "perf/bytes/"),
    "is_click": ("val/valid/log_loss", "val/valid/auc"),
}
"""What the tags begin with of charts that only some trainings fill."""


def describe(tag: str) -> str:
    """What a tag shows; empty for a tag that nobody described."""
    return next((text for pattern, text in TAGS.items() if fnmatchcase(tag, pattern)), "")


def first_page(
    *, has_scheduler: bool, has_gpu: bool, is_group: bool, is_click: bool
) -> dict[str, dict[str, list[str]]]:
    """Questions, charts and their patterns, without charts that this training leaves empty."""
    has = {
        "has_scheduler": has_scheduler,
        "has_gpu": has_gpu,
        "is_group": is_group,
        "is_click": is_click,
    }
    left_out = tuple(start for need, starts in NEEDS.items() if not has[need] for start in starts)
    return {
        question: {
            # TensorBoard matches from the start only: without an end "val/valid/rmse" would also
            # draw every curve of "val/valid/rmse_by_group/".
            title: [f"{pattern}$" for pattern in patterns]
            for title, patterns in charts.items()
            if not patterns[0].startswith(left_out)
        }
        for question, charts in FIRST_PAGE.items()
    }
