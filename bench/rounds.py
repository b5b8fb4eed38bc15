"""Lets contenders work in turn, round by round, and prints medians."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median

from bench.server import Answer, Ask, BenchError, Rows, Server

MB = 1e6
COLUMNS = {
    "cpu_seconds": ("CPU s", 1),
    "wal_bytes": ("WAL MB", MB),
    "memory_bytes": ("client MB", MB),
    "database_bytes": ("database MB", MB),
}
# A checkpoint removes the files of dropped tables.
SIZE = ("checkpoint", "select pg_database_size(current_database()) as database_bytes")
Process = Callable[[], AbstractContextManager[Ask]]


@dataclass(frozen=True)
class Contender:
    """One way to do a piece of work in a database."""

    server: Server
    database: str
    process: Process  # does the work; it is started before that is measured
    line: str  # the process is asked this
    prepare: Sequence[str] | Callable[[], object]  # before the process is started: statements, or a call
    check: str  # query whose rows show whether the work is right
    expected: Rows

    def run(self) -> Answer:
        """Do the work once; raises BenchError if it is wrong."""
        if callable(self.prepare):
            self.prepare()
        elif self.prepare:
            self.server.run(self.database, *self.prepare)
        with self.process() as ask:
            answer = self.server.measured(lambda: ask(self.line))
        answer |= self.server.run(self.database, *SIZE)[0]
        if (found := self.server.run(self.database, self.check)) != self.expected:
            raise BenchError(f"{self.database} {self.line}: found {found}, expected {self.expected}.")
        return answer


def here(work: Ask) -> Process:
    """Work that needs no process of its own."""
    return lambda: nullcontext(work)


def compare(groups: Sequence[Mapping[str, Contender]], rounds: int) -> list[Answer]:
    """Run all contenders, by their labels, in each round; print and return their figures.

    Those of a group follow each other: one needs what the one before leaves. Each round begins with another group.
    """
    runs: list[Answer] = []
    labels = [label for group in groups for label in group]
    for number in range(rounds):
        start = number % len(groups)
        answers = {}
        for label, contender in (item for group in [*groups[start:], *groups[:start]] for item in group.items()):
            answers[label] = contender.run()
            print(f"round {number + 1}: {label}: {answers[label]['seconds']:.2f} s", flush=True)
        for label in labels:
            ratio = answers[label]["seconds"] / answers[labels[0]]["seconds"]
            runs.append({"contender": label, "ratio": ratio, **answers[label]})
    lines, tasks = [["median (range)", "seconds", "ratio", *(heading for heading, _ in COLUMNS.values())]], []
    for label in labels:
        own = [run for run in runs if run["contender"] == label]
        seconds, ratios = (sorted(run[key] for run in own) for key in ("seconds", "ratio"))
        lines.append([label, *(f"{median(v):.3f} ({v[0]:.3f}-{v[-1]:.3f})" for v in (seconds, ratios))])
        for key, (_, unit) in COLUMNS.items():
            lines[-1].append(f"{median(run[key] for run in own) / unit:,.1f}" if key in own[0] else "")
        if names := own[0].get("tasks"):
            medians = (f"{name} {median(run['tasks'][name] for run in own):.2f}" for name in names)
            tasks.append(f"{label}: {', '.join(medians)}")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]) for first, *others in lines]
    print("", *table, "", *tasks, sep="\n", flush=True)
    return runs
