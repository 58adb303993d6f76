"""What can end a run early: a loss that explodes, and a person or scheduler who asks."""

import math
import signal
import statistics
from collections import deque
from collections.abc import Iterable
from types import FrameType
from typing import Self

_REMEMBERED = 128
_ENOUGH = 32


class SpikeGuard:
    """Knows a loss that is no number, and one that lies far above its recent median.

    The distance is measured in robust deviations (1.4826 times the median absolute deviation of the last 128 losses, at least 2 %
    of the median), and judged once 32 losses are known.

    Args:
        factor: deviations above the median that are too many; 0 = only NaN and infinity count.
        losses: the losses known so far, from a checkpoint.
    """

    def __init__(self, factor: float, losses: Iterable[float] = ()):
        self.factor = factor
        self.losses = deque(losses, maxlen=_REMEMBERED)

    def trouble(self, loss: float, norm: float, name: str = "loss") -> str:
        """What is wrong with this step, or "". A good loss is remembered."""
        if not math.isfinite(loss):
            return f"the {name} is {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm} ({name} {loss:.4g})"
        if self.factor and len(self.losses) >= _ENOUGH:
            median = statistics.median(self.losses)
            deviation = 1.4826 * statistics.median(abs(value - median) for value in self.losses)
            distance = (loss - median) / max(deviation, 0.02 * abs(median), 1e-12)
            if distance > self.factor:
                return (
                    f"the {name} jumped to {loss:.4g}, {distance:.0f} deviations above its recent median {median:.4g}"
                )
        self.losses.append(loss)
        return ""


class Interruption:
    """Inside, the first Ctrl-C or SIGTERM sets `asked` instead of ending the process; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.asked = ""
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name
