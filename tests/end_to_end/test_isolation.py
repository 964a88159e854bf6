"""Three members do whatever they like, and none ever learns of another.

Every answer and every event is searched for what is another's: names, texts, tokens, job ids and
content hashes. Whatever is asked about another's things is asked about things that there are not
as well, and both answers have to be the same. At the end everybody's jobs have run undisturbed.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from strangers import CLIENT_ID, House, Job, Stranger, picture

TIMEOUT = 20.0

people = st.integers(0, 2)
others = st.integers(1, 2)

#: Names that everybody uses.
NAMES = ("common.png", "same.png")

LISTINGS = (
    "queue",
    "api/queue",
    "prompt",
    "history",
    "history?max_items=3",
    "api/jobs",
    "api/jobs?status=pending,in_progress",
    "api/history_v2",
    "api/user",
    "settings",
    "userdata?dir=",
    "userdata?dir=.&recurse=true&full_info=true",
    "v2/userdata",
    "internal/files/input",
    "internal/files/output",
    "internal/files/temp",
    "internal/logs",
    "internal/logs/raw",
    "internal/folder_paths",
    "object_info",
    "object_info/LoadImage",
    "object_info/LoadImageMask",
    "system_stats",
    "features",
    "proxy/api/jobs",
    "proxy/api/jobs?status=completed&q=a",
    "users",
    "metrics",
    "proxy/",
    "proxy/api/state",
    "proxy/api/usage",
    "proxy/api/audit",
    "proxy/api/members",
    "proxy/api/tokens",
    "readyz",
    "healthz",
    "api/assets",
    "api/assets?limit=500&sort=name",
    "api/assets?tags_any=input,output,temp,mine",
    "api/tags",
    "api/tags?include_zero=false&order=name_asc",
    "api/assets/tags/refine",
    "api/assets/seed/status",
)

#: Requests about a job by its id.
OF_JOBS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("GET", "history/{value}", {}),
    ("GET", "api/jobs/{value}", {}),
    ("GET", "api/job/{value}/status", {}),
    ("GET", "api/jobs/{value}/assets", {}),
    ("GET", "api/history_v2/{value}", {}),
    ("POST", "api/jobs/{value}/cancel", {}),
    ("POST", "api/jobs/cancel", {"json": {"job_ids": ["{value}"]}}),
    ("POST", "interrupt", {"json": {"prompt_id": "{value}"}}),
    ("POST", "queue", {"json": {"delete": ["{value}"]}}),
    ("POST", "history", {"json": {"delete": ["{value}"]}}),
)

LOAD = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{value}"}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
LOAD_OUTPUT = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{value} [output]"}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
HIDDEN = {"1": {"class_type": "PreviewAny", "inputs": {"source": {"deep": ["x", "{value}"]}}}}

#: Requests about a file by its name.
OF_FILES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("GET", "view", {"filename": "{value}", "type": "input"}),
    ("GET", "view", {"filename": "{value}", "type": "output"}),
    ("GET", "view", {"filename": "{value}", "type": "temp"}),
    ("HEAD", "view", {"filename": "{value}"}),
    ("GET", "view", {"filename": "{value} [input]", "preview": "webp;90"}),
    ("GET", "api/view", {"filename": "{value}", "subfolder": "", "type": "input"}),
    ("GET", "viewvideo", {"filename": "{value}", "type": "output"}),
    ("POST", "prompt", {"json": {"prompt": LOAD}}),
    ("POST", "prompt", {"json": {"prompt": LOAD_OUTPUT}}),
    ("POST", "prompt", {"json": {"prompt": LOAD, "client_id": CLIENT_ID}}),
)

#: Requests about an asset by its id.
OF_ASSETS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("GET", "api/assets/{value}", {}),
    ("PUT", "api/assets/{value}", {"json": {"name": "mine now"}}),
    ("DELETE", "api/assets/{value}", {}),
    ("GET", "api/assets/{value}/content", {}),
    ("HEAD", "api/assets/{value}/content", {}),
    ("POST", "api/assets/{value}/tags", {"json": {"tags": ["mine now"]}}),
    ("DELETE", "api/assets/{value}/tags", {"json": {"tags": ["mine"]}}),
    ("GET", "api/tasks/{value}", {}),
)

#: Requests about a content by its hash.
OF_CONTENTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("HEAD", "api/assets/hash/{value}", {}),
    ("GET", "api/assets", {"hash": "{value}"}),
    ("POST", "api/assets/from-hash", {"json": {"hash": "{value}"}}),
    ("GET", "view", {"filename": "{value}"}),
    ("GET", "view", {"filename": "{value} [output]", "preview": "webp;90"}),
    ("POST", "prompt", {"json": {"prompt": LOAD}}),
    ("POST", "prompt", {"json": {"prompt": LOAD_OUTPUT}}),
)

#: Requests about a content hash.
OF_HASHES = (*OF_FILES, ("POST", "prompt", {"json": {"prompt": HIDDEN}}))


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory() as folder, House(Path(folder)) as house:
        yield house


def graph(person: Stranger, kind: str, shade: int) -> dict[str, Any]:
    """A graph that has the member's marker wherever there is room for it."""
    mine = person.marker
    if kind == "text":
        return {
            f"{mine}.1": {
                "class_type": "PreviewAny",
                "inputs": {"source": f"{mine} says"},
                "_meta": {"title": mine},
            }
        }
    if kind == "wait":
        return {
            f"{mine}.1": {"class_type": "SimulatorWait", "inputs": {"seconds": 0.3, "value": mine}}
        }
    if kind == "raise":
        inputs = {"kind": "ValueError", "message": f"{mine} failed"}
        return {f"{mine}.1": {"class_type": "SimulatorRaise", "inputs": inputs}}
    if kind == "wrong":
        return {f"{mine}.1": {"class_type": f"No{mine}", "inputs": {}}}
    size = {"width": 8 + shade, "height": 8, "batch_size": 1, "color": shade}
    return {
        f"{mine}.1": {"class_type": "EmptyImage", "inputs": size},
        f"{mine}.2": {
            "class_type": "SaveImage" if kind == "save" else "PreviewImage",
            "inputs": {"images": [f"{mine}.1", 0]}
            | ({"filename_prefix": f"{mine}/picture"} if kind == "save" else {}),
        },
    }


