"""Adam's steps are those of ``torch.optim.Adam``, without its import of torch's compiler."""

import subprocess
import sys

import torch

from greatmeta_dist.engine.adam import Adam


def test_steps_and_state_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    start = {"a": torch.randn(37, 5, generator=generator), "b": torch.randn(3, generator=generator)}
    ours = {name: value.clone() for name, value in start.items()}
    theirs = {name: value.clone().requires_grad_() for name, value in start.items()}
    adam, reference = Adam(ours, 0.1), torch.optim.Adam(theirs.values(), lr=0.1, fused=True)
    for number in range(5):
        names = ["a", "b"] if number != 2 else ["a"]  # one step without a gradient of b
        gradients = {name: torch.randn(start[name].shape, generator=generator) for name in names}
        adam.step(gradients)
        for name, param in theirs.items():
            param.grad = gradients.get(name)
        reference.step()
    for name, param in theirs.items():
        assert torch.equal(ours[name], param)
        for key, value in reference.state[param].items():
            assert torch.equal(adam.state("x")[f"x.{name}.{key}"], value)
    again = Adam(ours, 0.1)
    again.load_state("x", adam.state("x"))
    assert all(torch.equal(v, adam.state("x")[k]) for k, v in again.state("x").items())


def test_a_training_does_not_import_torch_s_compiler(tmp_path):
    program = (
        "import sys; from greatmeta_dist import cli\n"
        "words = sys.argv[1:]\n"
        "assert cli.main(['prepare', 'data=synthetic', 'data.users=100', *words[:1]]) == 0\n"
        "options = ['train.steps=2', 'train.users_per_batch=8', 'train.lanes=1']\n"
        "assert cli.main(['train', *words, *options]) == 0\n"
        "assert cli.main(['evaluate', *words[1:]]) == 0\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    words = [f"store={tmp_path / 'store'}", f"run={tmp_path / 'run'}"]
    subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True)
