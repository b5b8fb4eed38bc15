"""Starts background processes and ends them, also those whose parent is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

# Every process of the embedded run carries the run's folder in its environment, and passes it on.
MARK = "COMPANY_DATA_RUN"

START_SECONDS = 60
INTERRUPT_SECONDS = 15
KILL_SECONDS = 5


def start(command: list[str], environment: Mapping[str, str], run: Path, log: Path) -> int:
    """Start a process in a session of its own, its output going to a log; returns its process id."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**environment, MARK: str(run)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # Popen returns while the kernel still replaces the program; the environment then reads as empty, without the mark.
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and not alive(process.pid, run) and time.monotonic() < deadline:
        time.sleep(0.001)
    return process.pid


def of_run(run: Path) -> list[psutil.Process]:
    """The living processes of a run, found by the mark in their environment or in that of their session's leader."""
    marked: list[psutil.Process] = []
    others: list[psutil.Process] = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            (marked if process.environ().get(MARK) == str(run) else others).append(process)
        except psutil.AccessDenied:  # somebody else's, or a task, which Airflow keeps from being read
            others.append(process)
        except psutil.Error:
            continue
    sessions = {session for session in map(_session, marked) if session}
    return marked + [process for process in others if _session(process) in sessions]


def alive(pid: int | None, run: Path) -> bool:
    """Whether a process that this run started is still there, and is not another with the same id."""
    if pid is None:
        return False
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(run)
    except psutil.Error:
        return False


def stop(run: Path) -> None:
    """End all processes of a run: asked first, killed when they have not ended after some seconds.

    Raises:
        RuntimeError: some process did not end even then.
    """
    for sent, seconds in ((signal.SIGINT, INTERRUPT_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        deadline = time.monotonic() + seconds
        _signal(of_run(run), sent)
        while of_run(run):
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"processes {[process.pid for process in of_run(run)]} do not end; look at them with ps")


def _signal(processes: Iterable[psutil.Process], sent: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(sent)
        except psutil.NoSuchProcess:
            continue


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None
