"""What went wrong with one request, and how often it may, until it is given up."""

from dataclasses import dataclass, field

MOST_BAD_ANSWERS = 8  # to one request, whichever servers gave them
MOST_TIMEOUTS = 2  # of one request
LEAST_PROGRESS = 64  # tokens beyond where any trouble was met before: a chain that says so many more gets on


@dataclass
class Troubles:
    """What went wrong since a request's chain last got on. A chain that is handed back with what it has said brings
    them along when it comes again: else one that breaks at its second word would be asked for ever."""

    bad_answers: int = 0
    slow_on: str = ""  # the server on which it took too long
    timeouts: int = 0
    pauses: int = 0  # in a row
    broken_since: float | None = None  # when a server first broke under it
    breaks: int = 0  # since then
    tried_seconds: float = 0.0  # since then, on servers
    served_before: int = 0  # answers of all servers when it first went wrong
    was_held: bool = False  # called malformed once, where others were answered; what passes would not say so again
    rejected_by: set[str] = field(default_factory=set)  # URLs of servers that call it malformed
    resume_at: float = 0.0  # not sent before this time
    longest: int = 0  # tokens at which it met trouble

    def meet(self, length: int, served: int) -> None:
        """One more, when the chain has this many tokens and the servers have given so many answers."""
        if length >= self.longest + LEAST_PROGRESS:
            self.bad_answers = self.timeouts = self.pauses = 0
            self.broken_since, self.breaks, self.tried_seconds = None, 0, 0.0
        self.longest = max(self.longest, length)
        if not self.bad_answers and not self.timeouts and self.broken_since is None:
            self.served_before = served

    def broke(self, sent: float, now: float) -> float:
        """A server broke under a try that was `sent` then. Returns seconds since one first did, without what tries
        took, each maybe an hour of work; that counts where that came so often that the request may break it."""
        if self.broken_since is None:
            self.broken_since = now
        else:
            self.tried_seconds += now - sent
        self.breaks += 1
        return now - self.broken_since - (self.tried_seconds if self.breaks < MOST_BAD_ANSWERS else 0.0)
