"""The command line of experiments and studies: `--config=configs/NAME.py`, `--config.field=value`, and `--help`."""

import ast
import contextlib
import io
import pathlib
import sys
import textwrap
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence

from absl import app, flags
from ml_collections import config_flags

from embed.training.config_check import FIELDS, ConfigError, check_config
from embed.training.errors import report_user_errors

CONFIGS = pathlib.Path("configs")  # in the working directory, as the default of --config
BASE = CONFIGS / "base.py"  # every field of a config, its default, and a comment that says what it is
HELP = ("-h", "-help", "--help", "--helpshort", "--helpfull")


def define_config(default: str) -> flags.FlagHolder:
    """Define the flag `--config`, a file whose fields are flags too. Ends the program where it cannot be used."""
    with report_user_errors(), config_errors():
        return config_flags.DEFINE_config_file("config", default, help_string="the file of a config")


def run_with_flags(main: Callable[[list[str]], None]) -> None:
    """Parse the flags that a program has defined, `--config` among them, and call `main(arguments)`.

    With --help, print the program's docstring, its flags and the config's fields instead. A user's error ends the
    program with one line.
    """
    with report_user_errors():
        if set(HELP) & set(sys.argv[1:]):
            print(format_help(sys.modules["__main__"].__doc__ or ""))
        else:
            app.run(main, flags_parser=parse_flags)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Return the arguments that are not flags. Raises ConfigError for a flag or a config that cannot be used."""
    with config_errors():
        arguments = flags.FLAGS(argv)
        check_config(flags.FLAGS["config"].value)
    return arguments


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Raise ConfigError for what absl and ml_collections report about a command line."""
    try:
        yield
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    except AttributeError as error:
        if not isinstance(error.args[0], KeyError):  # ml_collections raises this one where a config lacks a field
            raise
        reason = " ".join(error.args[0].args[0].split())
        raise ConfigError(f"--config has no field {reason}; its fields: {', '.join(FIELDS)}") from error
    except OSError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"--config: {reason}; choices: {list_configs()}") from error


def list_configs() -> str:
    """Return the files of configs by comma, for a message."""
    return ", ".join(sorted(map(str, CONFIGS.glob("[!_]*.py")))) or f"none in {CONFIGS}/ of the working directory"


def define_flags(defaults: Mapping[str, str], comments: Mapping[str, str]) -> dict[str, flags.FlagHolder]:
    """Define a string flag for each name of `defaults`, explained by its comment."""
    return {name: flags.DEFINE_string(name, default, comments[name]) for name, default in defaults.items()}


def format_help(docstring: str) -> str:
    """Return what `--help` prints: the program's docstring, its own flags, and the config's fields."""
    by_module = flags.FLAGS.flags_by_module_dict()
    script_flags = [flag for module in ("__main__", sys.argv[0], __name__) for flag in by_module.get(module, [])]
    lines = [
        (f"--{flag.name}={flag.default_as_str or repr('')}", flag.help)
        for flag in script_flags
        if flag.name != "config"
    ]
    lines += [("--config=FILE", f"one of {list_configs()}; its fields are flags too:")]
    lines += [(f"--config.{name}={value}", comment) for name, value, comment in config_fields(BASE)]
    width = max(len(flag) for flag, _ in lines) + 4
    rows = [
        textwrap.fill(comment, 116, initial_indent=f"  {flag}".ljust(width), subsequent_indent=" " * width)
        for flag, comment in lines
    ]
    return "\n".join([docstring.strip(), "", "flags:", *rows])


def config_fields(path: pathlib.Path) -> list[tuple[str, str, str]]:
    """Return (name, default, comment) of each field that a config's file creates."""
    source = path.read_text(encoding="utf-8")
    comments = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.keywords]
    return [
        (keyword.arg, ast.unparse(keyword.value), comments.get(keyword.value.lineno, ""))
        for call in calls
        for keyword in call.keywords
        if keyword.arg
    ]
