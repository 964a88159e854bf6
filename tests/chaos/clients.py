"""Clients that live through chaos: they reconnect, ask again, and write down what they hear."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import random
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
from chaos.accounting import Submission
from PIL import Image
from yarl import URL

from proxy.simulator.nodes import NodeClass
from proxy.simulator.nodes.node_class import Context, Output

_ENDS = ("execution_success", "execution_error", "execution_interrupted")
_PAUSE = 0.1
#: Seconds in which a socket that is open is told what has ended.
_HEARD_WITHIN = 15.0
#: Seconds in which a picture is shown, also if the proxy has to start before.
_SHOWN_WITHIN = 60.0
#: The chance that a job is interrupted.
_INTERRUPTED = 0.05
#: Seconds in which a budget is spent that was not when the other jobs had ended.
_SPENT_WITHIN = 60.0
#: Seconds after which a job is given up that the budget lets wait.
_HELD_BACK = 20.0
#: Seconds for which a long job runs, if it is not interrupted.
_LONG = 3.0


class ChaosClient:
    """One client of a `member` with one `clientId`, which submits jobs one after the other.

    `url` gives the proxy's address, which may be down at any time, `listens_at` where it has its
    socket. `color` gives each job a picture that no other job has. Some jobs run for long and are
    interrupted. `errors` counts
    answers with the status 500, `impatient` those of 503 that do not say when to try again,
    `over_budget` refusals by a budget that is spent.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: Callable[[], URL],
        rng: random.Random,
        color: Callable[[], int],
        listens_at: Callable[[], URL] | None = None,
        member: str = "",
    ) -> None:
        self.submissions: list[Submission] = []
        self.errors = 0
        self.impatient = 0
        self.over_budget = 0
        self._listens_at = listens_at or url
        self._member = member
        #: How often the socket has been lost, and whether it is open.
        self._losses, self._listens = 0, False
        self._session = session
        self._url = url
        self._rng = rng
        self._color = color
        self._client_id = uuid.UUID(int=rng.getrandbits(128)).hex
        self._by_id: dict[str, Submission] = {}
        self._heard = asyncio.Event()
        #: Whether the last question had an answer.
        self._answered = False

    async def run(self, count: int, is_over: Callable[[], bool]) -> None:
        """Submit and follow `count` jobs, and more until it is over."""
        listening = asyncio.create_task(self._listen())
        try:
            for number in itertools.count(1):
                await self._job()
                if number >= count:
                    if is_over():
                        break
                    await asyncio.sleep(self._rng.random())
            await self.hear_out()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def settle(self) -> None:
        """At the end: follow also what had been given up and turned up after all."""
        for submission in self.submissions:
            if submission.accepted or submission.refused or not await self._knows(submission):
                continue
            if await self._has_run(submission):
                submission.accepted = submission.late = True
                await self._follow(submission)
                submission.bytes_checked = submission.recorded == "success"

    async def hear_out(self) -> None:
        """Wait for ends that are recorded and that the socket was not told yet."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_HEARD_WITHIN):
                while any(submission.unheard for submission in self.submissions):
                    self._heard.clear()
                    await self._heard.wait()

    async def _job(self) -> None:
        color, interrupted = self._color(), self._rng.random() < _INTERRUPTED
        losses, listened = self._losses, self._listens
        while not (submission := await self._try(color, long=interrupted)).accepted:
            await asyncio.sleep(_PAUSE)
            losses, listened = self._losses, self._listens
        async with asyncio.TaskGroup() as tasks:
            interrupting = tasks.create_task(self._interrupt(submission)) if interrupted else None
            entry = await self._follow(submission)
            if interrupting is not None:
                interrupting.cancel()
        submission.whole = listened
        await self.hear_out()
        submission.whole = listened and losses == self._losses
        if submission.recorded == "success":
            await self._check_picture(submission, entry, color)

    async def _follow(self, submission: Submission) -> dict[str, Any]:
        """Wait for the end, and return the history entry."""
        entry = await self._end(submission)
        submission.recorded = entry["status"]["status_str"]
        submission.seen = asyncio.get_running_loop().time()
        return entry

    async def _try(self, color: int, *, long: bool = False) -> Submission:
        """One submission under an id of its own."""
        submission = Submission(
            str(uuid.UUID(int=self._rng.getrandbits(128), version=4)),
            member=self._member,
            interrupted=long,
            sent=asyncio.get_running_loop().time(),
        )
        self.submissions.append(submission)
        self._by_id[submission.prompt_id] = submission
        await self._submit(submission, graph_of(color, long=long))
        return submission

    async def _submit(self, submission: Submission, graph: dict[str, Any]) -> None:
        body = {
            "prompt": graph,
            "client_id": self._client_id,
            "prompt_id": submission.prompt_id,
        }
        try:
            async with self._session.post(self._url() / "prompt", json=body) as answer:
                text = await answer.text()
                self._count(answer)
                submission.accepted = answer.status == 200
                if "submission_unanswered" in text:
                    submission.accepted = await self._has_run(submission)
                submission.refused = not submission.accepted
                self.over_budget += answer.status == 429 and _is_spent(text)
        except aiohttp.ClientConnectorError:
            submission.refused = True
        except (aiohttp.ClientError, OSError):
            submission.accepted = await self._turns_up(submission) and await self._has_run(
                submission
            )

    async def _interrupt(self, submission: Submission) -> None:
        """Interrupt a job again and again, whether it runs or not, until cancelled."""
        while True:
            await asyncio.sleep(self._rng.random())
            with suppress(aiohttp.ClientError, OSError):
                url = self._url() / "interrupt"
                async with self._session.post(
                    url, json={"prompt_id": submission.prompt_id}
                ) as answer:
                    self._count(answer)

    async def _has_run(self, submission: Submission) -> bool:
        """Wait until a job has ended, or is gone, of which nobody has said whether it runs.

        The first of the queue is shown as `in_progress`, also while it is looked for. One that was
        never answered, and that the cloud does not have, leaves nothing.
        """
        while True:
            found = await self._get(f"api/jobs/{submission.prompt_id}")
            if found.get("error") == "Job not found":
                return False
            if found.get("status") in ("completed", "failed", "cancelled"):
                return True
            await asyncio.sleep(_PAUSE)

    async def _turns_up(self, submission: Submission) -> bool:
        """Whether a job whose answer got lost is in the proxy's records after all."""
        for _ in range(30):
            await asyncio.sleep(_PAUSE)
            if await self._knows(submission):
                return True
        return False

    async def _knows(self, submission: Submission) -> bool:
        return (await self._get(f"api/jobs/{submission.prompt_id}")).get(
            "id"
        ) == submission.prompt_id

    async def _end(self, submission: Submission) -> dict[str, Any]:
        """Wait for the end: by the websocket, or by asking when it has nothing to say."""
        while True:
            url = self._url()
            entry = await self._entry(submission, url)
            if entry is not None:
                return entry
            self._heard.clear()
            try:
                async with asyncio.timeout(0.5):
                    await self._heard.wait()
            except TimeoutError:
                pass

    async def _entry(self, submission: Submission, url: URL) -> dict[str, Any] | None:
        """Return the history entry at a replica; note if it has the job nowhere."""
        path = f"history/{submission.prompt_id}"
        for _ in range(2):
            found = await self._get(path, url)
            if submission.prompt_id in found:
                return dict(found[submission.prompt_id])
            queue = await self._get("queue", url)
            if "queue_running" not in queue or submission.prompt_id in str(queue):
                return None
        # It may have ended between the two requests, the second time as well.
        found = await self._get(path, url)
        if submission.prompt_id in found:
            return dict(found[submission.prompt_id])
        submission.invisible += self._answered
        return None

    async def _check_picture(
        self, submission: Submission, entry: dict[str, Any], color: int
    ) -> None:
        item = entry["outputs"]["2"]["images"][0]
        url_of = self._url
        loop = asyncio.get_running_loop()
        until = loop.time() + _SHOWN_WITHIN
        while loop.time() < until:
            try:
                async with self._session.get((url_of() / "view").with_query(item)) as answer:
                    data = await answer.read()
                if answer.status == 200:
                    pixel = Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))
                    submission.wrong_bytes = pixel != (color >> 16, color >> 8 & 255, color & 255)
                    submission.bytes_checked = True
                    return
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(_PAUSE)

    async def _get(self, path: str, url: URL | None = None) -> dict[str, Any]:
        self._answered = False
        try:
            async with self._session.get((url or self._url()) / path) as answer:
                found = await answer.json(content_type=None)
                self._count(answer)
                self._answered = answer.status == 200
        except (aiohttp.ClientError, OSError, ValueError):
            await asyncio.sleep(_PAUSE)
            return {}
        return found if isinstance(found, dict) else {}

    def _count(self, answer: aiohttp.ClientResponse) -> None:
        self.errors += answer.status == 500
        self.impatient += answer.status == 503 and "Retry-After" not in answer.headers

    async def _listen(self) -> None:
        """Keep a websocket open, with the same id each time."""
        while True:
            try:
                url = (self._listens_at() / "ws").with_query(clientId=self._client_id)
                async with self._session.ws_connect(url) as socket:
                    self._listens = True
                    async for message in socket:
                        if message.type is aiohttp.WSMsgType.TEXT:
                            self._hear(json.loads(message.data))
            except (aiohttp.ClientError, OSError):
                pass
            finally:
                self._losses += 1
                self._listens = False
            await asyncio.sleep(_PAUSE)

    def _hear(self, message: dict[str, Any]) -> None:
        type_, data = message["type"], message["data"]
        submission = self._by_id.get(data.get("prompt_id", ""))
        if submission is None:
            return
        if submission.ends and not (type_ == "executing" and data["node"] is None):
            submission.disorder.append(f"{type_} after the end")
        submission.types.add(type_)
        if type_ in _ENDS:
            submission.ends.append(type_)
            self._heard.set()


