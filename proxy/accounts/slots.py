"""How many jobs an account may have on the cloud at once: set, or learnt from what it runs."""

from __future__ import annotations

#: The most jobs at once that any plan runs; learning goes no further.
MOST = 5

#: So many readings in a row must show too many held jobs before the estimate shrinks.
_DOUBTS = 3


class Slots:
    """What an account runs at once, and how many jobs may be there to keep it busy.

    Pure. `fixed` is the number of slots, 0 if it is to be learnt; `ahead` jobs more may be on the
    cloud, so that the next one begins without a round trip. What is learnt begins with 1, grows
    when everything on the cloud runs at once, and shrinks when jobs keep waiting for a slot.
    """

    def __init__(self, fixed: int = 0, ahead: int = 0) -> None:
        self._fixed = fixed
        self._ahead = ahead
        self._learnt = 1
        self._is_limit = False
        self._doubts = 0

    @property
    def count(self) -> int:
        """How many jobs run at once, as far as is known."""
        return self._fixed or self._learnt

    @property
    def learning(self) -> bool:
        """Whether nobody has set the number."""
        return not self._fixed

    @property
    def certain(self) -> bool:
        """Whether the number is set, or the cloud has said that more do not run."""
        return not self.learning or self._is_limit

    @property
    def limit(self) -> int:
        """How many jobs may be on the cloud. One more than run, until the limit is certain."""
        return self.count + (self._ahead if self.certain else max(1, self._ahead))

    def free(self, on_cloud: int) -> bool:
        """Whether another job may go there beside `on_cloud` ones."""
        return on_cloud < self.limit

    def restore(self, learnt: int) -> None:
        """Go on with a number that was learnt before; the plan may be another one since."""
        self._learnt = max(1, min(learnt, MOST))
        self._is_limit, self._doubts = self._learnt >= MOST, 0

    def running(self, count: int) -> bool:
        """So many jobs of ours run at once now. Says whether more may go there than before."""
        before = self.limit
        if self.learning and count > self._learnt:
            self._learnt = min(count, MOST)
            self._is_limit, self._doubts = count >= MOST, 0
        return self.limit > before

    def held(self, count: int, running: int) -> None:
        """A reading: `count` jobs wait for want of a slot (`concurrency_limit`), `running` run."""
        if not self.learning or not count:
            self._doubts = 0
            return
        if running >= self._learnt:
            self._is_limit, self._doubts = True, 0
            return
        self._doubts += 1
        if self._doubts >= _DOUBTS:
            self._learnt, self._is_limit, self._doubts = max(1, running), True, 0
