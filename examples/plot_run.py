"""Draw a run's curves: ``python examples/plot_run.py RUN --out FILE`` (.svg, .png or .pdf).

Needs matplotlib: ``pip install matplotlib``.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RMSE = {"val/valid/minority_rmse": "minority groups", "val/valid/rmse": "all users"}
WEIGHT = "meta/weight_by_group/"
COLOURS = ("#30638e", "#d1495b", "#edae49", "#00798c", "#8d5a97", "#66a182", "#7a7a7a", "#2f2f2f")

parser = argparse.ArgumentParser()
parser.add_argument("run")
parser.add_argument("--out", default="training.svg")
options = parser.parse_args()
events = EventAccumulator(f"{options.run}/tensorboard").Reload()
tags = sorted(events.Tags()["scalars"], reverse=True)
weights = {tag: tag.removeprefix(WEIGHT).replace("_", " ") for tag in tags if WEIGHT in tag}

figure = Figure(figsize=(10, 3.2), layout="constrained")
panels = [("RMSE on validation users", RMSE, 1), ("Mean weight of a user (uniform: 1)", weights, 9)]
for axes, (title, names, width) in zip(figure.subplots(1, 2), panels, strict=True):
    for tag, colour in zip([tag for tag in names if tag in tags], COLOURS, strict=False):
        points = events.Scalars(tag)
        # A batch holds few users of a rare group: average weights over neighbouring points.
        values = np.pad([point.value for point in points], width // 2, "edge")
        values = np.convolve(values, np.full(width, 1 / width), "valid")
        axes.plot([point.step for point in points], values, color=colour, label=names[tag])
    axes.set_title(title, loc="left")
    axes.set(xlabel="outer step", xlim=(0, None))
    axes.grid(axis="y", color="#e6e6e6")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(handles=axes.lines, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
figure.savefig(options.out)
