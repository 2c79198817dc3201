"""Functions that run by turns, one at a time: the teams of a block that wait for each other."""

import threading
from collections.abc import Callable


class Team:
    """A function that can be left where it waits, and taken up again there."""

    def __init__(self, body: Callable[[], None]):
        self.ended = False
        self._body = body
        self._error: BaseException | None = None
        self._own, self._others = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._own.acquire()
        try:
            self._body()
        except BaseException as error:  # of any kind: it is raised again where the turn came from
            self._error = error
        self.ended = True
        self._others.release()

    def proceed(self) -> None:
        """Runs the function until it pauses, or ends; raises what it raised."""
        self._own.release()
        self._others.acquire()
        if self._error is not None:
            raise self._error

    def pause(self) -> None:
        """Returns from `proceed`, and comes back when it is called again."""
        self._others.release()
        self._own.acquire()
