"""The options of `member` for what a member may do."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from proxy.cli.common import UsageError, option
from proxy.members.member import DirectoryError, LimitFields, MemberFields, validated

#: The word that removes a limit.
NONE = "none"

_MAXIMUM = "The maximum {}; none removes the limit."

#: The options for what a member may do, by their names in `MemberFields`.
LIMITS: dict[str, Any] = {
    "role": Annotated[Literal["user", "admin"] | None, option("user|admin", "The role.")],
    "weight": Annotated[str | None, option("NUMBER", "The share of turns. The default is 1.")],
    **{
        name: Annotated[str | None, option("N", _MAXIMUM.format(what))]
        for name, what in {
            "max_queued": "number of waiting jobs",
            "max_running": "number of running jobs",
            "jobs_per_day": "number of jobs per day (UTC)",
            "upload_bytes_per_day": "bytes of uploads per day (UTC)",
            "stored_bytes": "bytes of user data and settings",
            "requests_per_second": "number of requests per second",
        }.items()
    },
    **{
        f"{kind}credits_per_{period}": Annotated[
            str | None,
            option(
                "CREDITS",
                f"The {word} budget of a {period} (UTC) in credits; none uses the setting.",
            ),
        ]
        for kind, word in (("", "hard"), ("soft_", "soft"))
        for period in ("day", "month")
    },
    "denied_classes": Annotated[
        list[str] | None,
        option(
            "CLASS",
            "A node class that workflows must not contain. Can be repeated; none allows all.",
            "--deny-class",
        ),
    ],
    "deny_partner_nodes": Annotated[
        bool | None,
        typer.Option(
            "--deny-partner-nodes/--allow-partner-nodes",
            help="Refuse or allow partner nodes, which cost credits.",
            show_default=False,
        ),
    ],
    "client_parallelism": Annotated[
        Literal["auto", "one", "many", "none"] | None,
        option("auto|one|many", "How many jobs of one client run at once; none uses the setting."),
    ],
    "account": Annotated[
        str | None,
        option("NAME", "The account that gets the jobs of the member first; none removes it."),
    ],
    "identities": Annotated[
        list[str] | None,
        option(
            "IDENTITY",
            "An identity that signs in as the member, such as `header NAME` for a reverse proxy. "
            "Can be repeated; none removes all.",
            "--identity",
        ),
    ],
}

#: Names on the command line that differ.
_OPTIONS = {"identities": "identity", "denied_classes": "deny_class"}
#: What the values of options must be, where it is not in the help.
_RULES = {
    "weight": "a number from 0.01 to 1000",
    **dict.fromkeys(
        ("max_queued", "max_running", "jobs_per_day", "upload_bytes_per_day", "stored_bytes"),
        "a whole number of at least 0, or none",
    ),
    "requests_per_second": "a number above 0, or none",
    **dict.fromkeys(
        (name for name in LIMITS if "credits" in name), "a number of at least 0, or none"
    ),
    "denied_classes": "the name of a node class, or none",
    "identities": "the issuer and the name there, such as 'header anna', or none",
}


def limits_of(options: dict[str, Any]) -> dict[str, Any]:
    """Take what a member may do out of the options, as `MemberFields` has it."""
    values = {name: options.pop(name) for name in LIMITS if name in options}
    values = {
        name: None if value == NONE else [] if value == [NONE] else value
        for name, value in values.items()
    }
    own = ("role", "weight", "client_parallelism", "account", "identities")
    chosen: dict[str, Any] = {name: values.pop(name) for name in own if name in values}
    for fields, kind in ((chosen, MemberFields), (values, LimitFields)):
        for name, value in fields.items():
            _check_option(name, value, kind)
    return {**chosen, **({"limits": values} if values else {})}


def _check_option(name: str, value: object, kind: type[Any]) -> None:
    """Check the value of one option, so that an error names it. Raises `UsageError`."""
    try:
        validated({name: value}, kind, strict=False)
    except DirectoryError as error:
        if (rule := _RULES.get(name)) is None:
            raise UsageError(str(error)) from None
        shown = NONE if value is None else ", ".join(value) if isinstance(value, list) else value
        raise UsageError(
            f"--{_OPTIONS.get(name, name).replace('_', '-')} is '{shown}', but must be {rule}."
        ) from None
