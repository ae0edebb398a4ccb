"""Help shows every option as one may type it."""

import shlex

import pytest

from greatmeta_dist.config import Config
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.options.help import command_help, option_text
from greatmeta_dist.options.names import COMMANDS, all_options, options_of


def shown(command: str) -> dict[str, str]:
    """Options of a command's help, with what stands behind ``=``."""
    lines = command_help(command).splitlines()
    lines = lines[lines.index("options:") + 1 :]
    starts = [line.strip() for line in lines if not line.startswith("      ")]
    return dict(line.split("=", 1) for line in starts)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_its_own_options_and_no_other(command):
    assert list(shown(command)) == list(options_of(command))


def test_every_option_belongs_to_a_command():
    assert {name for command in COMMANDS for name in options_of(command)} == set(all_options())


@pytest.mark.parametrize("option", all_options().values(), ids=lambda option: option.name)
def test_every_option_has_a_text_of_whole_sentences(option):
    text = option_text(option)
    assert text.endswith(".")
    assert "``" not in text


def test_choices_stand_beside_their_option():
    assert shown("train")["model.activation"] == "tanh  (none|relu|gelu|tanh)"
    assert shown("train")["train.lanes"] == "null  (whole number, or null)"
    assert shown("train")["cluster.kind"] == "local  (local|ray)"


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_the_defaults_shown_can_be_typed_and_are_the_defaults(command):
    words = [f"{name}={shlex.split(value)[0]}" for name, value in shown(command).items()]
    assert compose_config(words) == Config()
