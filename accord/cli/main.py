"""`accord`: the commands, their help, and how a command ends.

Exit status: 0 on success, 2 for what the user can fix (input, files, memory), 3 for a run that stopped itself, 130
after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 1 for an internal error. A command's module is imported when the
command is called, and its help needs no torch.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accord.cli.call import Call, bind, help_of, read_words, target_of
from accord.cli.options import options_of
from accord.cli.ranks import final_message, in_team, is_rank
from accord.cli.table import COMMANDS, FAMILIES, SECTIONS
from accord.console import error_text, legible, without_secrets
from accord.errors import DEBUG, InputError, TrainingStopped, UsersFault, ran_out_of_memory
from accord.files import NO_ROOM, system_error
from accord.interrupts import Interrupted, interruptible


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command given by the arguments (default: those of the process); returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = split_command(words) if words else ("", [])
    with reporting_errors(command) as end:
        if not words or words[0] in ("-h", "--help", "help"):
            print(overview())
        elif words[0] == "--version":
            from accord import __version__

            print(f"accord {__version__}")
        elif (command in FAMILIES and not rest) or not {"-h", "--help"}.isdisjoint(rest):
            print(overview(command) if command in FAMILIES else help_of(command, briefly="--help" not in rest))
        else:
            call = bind(command, read_words(command, rest))
            with in_team(command):
                with call.context():
                    result = call.function(**call.arguments)
                _say_where(call, result)
    return end.status


class End:
    """The exit status of a command."""

    status = 0


@contextmanager
def reporting_errors(command: str = "") -> Iterator[End]:
    """Run a command in the block; afterwards its exit status is set, and any error has been reported in a sentence."""
    end = End()
    try:
        with interruptible(is_shared=is_rank()):
            yield end
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        end.status = 141
    except KeyboardInterrupt as error:
        by = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        sentence, end.status = final_message(error, f"{by}{_how_to_continue(command)}.", by.status)
        if sentence:
            print(f"accord: {sentence}", file=sys.stderr)
    except Exception as error:
        end.status = _report_error(error, command)


def _report_error(error: Exception, command: str) -> int:
    """Report an error in one sentence, with a traceback if DEBUG is set; returns the exit status."""
    where = ""
    if isinstance(error, TrainingStopped):
        sentence, code = str(error), 3
    elif isinstance(error, InputError):
        sentence, code = str(error), 2
    elif system := system_error(error):
        named = f"{system.filename}: " if system.filename is not None else ""
        remedy = _REMEDIES.get(system.errno or 0, "")
        if system.errno in NO_ROOM and command in COMMANDS and "resume" in options_of(target_of(command)):
            remedy += " with --resume"
        sentence, code = f"{named}{system.strerror or error_text(system)}{remedy}.", 2
    elif ran_out_of_memory(error):
        sentence, code = _not_enough_memory(error, command), 2
    elif isinstance(error, RecursionError):
        sentence, code = "something that was read is nested too deeply.", 2
    else:
        sentence, code = f"{type(error).__name__}: {error_text(error)}; {DEBUG}=1 before the command shows where.", 1
    sentence, code = final_message(error, sentence, code)
    if not sentence:
        return code
    message = legible(without_secrets(sentence)).strip().replace("\n", "↵")
    if len(message) > LONGEST_MESSAGE:  # a name from a file may be long; the end of the sentence says what to do
        message = f"{message[: LONGEST_MESSAGE - 300]} ... {message[-300:]}"
    print(f"accord: {message}", file=sys.stderr)
    if os.environ.get(DEBUG):
        where = "".join(traceback.format_exception(error))
    elif isinstance(error, UsersFault) and error.__cause__ is not None:
        where = _users_lines(error.__cause__)
    print(legible(without_secrets(where)), file=sys.stderr, end="")
    return code


SMALLER = ("tokens_per_pass", "n", "max_new_tokens", "batch_size", "max_length")
"""Options of which a lower number needs less memory."""


def _not_enough_memory(error: Exception, command: str) -> str:
    """The sentence for memory that ran out: how much was allocated for, and the command's options that need less."""
    allocated = re.search(r"ried to allocate [\d.]+ \w+", str(error))
    how_much = f" (it t{allocated[0]})" if allocated else f" ({error_text(error)})" * bool(str(error))
    names = options_of(target_of(command)) if command in COMMANDS else {}
    lower = " or ".join(f"--{name.replace('_', '-')}" for name in SMALLER if name in names)
    remedy = f"lower {lower}" if lower else "ask for less at once"
    if "memory" in names and "lora_rank" in names:
        remedy += ", or give --memory and how much there is, such as --memory 24GB"
    return f"there is not enough memory{how_much}; {remedy}."


LONGEST_MESSAGE = 3000
"""The most characters of an error message."""

_REMEDIES = {
    errno.ENOSPC: "; make room, and give the command again",
    errno.EDQUOT: "; make room, and give the command again",
    errno.EFBIG: "; raise the limit of file sizes (ulimit -f), and give the command again",
    errno.EROFS: "; name a place that can be written to",
    errno.EACCES: "; name a place that can be written to, or read",
    errno.ENAMETOOLONG: "; give a shorter name",
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
}
"""What to do about errors of the operating system, added to their messages."""


def _users_lines(error: BaseException) -> str:
    """The last three frames of an exception in the user's own code, without accord's."""
    return "".join(traceback.format_tb(error.__traceback__ and error.__traceback__.tb_next)[-3:])


def overview(family: str = "") -> str:
    """The commands under their headings, one per line; of a family such as `evaluate`, only its own."""
    width = max(map(len, COMMANDS))
    sections = []
    for heading, commands in SECTIONS.items():
        lines = [f"  {name:<{width}}  {command.what}" for name, command in commands.items() if name.startswith(family)]
        sections += ["\n".join(lines if family else [f"{heading}:", *lines])] if lines else []
    called = f"accord {family} QUESTION" if family else "accord COMMAND"
    end = f"`{called} -h` shows the options that matter most, `{called} --help` all of them."
    if family:
        return "\n\n".join([f"usage: {called} [options]", *sections, end])
    about = "accord aligns language models with human preferences, end to end."
    return "\n\n".join([about, f"usage: {called} [options]", *sections, f"{end}\n`accord demo` is the place to start."])


def split_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command, of one word or two, at the start of the arguments, and the arguments after it."""
    if len(words) > 1 and words[0] in FAMILIES and not words[1].startswith("-"):
        return f"{words[0]} {words[1]}", list(words[2:])
    return words[0], list(words[1:])


def _say_where(call: Call, result: Any) -> None:
    if COMMANDS[call.command].says_where:
        return
    if hasattr(result, "report"):
        print(legible(f"{call.command}: the model is {result.folder / 'model'}, the report {result.report}"))
    elif "out" in call.options:
        print(legible(f"{call.command}: wrote {Path(call.options['out']) / COMMANDS[call.command].result}"))


def _how_to_continue(command: str) -> str:
    """How to continue a command that was stopped, where that is possible; added to the message."""
    if command == "run" or command == "demo":
        return "; the same command goes on with the stage it was in"
    if command in COMMANDS and COMMANDS[command].continues:
        return "; the same command goes on"
    if command in COMMANDS and "resume" in options_of(target_of(command)):
        return "; the run goes on with the same command and --resume"
    return ""


if __name__ == "__main__":
    sys.exit(main())
