"""`accord`: the commands, their help, and how a command ends.

Exit status: 0 when it worked, 2 for input that cannot be used, 3 for a run that stopped itself, 130 after Ctrl-C. A
command is imported when it is called, and its help needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accord.cli.call import Call, bind, explained, read_words, target_of
from accord.cli.options import options_of
from accord.cli.table import COMMANDS, FAMILIES
from accord.errors import InputError, TrainingStopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the words say; the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = ""
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(overview())
        elif words[0] == "--version":
            from accord import __version__

            print(f"accord {__version__}")
        else:
            command, rest = split_command(words)
            if (command in FAMILIES and not rest) or not {"-h", "--help"}.isdisjoint(rest):
                print(overview(command) if command in FAMILIES else explained(command))
                return 0
            call = bind(command, read_words(command, rest))
            _say_where(call, call.function(**call.arguments))
    except InputError as error:
        print(f"accord: {error}", file=sys.stderr)
        return 2
    except TrainingStopped as error:
        print(f"accord: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"accord: stopped{_way_on(command)}.", file=sys.stderr)
        return 130
    return 0


def overview(family: str = "") -> str:
    """The commands, or the questions of one, a line each."""
    width = max(map(len, COMMANDS))
    listed = {name: command.what for name, command in COMMANDS.items() if name.startswith(family)}
    lines = "\n".join(f"  {name:<{width}}  {what}" for name, what in listed.items())
    if family:
        return (
            f"usage: accord {family} QUESTION [options]\n\n{lines}\n\n`accord {family} QUESTION --help` explains a "
            "question's options."
        )
    return (
        "accord aligns language models with human preferences, end to end.\n\nusage: accord COMMAND [options]\n\n"
        f"{lines}\n\n`accord COMMAND --help` explains a command's options; `accord demo` is the place to start."
    )


def split_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command that the words begin with, one word or two, and the words after it."""
    if len(words) > 1 and words[0] in FAMILIES and not words[1].startswith("-"):
        return f"{words[0]} {words[1]}", list(words[2:])
    return words[0], list(words[1:])


def _say_where(call: Call, result: Any) -> None:
    if COMMANDS[call.command].says_where:
        return
    if hasattr(result, "report"):
        print(f"{call.command}: the model is {result.folder / 'model'}, the report {result.report}")
    elif "out" in call.options:
        print(f"{call.command}: wrote {Path(call.options['out']) / COMMANDS[call.command].result}")


def _way_on(command: str) -> str:
    """How a command that was stopped goes on, where it can."""
    if command == "run" or command == "demo":
        return "; the same command goes on with the stage it was in"
    if command in COMMANDS and COMMANDS[command].goes_on:
        return "; the same command goes on"
    if command in COMMANDS and "resume" in options_of(target_of(command)):
        return "; the run goes on with the same command and --resume"
    return ""


if __name__ == "__main__":
    sys.exit(main())
