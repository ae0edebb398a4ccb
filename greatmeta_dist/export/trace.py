"""A model's adapt-and-score as a program on disk, by ``torch.export``."""

from pathlib import Path

import torch
from torch import Tensor

from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.export.program import AdaptAndScore, Form, Tables
from greatmeta_dist.export.tensors import factorisation, mixture


def write_program(path: Path, scorer: Scorer) -> None:
    """Trace adapt-and-score and write it; the same scorer gives the same bytes.

    It is traced with a tiny catalogue, since the program holds for any.
    """
    program, example = _program(scorer), _example(scorer)
    known, asked, item, factor = (
        torch.export.Dim(name, min=0) for name in ("known", "asked", "items", "factorised")
    )
    of_tables = {name: {1: factor} if name.startswith("mf.") else {0: item} for name in example[0]}
    exported = torch.export.export(
        program,
        example,
        dynamic_shapes=(of_tables, None, {0: known}, {0: known}, {0: asked}),
        strict=False,
    )
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # where this package lies is nobody's business
    torch.export.save(exported, path)


def _program(scorer: Scorer) -> AdaptAndScore:
    worker, transform = scorer.worker, scorer.collator.target_transform
    prior = factorisation(scorer)
    form = Form(
        worker.model,
        worker.inner,
        scorer.collator.support_damping,
        transform.kind,
        transform.scale,
        transform.ratings.lowest,
        transform.ratings.highest,
        transform.bias.user_damping,
        scorer.blend.weight if prior is not None else None,
    )
    layers = {name: tensor.cpu() for name, tensor in worker.averaged_layers.items()}
    return AdaptAndScore(form, layers, {} if prior is None else mixture(prior))


def _example(scorer: Scorer) -> tuple[Tables, Tensor, Tensor, Tensor, Tensor]:
    """Arguments of a program: any will do whose sizes are no constants of the model."""
    model, prior = scorer.worker.model, factorisation(scorer)
    num_items, num_known, num_asked, num_factorised = 11, 5, 7, 9
    width = model.embedding_dim
    tables = {
        "items.features": torch.zeros(num_items, model.num_item_fields * width),
        "items.prior_mean": torch.zeros(num_items, dtype=torch.float64),
        "items.content_mean": torch.zeros(num_items, dtype=torch.float64),
    }
    if prior is not None:
        tables["items.mf_position"] = torch.arange(num_items).clamp(max=num_factorised - 1)
        num_starts, size = len(prior.starts), prior.starts[0].mean.shape[1]
        for name, columns in (("mean", size), ("variance", size - 1), ("with_offset", size - 1)):
            shape = (num_starts, num_factorised, columns)
            tables[f"mf.{name}"] = torch.zeros(shape, dtype=torch.float64)
    return (
        tables,
        torch.zeros(model.num_user_fields * width),
        torch.arange(num_known),
        torch.ones(num_known),
        torch.arange(num_asked),
    )
