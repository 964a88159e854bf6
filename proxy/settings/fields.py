"""How a setting is declared, and what its option, its variable and the documents say of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args

from msgspec import Struct
from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsConfigDict
from yarl import URL

#: How the variables begin, and those of the cloud: an unknown one of either kind is a mistake.
PREFIX = "COMFY_PROXY_"
CLOUD_PREFIX = "COMFY_CLOUD_"
#: What an API key looks like, for `expects`.
KEY_FORM = "one line of printable characters without spaces"
#: What an amount of credits looks like, for the same, and the largest one.
AMOUNT_FORM = "a number of credits from 0"
MAX_AMOUNT = 1e9
#: The largest number that is not whole: one of more is no exact time or size.
_MAX_FLOAT = 2**53


class ConfigError(Exception):
    """Raised when the settings cannot be used. The text is one sentence that says what to do."""


def setting(
    default: Any,
    group: str,
    description: str,
    *,
    metavar: str = "",
    expects: str = "",
    prefix: str = PREFIX,
    in_file: bool = True,
    for_once: bool = False,
    shown: str | None = None,
    example: object = None,
    **more: Any,
) -> Any:
    """Declare a field of a table of settings; `...` is the default of one that must be set.

    `expects` ends the sentence "it must be …"; where the type and its bounds say it, it is left
    out. `shown` stands for a default that differs between machines, `example` for one that is none.
    What is `for_once`, for one start, is an option of `serve` alone. A secret (`SecretStr`) has no
    option. `more` goes to pydantic's `Field`.
    """
    if "default_factory" not in more:
        more["default"] = default
    about: dict[str, Any] = {
        "group": group,
        "metavar": metavar,
        "expects": expects,
        "prefix": prefix,
        "in_file": in_file,
        "for_once": for_once,
        "shown": shown,
    }
    return Field(description=description, examples=[example], json_schema_extra=about, **more)


class SettingsTable(BaseModel):
    """A table of settings: its fields are declared by `setting`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        defer_build=True,
        validate_default=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object, info: ValidationInfo) -> object:
        """Return a word in small letters where only some are allowed; no flag is a number."""
        kinds = _kinds(cls.model_fields[info.field_name or ""])
        if isinstance(value, bool) and bool not in kinds:
            raise ValueError("a flag")
        words = all(isinstance(kind, str) for kind in kinds)
        return value.lower() if words and isinstance(value, str) else value

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: object) -> object:
        """Return a value, unless it is too large a number."""
        if isinstance(value, float) and abs(value) > _MAX_FLOAT:
            raise ValueError("too large")
        return value


class Setting(Struct, frozen=True):
    """A row of a table of settings, as options, variables and documents need it."""

    name: str
    model: type[BaseModel]
    help: str
    default: object
    example: object
    is_flag: bool
    secret: bool
    group: str
    metavar: str
    expects: str
    prefix: str
    in_file: bool
    for_once: bool
    shown: str | None

    @property
    def is_required(self) -> bool:
        """Whether it must be set."""
        return self.model.model_fields[self.name].is_required()

    @property
    def option(self) -> str | None:
        """Return the option; a secret has none."""
        return None if self.secret else "--" + self.name.replace("_", "-")

    @property
    def declaration(self) -> str:
        """The option as the parser of commands declares it: a flag is `--on/--no-on`. Empty for a
        secret."""
        option = self.option or ""
        return f"{option}/--no-{option[2:]}" if self.is_flag and not self.for_once else option

    @property
    def environment(self) -> str:
        """Return the name of the variable."""
        return self.prefix + self.name.upper()

    @property
    def key(self) -> str | None:
        """Return the key of the TOML file; some settings have none."""
        return self.name if self.in_file else None

    def in_environment(self, variables: Mapping[str, str]) -> str | None:
        """Return the value of its variable, `None` if that is empty or not set."""
        return variables.get(self.environment) or None

    def complaint(self, where: str, value: object) -> str:
        """Return a sentence about a value that the setting, read from `where`, cannot have."""
        text = repr(value)
        short = text if len(text) <= 80 else f"{text[:79]}…"
        return f"{where}{'' if self.secret else f' is {short}, but'} must be {self.expects}."


@cache
def rows_of(model: type[BaseModel]) -> tuple[Setting, ...]:
    """Return the rows of a table of settings, in the order of the model's fields."""
    rows = []
    for name, column in model.model_fields.items():
        if column.json_schema_extra is None:
            continue
        about = cast(dict[str, Any], column.json_schema_extra)
        kinds = _kinds(column)
        rows.append(
            Setting(
                name=name,
                model=model,
                help=column.description or "",
                default=None if about["shown"] or column.is_required() else column.default,
                example=(column.examples or [None])[0],
                is_flag=kinds == [bool],
                secret=SecretStr in kinds,
                **{
                    **about,
                    "metavar": about["metavar"] or _metavar(kinds),
                    "expects": about["expects"] or _expected(kinds, column, about["metavar"]),
                },
            )
        )
    return tuple(rows)


def _kinds(column: FieldInfo) -> list[Any]:
    """Return the types of a field, or the words of its Literal, without `None`."""
    hint: Any = column.annotation
    kinds = [_plain_type(part) for part in get_args(hint) or (hint,) if part is not NoneType]
    return [word for part in kinds for word in get_args(part) or (part,)]


def _plain_type(hint: Any) -> Any:
    """Return a type without what is annotated to it."""
    return hint.__origin__ if hasattr(hint, "__metadata__") else hint


def _metavar(kinds: list[Any]) -> str:
    return "FILE" if Path in kinds else "URL" if URL in kinds else "TEXT"


def _expected(kinds: list[Any], column: FieldInfo, metavar: str) -> str:
    """Return what a value must be, as its type and its bounds say."""
    if all(isinstance(kind, str) for kind in kinds):  # of a Literal
        return " or ".join(kinds) if len(kinds) == 2 else f"one of {', '.join(kinds)}"
    above, low, high = (_bound(column, name) for name in ("gt", "ge", "le"))
    span = f" from {low}" if low is not None else ""
    span = f" greater than {above}," if above is not None else span
    span += f" {'to' if above is None else 'at most'} {high}" if high is not None else ""
    if bool in kinds:
        return "true or false"
    if URL in kinds:
        return "an address such as https://cloud.comfy.org, without user, query or fragment"
    if Path in kinds:
        return "the path of a file that can be read"
    if str in kinds:
        return "a list of texts" if Ellipsis in kinds else "a text"
    if int in kinds:
        return f"a whole number{span}"
    return f"a number{' of seconds' if metavar == 'SECONDS' else ''}{span}"


def _bound(column: FieldInfo, name: str) -> object:
    return next((getattr(note, name) for note in column.metadata if hasattr(note, name)), None)
