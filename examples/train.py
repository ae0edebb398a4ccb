"""Prepare, train and evaluate from Python: ``python examples/train.py [--work FOLDER]``.

Options are dataclasses, named as on the command line: ``train.steps=300`` is
``TrainConfig(steps=300)``. Run it again with more steps, and the training goes on.
"""

import argparse
from pathlib import Path

from greatmeta_dist import evaluate, prepare, train
from greatmeta_dist.config import Config, DataConfig, InnerConfig, SchedulerConfig, TrainConfig


def main(work: Path, steps: int) -> None:
    report = prepare(DataConfig(source="synthetic", users=600), work / "store")
    print(f"{report.read} rows read, {report.rejected} rejected; users: {report.tasks}")

    config = Config(
        store=str(work / "store"),
        inner=InnerConfig(steps=3, learning_rate=0.02),
        scheduler=SchedulerConfig(kind="balanced"),
        train=TrainConfig(steps=steps, users_per_batch=32, seed=1),
    )
    metrics = train(config, work / "run")
    print(f"best validation RMSE {metrics['best']['rmse']:.3f}")

    models = evaluate(work / "run")["scenarios"]["user_cold"]["models"]
    print(f"new users: {models['adapted']['rmse']:.3f}; by biases: {models['bias']['rmse']:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path("runs/from-python"))
    parser.add_argument("--steps", type=int, default=300)
    main(**vars(parser.parse_args()))
