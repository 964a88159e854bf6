"""How a setting is declared, and what its option, its variable and the documents say of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import NoneType
from typing import Any, ClassVar, NamedTuple, cast, get_args

from msgspec import Struct
from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsConfigDict

#: How the variables begin, and those of the cloud: an unknown one of either kind is a mistake.
PREFIX = "COMFY_PROXY_"
CLOUD_PREFIX = "COMFY_CLOUD_"
#: The largest number that is not whole: one of more is no exact time or size.
_MAX_FLOAT = 2**53


class ConfigError(Exception):
    """Raised when the settings cannot be used. The text is one sentence that says what to do."""


class ValueForm(NamedTuple):
    """What the values of a type look like: their placeholder in the help, and the end of the
    sentence "it must be …". Each is empty where a setting has its own."""

    metavar: str = ""
    expects: str = ""


def setting(
    default: Any,
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

    `metavar` and `expects` are left out where the type says them (`ValueForm`), or its bounds.
    `shown` stands for a default that differs between machines, `example` for one that is none. What
    is `for_once`, for one start, is an option of `serve` alone. A secret (`SecretStr`) has no
    option. `more` goes to pydantic's `Field`.
    """
    if "default_factory" not in more:
        more["default"] = default
    about: dict[str, Any] = {
        "metavar": metavar,
        "expects": expects,
        "prefix": prefix,
        "in_file": in_file,
        "for_once": for_once,
        "shown": shown,
    }
    return Field(description=description, examples=[example], json_schema_extra=about, **more)


class SettingsTable(BaseModel):
    """A table of settings: its fields are declared by `setting`. `group` is their heading."""

    group: ClassVar[str]

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
        kinds, _ = _taken_apart(cls.model_fields[info.field_name or ""])
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
    model: type[SettingsTable]
    help: str
    default: object
    example: object
    is_flag: bool
    secret: bool
    metavar: str
    expects: str
    prefix: str
    in_file: bool
    for_once: bool
    shown: str | None

    @property
    def group(self) -> str:
        """The heading under which it stands in the documents."""
        return self.model.group

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
def rows_of(model: type[SettingsTable]) -> tuple[Setting, ...]:
    """Return the rows of a table of settings, in the order of the model's fields."""
    return tuple(
        _row(model, name, field)
        for name, field in model.model_fields.items()
        if field.json_schema_extra is not None  # an array of tables has none
    )


def _row(model: type[SettingsTable], name: str, field: FieldInfo) -> Setting:
    about = cast(dict[str, Any], field.json_schema_extra)
    kinds, notes = _taken_apart(field)
    form = next((note for note in notes if isinstance(note, ValueForm)), ValueForm())
    written = {
        "metavar": about["metavar"] or form.metavar or "TEXT",
        "expects": about["expects"] or f"{form.expects or _noun(kinds)}{_span(notes)}",
    }
    return Setting(
        name=name,
        model=model,
        help=field.description or "",
        default=None if about["shown"] or field.is_required() else field.default,
        example=(field.examples or [None])[0],
        is_flag=kinds == [bool],
        secret=SecretStr in kinds,
        **{**about, **written},
    )


def _taken_apart(field: FieldInfo) -> tuple[list[Any], list[Any]]:
    """Return the types of a field, or the words of its Literal, without `None`, and what is
    annotated to them."""
    kinds: list[Any] = []
    notes = [*field.metadata]
    for part in get_args(field.annotation) or (field.annotation,):
        notes += getattr(part, "__metadata__", ())
        plain = part.__origin__ if hasattr(part, "__metadata__") else part
        kinds += get_args(plain) or (plain,)
    return [kind for kind in kinds if kind is not NoneType], notes


def _noun(kinds: list[Any]) -> str:
    """Return what a value must be, as its type says."""
    if all(isinstance(kind, str) for kind in kinds):  # the words of a Literal
        return " or ".join(kinds) if len(kinds) == 2 else f"one of {', '.join(kinds)}"
    if bool in kinds:
        return "true or false"
    if str in kinds:
        return "a list of texts" if Ellipsis in kinds else "a text"
    return "a whole number" if int in kinds else "a number"


def _span(notes: list[Any]) -> str:
    """Return the bounds of a number, with a space before them."""
    above, low, high = (
        next((getattr(note, name) for note in notes if hasattr(note, name)), None)
        for name in ("gt", "ge", "le")
    )
    span = f" from {low}" if low is not None else ""
    span = f" greater than {above}," if above is not None else span
    return f"{span} {'to' if above is None else 'at most'} {high}" if high is not None else span
