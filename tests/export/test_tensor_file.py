"""The file that is written part by part is what the library reads."""

import torch
from safetensors.torch import load_file

from greatmeta_dist.export.tensor_file import StoredTensor, write_tensors


def test_the_library_reads_what_was_written_in_parts(tmp_path):
    tensors = {
        "rows": torch.randn(7, 3),
        "none": torch.empty(0, 4),
        "index": torch.arange(5),
        "exact": torch.randn(2, 3, dtype=torch.float64),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
    }
    stored = [StoredTensor.of(name, tensor) for name, tensor in tensors.items()]
    parts = (tensors["rows"][:, :].T.contiguous().T[k : k + 2] for k in range(0, 7, 2))
    stored[0] = StoredTensor("rows", torch.float32, (7, 3), parts)
    write_tensors(tmp_path / "file", stored)
    read = load_file(tmp_path / "file")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert all(t.data_ptr() % 4 == 0 for t in read.values())
