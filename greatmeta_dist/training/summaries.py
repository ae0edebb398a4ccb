"""Values as TensorBoard's event files hold them: numbers, histograms, texts, charts, HParams.

A tag's description travels with its first value. With the data class named, both of TensorBoard's
loaders keep it: the fast one drops the description of a number in the old form otherwise. The old
form is kept because ``EventAccumulator`` reads scalars and histograms from nothing else.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    HistogramProto,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar.layout_pb2 import (
    Category,
    Chart,
    Layout,
    MultilineChartContent,
)
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG
from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)

NUM_BUCKETS = 30
"""Buckets of a histogram, as many as TensorBoard draws. torch's own have up to 1,500."""
HyperParameter = bool | int | float | str


def metadata(
    plugin: str, data_class: int, description: str, content: bytes = b""
) -> SummaryMetadata:
    """What TensorBoard is to know of a tag; read with the first of its values."""
    data = SummaryMetadata.PluginData(plugin_name=plugin, content=content)
    return SummaryMetadata(plugin_data=data, data_class=data_class, summary_description=description)


def scalar_value(tag: str, value: float, description: str | None) -> Summary.Value:
    """A number; its description is only needed with the first one of a file."""
    if description is None:
        return Summary.Value(tag=tag, simple_value=value)
    shown = metadata("scalars", DATA_CLASS_SCALAR, description)
    return Summary.Value(tag=tag, metadata=shown, simple_value=value)


def histogram_value(
    tag: str, values: NDArray[np.floating], description: str | None
) -> Summary.Value:
    """The histogram of some finite values; its description as ``scalar_value``."""
    if description is None:
        return Summary.Value(tag=tag, histo=histogram(values))
    shown = metadata("histograms", DATA_CLASS_TENSOR, description)
    return Summary.Value(tag=tag, metadata=shown, histo=histogram(values))


def histogram(values: NDArray[np.floating]) -> HistogramProto:
    """The histogram of some finite values, of any shape."""
    values = values.astype(np.float64).ravel()
    counts, edges = np.histogram(values, bins=NUM_BUCKETS)
    # The first bucket begins at ``min``; limits are the buckets' right ends.
    return HistogramProto(
        min=values.min(),
        max=values.max(),
        num=len(values),
        sum=values.sum(),
        sum_squares=values @ values,
        bucket_limit=edges[1:],
        bucket=counts,
    )


def text_value(tag: str, markdown: str, description: str) -> Summary.Value:
    """A text that TensorBoard renders as Markdown."""
    return Summary.Value(
        tag=tag,
        metadata=metadata("text", DATA_CLASS_TENSOR, description),
        tensor=_string(markdown.encode(), TensorShapeProto.Dim(size=1)),
    )


def layout_value(page: dict[str, dict[str, list[str]]]) -> Summary.Value:
    """Charts of the page *Custom Scalars*: by category and title, patterns of their tags."""
    categories = [
        Category(
            title=category,
            chart=[
                Chart(title=title, multiline=MultilineChartContent(tag=patterns))
                for title, patterns in charts.items()
            ],
        )
        for category, charts in page.items()
    ]
    return Summary.Value(
        tag=CONFIG_SUMMARY_TAG,
        metadata=metadata("custom_scalars", DATA_CLASS_TENSOR, ""),
        tensor=_string(Layout(category=categories).SerializeToString()),
    )


def start_value(options: Mapping[str, HyperParameter], start_s: float) -> Summary.Value:
    """The run's row in the table of HParams; without an end it is *running*.

    No experiment is written beside it. TensorBoard then finds the columns itself, of all runs, and
    shows those first in which the runs differ.
    """
    start = SessionStartInfo(start_time_secs=start_s)
    for name, value in options.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    return _hparams_value(SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))


def end_value(status: int, end_s: float) -> Summary.Value:
    """How a run ended: one of the ``STATUS_`` of TensorBoard's HParams."""
    end = SessionEndInfo(status=status, end_time_secs=end_s)
    return _hparams_value(SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))


def _hparams_value(tag: str, data: HParamsPluginData) -> Summary.Value:
    # All is said in the metadata; the value is there because there must be one.
    return Summary.Value(
        tag=tag,
        metadata=metadata("hparams", DATA_CLASS_TENSOR, "", data.SerializeToString()),
        tensor=TensorProto(dtype="DT_FLOAT", float_val=[0.0], tensor_shape=TensorShapeProto()),
    )


def _string(value: bytes, *dims: TensorShapeProto.Dim) -> TensorProto:
    shape = TensorShapeProto(dim=dims)
    return TensorProto(dtype="DT_STRING", string_val=[value], tensor_shape=shape)