def machine(house: House) -> type[RuleBasedStateMachine]:
    """The members' doings in a house."""

    class Members(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.three: list[Stranger] = []

        @initialize()
        def move_in(self) -> None:
            self.three = [house.move_in() for _ in range(3)]

        def pair(self, who: int, other: int) -> tuple[Stranger, Stranger]:
            return self.three[who], self.three[(who + other) % 3]

        # --- jobs ---------------------------------------------------------------------------

        @rule(
            who=people,
            other=others,
            kind=st.sampled_from(["text", "wait", "raise", "save", "preview", "wrong"]),
            shade=st.integers(0, 40),
            id_=st.sampled_from(["none", "new", "another's"]),
            fields=st.fixed_dictionaries(
                {}, optional={"client_id": st.just(CLIENT_ID), "front": st.booleans()}
            ),
        )
        def submit(
            self, who: int, other: int, kind: str, shade: int, id_: str, fields: dict[str, Any]
        ) -> None:
            person, stranger = self.pair(who, other)
            prompt_id = str(uuid.uuid4())
            if id_ == "another's":
                free = [job for job in stranger.jobs if job not in person.jobs]
                prompt_id = free[0] if free else prompt_id
            body = {
                **fields,
                **({} if id_ == "none" else {"prompt_id": prompt_id}),
                "prompt": graph(person, kind, shade),
                "extra_data": {"extra_pnginfo": {"workflow": {"mine": person.marker}}},
            }
            answer = house.ask(person, "POST", "prompt", json=body, told=prompt_id)
            if kind == "wrong":
                assert answer.status == 400
                return
            assert answer.status == 200, answer
            person.jobs[answer.parsed["prompt_id"]] = Job(fails=kind == "raise")

        @rule(who=people, what=st.sampled_from(["all", "one", "queue", "clear", "cancel"]))
        def stop(self, who: int, what: str) -> None:
            person = self.three[who]
            mine = list(person.jobs)[-1:]
            stopped = list(person.jobs) if what in ("all", "clear") else mine
            for job_id in stopped:
                person.jobs[job_id].left_alone = False
            path, body = {
                "all": ("interrupt", {}),
                "one": ("interrupt", {"prompt_id": mine[0] if mine else "none"}),
                "queue": ("queue", {"delete": mine}),
                "clear": ("queue", {"clear": True}),
                "cancel": ("api/jobs/cancel", {"job_ids": mine}),
            }[what]
            assert house.ask(person, "POST", path, json=body).status == 200

        @rule(who=people, clear=st.booleans())
        def forget(self, who: int, clear: bool) -> None:
            person = self.three[who]
            person.history_touched = True
            body = {"clear": True} if clear else {"delete": list(person.jobs)[:1]}
            assert house.ask(person, "POST", "history", json=body).status == 200

        @rule(who=people, other=others, which=st.sampled_from(OF_JOBS))
        def guess_a_job(self, who: int, other: int, which: tuple[str, str, Any]) -> None:
            person, stranger = self.pair(who, other)
            for job in [job for job in stranger.jobs if job not in person.jobs][-2:]:
                house.guess(person, which[0], which[1], job, **which[2])

        # --- files --------------------------------------------------------------------------

        @rule(
            who=people,
            name=st.sampled_from([*NAMES, "own"]),
            shade=st.integers(0, 255),
            same=st.booleans(),
        )
        def upload(self, who: int, name: str, shade: int, same: bool) -> None:
            person = self.three[who]
            own = sum(map(ord, person.marker)) % 256
            data = picture((7, 7, 7) if same else (shade, own, who))
            name = f"{person.marker}.png" if name == "own" else name
            fields = {"image": (name, data), "overwrite": "true"}
            answer = house.ask(person, "POST", "upload/image", data=fields)
            assert answer.status == 200, answer
            assert answer.parsed["name"] == name
            person.files["input", name] = data

        @rule(who=people)
        def look_at_own_files(self, who: int) -> None:
            person = self.three[who]
            for (type_, name), data in person.files.items():
                answer = house.ask(person, "GET", "view", filename=name, type=type_)
                assert answer.status == 200
                assert answer.body == data
            for name in NAMES:
                if ("input", name) not in person.files:
                    answer = house.ask(person, "GET", "view", filename=name, type="input")
                    assert answer.status == 404

        @rule(who=people)
        def use_own_files(self, who: int) -> None:
            person = self.three[who]
            for _, name in list(person.files)[-1:]:
                graph = {
                    "1": {"class_type": "LoadImage", "inputs": {"image": name}},
                    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
                }
                answer = house.ask(person, "POST", "prompt", json={"prompt": graph})
                assert answer.status == 200, answer
                person.jobs[answer.parsed["prompt_id"]] = Job()

        @rule(who=people, other=others, which=st.sampled_from(OF_FILES))
        def guess_a_file(self, who: int, other: int, which: tuple[str, str, Any]) -> None:
            person, stranger = self.pair(who, other)
            house.guess(person, which[0], which[1], f"{stranger.marker}.png", **which[2])
            house.guess(
                person, which[0], which[1], f"{stranger.marker}/picture_00001_.png", **which[2]
            )

        @rule(who=people, other=others, which=st.sampled_from(OF_HASHES))
        def guess_a_hash(self, who: int, other: int, which: tuple[str, str, Any]) -> None:
            person, stranger = self.pair(who, other)
            for hash_ in sorted(house.hashes(stranger) - house.hashes(person))[:2]:
                house.guess(person, which[0], which[1], hash_, **which[2])

        # --- assets -------------------------------------------------------------------------

        @rule(who=people, shade=st.integers(0, 255), same=st.booleans())
        def put_an_asset(self, who: int, shade: int, same: bool) -> None:
            person = self.three[who]
            own = sum(map(ord, person.marker)) % 256
            data = picture((7, 7, 7) if same else (shade, own, who))
            form = {
                "file": (f"{person.marker}.png", data),
                "tags": f"input,mine,{person.marker}",
                "user_metadata": f'{{"mine": "{person.marker}"}}',
            }
            answer = house.ask(person, "POST", "api/assets", data=form)
            assert answer.status == 201, answer
            person.assets[answer.parsed["id"]] = data

        @rule(who=people)
        def change_own_assets(self, who: int) -> None:
            person = self.three[who]
            for id_ in list(person.assets)[-1:]:
                path, name = f"api/assets/{id_}", f"{person.marker} again"
                assert house.ask(person, "PUT", path, json={"name": name}).parsed["name"] == name
                house.ask(person, "POST", f"{path}/tags", json={"tags": ["more"]})

        @rule(who=people)
        def delete_an_asset(self, who: int) -> None:
            person = self.three[who]
            for id_ in list(person.assets)[:1]:
                del person.assets[id_]
                assert house.ask(person, "DELETE", f"api/assets/{id_}").status == 204

        @rule(who=people)
        def look_at_own_assets(self, who: int) -> None:
            person = self.three[who]
            for id_, data in person.assets.items():
                assert house.ask(person, "GET", f"api/assets/{id_}/content").body == data

        @rule(who=people, other=others)
        def export_assets(self, who: int, other: int) -> None:
            person, stranger = self.pair(who, other)
            mine, theirs = list(person.assets)[-2:], list(stranger.assets)[-1:]
            if not mine or not theirs:
                return
            body = {"asset_ids": [*mine, *theirs]}
            begun = house.ask(person, "POST", "api/assets/export", json=body).parsed["task_id"]
            until = time.monotonic() + TIMEOUT
            while True:
                path = f"api/tasks/{begun}"
                task = house.ask(person, "GET", path, told=theirs[0]).parsed
                if task["status"] == "completed":
                    break
                assert time.monotonic() < until, task
                time.sleep(0.02)
            (failed,) = task["result"]["failed_assets"]
            assert failed == {"asset_id": theirs[0], "error": "not_found"}
            person.exports[begun] = task["result"]["export_name"]

        @rule(who=people, other=others, which=st.sampled_from(OF_ASSETS))
        def guess_an_asset(self, who: int, other: int, which: tuple[str, str, Any]) -> None:
            person, stranger = self.pair(who, other)
            for asset_id in sorted(house.asset_ids(stranger))[:2]:
                house.guess(person, which[0], which[1], asset_id, **which[2])
                for mine in list(person.assets)[-1:]:
                    body = {"preview_id": "{value}"}
                    house.guess(person, "PUT", f"api/assets/{mine}", asset_id, json=body)

        @rule(who=people, other=others)
        def guess_an_archive(self, who: int, other: int) -> None:
            person, stranger = self.pair(who, other)
            for name in list(stranger.exports.values())[-1:]:
                refused = house.ask(person, "GET", f"api/assets/exports/{name}", told=name)
                assert refused.status == 404
                query = {"filename": name, "type": "temp", "subfolder": "exports"}
                assert house.ask(person, "GET", "view", **query).status == 404

        @rule(who=people, other=others, which=st.sampled_from(OF_CONTENTS))
        def guess_a_content(self, who: int, other: int, which: tuple[str, str, Any]) -> None:
            person, stranger = self.pair(who, other)
            foreign = house.hashes(stranger) - house.hashes(person)
            for file_id in sorted(foreign)[:2]:
                digits = file_id.partition(".")[0]
                house.guess(person, which[0], which[1], f"blake3:{digits}", **which[2])

        # --- settings and user data ---------------------------------------------------------

        @rule(who=people, key=st.sampled_from(["Comfy.Theme", "own"]))
        def set_something(self, who: int, key: str) -> None:
            person = self.three[who]
            key = f"{person.marker}.key" if key == "own" else key
            person.settings[key] = f"{person.marker} likes it"
            answer = house.ask(person, "POST", f"settings/{key}", json=person.settings[key])
            assert answer.status == 200

        @rule(who=people, other=others)
        def read_settings(self, who: int, other: int) -> None:
            person, stranger = self.pair(who, other)
            assert house.ask(person, "GET", "settings").parsed == person.settings
            house.guess(person, "GET", "settings/{value}", f"{stranger.marker}.key")

        @rule(who=people, name=st.sampled_from(["flow.json", "own"]))
        def keep_something(self, who: int, name: str) -> None:
            person = self.three[who]
            name = f"{person.marker}.json" if name == "own" else name
            person.userdata[name] = person.marker.encode()
            answer = house.ask(person, "POST", f"userdata/{name}", data=person.userdata[name])
            assert answer.status == 200

        @rule(who=people)
        def throw_something_away(self, who: int) -> None:
            person = self.three[who]
            for name in list(person.userdata)[:1]:
                del person.userdata[name]
                assert house.ask(person, "DELETE", f"userdata/{name}").status == 204

        @rule(who=people, other=others, name=st.sampled_from(["flow.json", "own"]))
        def read_what_is_kept(self, who: int, other: int, name: str) -> None:
            person, stranger = self.pair(who, other)
            for mine, data in person.userdata.items():
                assert house.ask(person, "GET", f"userdata/{mine}").body == data
            if "flow.json" not in person.userdata:
                assert house.ask(person, "GET", "userdata/flow.json").status == 404
            theirs = f"{stranger.marker}.json"
            house.guess(person, "GET", "userdata/{value}", theirs)
            house.guess(person, "DELETE", "userdata/{value}", theirs)
            house.guess(person, "POST", "userdata/{value}/move/x.json", theirs)

        # --- looking around -----------------------------------------------------------------

        @rule(who=people, path=st.sampled_from(LISTINGS))
        def look_around(self, who: int, path: str) -> None:
            house.ask(self.three[who], "GET", path)

        @rule(who=people)
        def watch_the_dashboard(self, who: int) -> None:
            house.watch(self.three[who], "proxy/api/events")

        @rule(who=people, other=others)
        def meddle_with_a_member(self, who: int, other: int) -> None:
            person, stranger = self.pair(who, other)
            path, cancel = "proxy/api/members/{value}", "proxy/api/jobs/cancel"
            house.guess(person, "PATCH", path, stranger.name, json={"role": "admin"})
            house.guess(person, "DELETE", path, stranger.name)
            for page in ("jobs", "members", "tokens"):
                house.guess(person, "GET", f"proxy/api/{page}?member={{value}}", stranger.name)
            for job in [job for job in stranger.jobs if job not in person.jobs][-1:]:
                for what in ("job", "thumbnail"):
                    house.guess(person, "GET", f"proxy/api/{what}?id={{value}}", job)
                mine, theirs = (
                    {"member": name, "id": job} for name in (person.name, stranger.name)
                )
                house.guess(person, "POST", cancel, job, json={**mine, "id": "{value}"})
                house.guess(
                    person, "POST", cancel, stranger.name, json={**theirs, "member": "{value}"}
                )

        @rule(who=people, on=st.booleans())
        def follow_the_log(self, who: int, on: bool) -> None:
            body = {"clientId": CLIENT_ID, "enabled": on}
            answer = house.ask(self.three[who], "PATCH", "internal/logs/subscribe", json=body)
            assert answer.status == 200

        @rule(who=people)
        def listen(self, who: int) -> None:
            house.listen(self.three[who])

        def teardown(self) -> None:
            try:
                for person in self.three:
                    at_rest(house, person)
                    has_its_own(house, person)
                    house.listen(person)
            finally:
                for person in self.three:
                    house.move_out(person)

    return Members


def at_rest(house: House, person: Stranger) -> None:
    """Wait until nothing of the member's waits or runs."""
    until = time.monotonic() + TIMEOUT
    while True:
        queue = house.ask(person, "GET", "queue").parsed
        if not queue["queue_running"] and not queue["queue_pending"]:
            return
        assert time.monotonic() < until, queue
        time.sleep(0.05)


def has_its_own(house: House, person: Stranger) -> None:
    """The history is the member's, and whole: nobody else has stopped or deleted anything."""
    history = house.ask(person, "GET", "history").parsed
    assert set(history) <= set(person.jobs)
    for prompt_id, job in person.jobs.items():
        if prompt_id in history:
            ended = history[prompt_id]["status"]["status_str"]
            assert not job.left_alone or ended == ("error" if job.fails else "success")
        else:
            assert not job.left_alone or person.history_touched


@pytest.mark.timeout(180)
def test_no_member_learns_of_another(house: House) -> None:
    doings: Callable[[], RuleBasedStateMachine] = machine(house)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        doings,
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
