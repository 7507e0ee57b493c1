"""What the commands say of themselves."""

import argparse

import pytest

from i2r.cli import parser


def commands(top: argparse.ArgumentParser, name: str = "i2r"):
    """Name -> parser of every command, and of those below it."""
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield f"{name} {word}", below
                yield from commands(below, f"{name} {word}")


COMMANDS = dict(commands(parser()))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_and_each_of_its_arguments_does(name: str):
    assert COMMANDS[name].description and COMMANDS[name].description in COMMANDS[name].format_help()
    for action in COMMANDS[name]._actions:
        assert isinstance(action, argparse._SubParsersAction) or action.help, f"{name}: {action.dest}"