class SpendingClient(ChaosClient):
    """A client of a member with a hard budget, which goes on to submit when that is spent.

    `over_budget` counts how often the budget refused a job when most of it was spent, or let one
    wait that it had taken for a cheaper one. It also refuses jobs as long as nobody knows how long
    they run, and expects them to cost much.
    """

    async def run(self, count: int, is_over: Callable[[], bool]) -> None:
        """Submit and follow jobs until it is over and the budget has refused one, or should."""
        loop, until = asyncio.get_running_loop(), None
        while until is None or (loop.time() < until and not self.over_budget):
            if until is None and is_over():
                until = loop.time() + _SPENT_WITHIN
            submission = await self._try(self._color())
            if submission.accepted:
                async with asyncio.TaskGroup() as tasks:
                    giving_up = tasks.create_task(self._give_up(submission))
                    await self._follow(submission)
                    giving_up.cancel()
                submission.bytes_checked = (
                    submission.recorded == "success"
                )  # others look at pictures
            else:
                await asyncio.sleep(self._rng.random())

    async def _give_up(self, submission: Submission) -> None:
        """Interrupt a job that the budget lets wait for long, until cancelled."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _HELD_BACK
        while True:
            await asyncio.sleep(_PAUSE)
            found = await self._get(f"api/jobs/{submission.prompt_id}")
            if found.get("queue_reason") in ("budget", "ceiling") and loop.time() >= until:
                submission.interrupted = True
                self.over_budget += 1
                await self._interrupt(submission)


def _is_spent(text: str) -> bool:
    """Whether a refusal says that more than half of a budget of a day is spent."""
    found = json.loads(text)["error"]["extra_info"]
    return found.get("limit") == "credits_per_day" and found["left"] < found["value"] / 2


async def _wait(_inputs: dict[str, Any], _context: Context) -> Output:
    await asyncio.sleep(_LONG)
    return Output(ui={"text": ["over"]})


#: The node of long jobs, for the simulator.
LONG_NODE = NodeClass("ChaosWait", _wait, output_node=True)


def graph_of(color: int, *, long: bool = False) -> dict[str, Any]:
    """The graph of a job with a picture of one color, which may run for long."""
    inputs = {"width": 16, "height": 16, "batch_size": 1, "color": color}
    graph: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": inputs},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "chaos"},
        },
    }
    if long:
        graph["3"] = {"class_type": LONG_NODE.name, "inputs": {}}
    return graph
