"""The observer of the jobs of an account."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from proxy.sharing.loop_turns import Driver, new_driver
from proxy.translate.frames import CloudFrame
from proxy.translate.snapshots import Snapshot


def _ignore(*_: object) -> None:
    """Do nothing."""


class Observer(Struct, frozen=True):
    """Functions that are called with what happens to the jobs of an account. They must not block.

    `on_event(type, data)` gets an event in the form of ComfyUI, with the id on the cloud as its
    `prompt_id`; `on_frame` a picture or text; `on_snapshot` a job at one moment. `on_up()` says
    that events come (again), `on_down()` that some may be missed; `due()` returns whether events
    should come. What the account sends is taken in steps of the `driver`.
    """

    on_event: Callable[[str, dict[str, Any]], None] = _ignore
    on_frame: Callable[[CloudFrame], None] = _ignore
    on_snapshot: Callable[[Snapshot], None] = _ignore
    on_up: Callable[[], None] = _ignore
    on_down: Callable[[], None] = _ignore
    due: Callable[[], bool] = lambda: False
    driver: Driver = field(default_factory=new_driver)
