"""Errors for people: what is wrong, where, and what to do."""


class LtError(Exception):
    """Something the user can understand and mend. The command line prints `message`, then `hint`, and exits 1."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(LtError):
    """The command was called wrongly (an unknown name, a missing value). Exit code 2."""


class ShardError(LtError):
    """A shard, sidecar or manifest that cannot be trusted."""


class OutputError(LtError):
    """The output cannot be written (full disk, read-only folder): nothing more can be done until that is mended."""


class SampleError(Exception):
    """One bad sample. Pipelines count it as a reject under `reason` and go on.

    Args:
        reason: a short stable slug that is counted, such as `undecodable-image`.
        detail: what exactly was seen, for `lt shards why`.
        figure: the number that decided, where there is one.
    """

    def __init__(self, reason: str, detail: str = "", figure: float | None = None):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.figure = figure

    def __reduce__(self):  # exceptions with several arguments do not cross process borders by themselves
        return SampleError, (self.reason, self.detail, self.figure)
