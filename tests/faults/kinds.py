"""The kinds of faults, each a function that runs a sweep under its faults."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import libfaketime
import psutil

from tests.faults.scene import (
    DisturbedSweep,
    Injection,
    Outcome,
    run_concurrently,
    run_until_complete,
    worker_processes,
)
from tests.support.lab import S3Testbed, server_processes
from tests.support.nodes import start_nodes
from tests.support.s3_proxy import RECOVERABLE, ArmedFault, Fault

Kind: TypeAlias = Callable[[S3Testbed, str, random.Random], Outcome]
Run: TypeAlias = "subprocess.Popen[str]"

NUM_TRIALS = 22
S3_FAULTS = 24
"""Per sweep, which sends about ten times as many requests."""
STALL_S = 5.0
FAKETIME_LIBRARY = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"


def s3_requests(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """Single requests fail in all ways."""
    testbed.proxy.arm(_random_s3_faults(rng, S3_FAULTS))
    return run_until_complete(DisturbedSweep(testbed, name, rng))


def s3_outage(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """Every request fails, for longer than all retries take."""
    fault = rng.choice([Fault.SLOW_DOWN, Fault.ERROR, Fault.RESET])

    def inject(run: Run) -> None:
        testbed.proxy.storm = ArmedFault(fault)

    return run_until_complete(
        DisturbedSweep(testbed, name, rng),
        [Injection("S3 fails for minutes", _random_time(rng), inject, testbed.proxy.disarm)],
    )


def s3_killed(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """Kill the S3 server twice; the first time it is restarted at once."""

    def restart(run: Run) -> None:
        testbed.kill_s3()
        testbed.start_s3()

    first, second = _random_times(rng, 2)
    injections = [
        Injection("kill -9 of S3, back at once", first, restart),
        Injection("kill -9 of S3", second, lambda run: testbed.kill_s3(), testbed.start_s3),
    ]
    return run_until_complete(DisturbedSweep(testbed, name, rng), injections)


def disk_full(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    def inject(run: Run) -> None:
        testbed.fill_disk()

    return run_until_complete(
        DisturbedSweep(testbed, name, rng),
        [Injection("disk full", _random_time(rng), inject, testbed.free_disk)],
    )


def driver_killed(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """Kill the driver in each of its first three runs."""
    injections = [
        Injection("kill -9 of the driver", at, kill_driver) for at in _random_times(rng, 3)
    ]
    return run_until_complete(DisturbedSweep(testbed, name, rng), injections)


def worker_killed(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """Kill two workers; three failures of one trial would reach `max_failures`."""
    sweep = DisturbedSweep(testbed, name, rng)
    injections = [
        Injection("kill -9 of a worker", at, _worker_killer(sweep)) for at in _random_times(rng, 2)
    ]
    return run_until_complete(sweep, injections)


def sigterm(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """Send the signal that stops a job, once; in the next run twice, while it is stopping."""

    def twice(run: Run) -> None:
        run.send_signal(signal.SIGTERM)
        time.sleep(rng.uniform(0.1, 1.0))
        run.send_signal(signal.SIGTERM)

    first, second = _random_times(rng, 2)
    injections = [
        Injection("SIGTERM", first, lambda run: run.send_signal(signal.SIGTERM)),
        Injection("SIGTERM twice", second, twice),
    ]
    return run_until_complete(DisturbedSweep(testbed, name, rng), injections)


def node_lost(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """Kill two nodes of a cluster, one after another; each is replaced by a new one."""
    (testbed.root / name).mkdir()
    with start_nodes(testbed.root / name, 2) as nodes:

        def inject(run: Run) -> None:
            nodes.kill_oldest_node()
            nodes.add_node()

        sweep = DisturbedSweep(testbed, name, rng, environment=nodes.environment)
        return run_until_complete(
            sweep, [Injection("kill -9 of a raylet", at, inject) for at in _random_times(rng, 2)]
        )


def mlflow_killed(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    sweep = DisturbedSweep(testbed, name, rng, placement={"tracking": "local"})

    def inject(run: Run) -> None:
        for process in server_processes(sweep.home.path, "mlflow"):
            process.kill()

    return run_until_complete(sweep, [Injection("kill -9 of MLflow", _random_time(rng), inject)])


def clock_set_back(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """Set the clock of the driver and its workers back during a run: by ten minutes, which S3
    tolerates, and by a day, which it does not."""
    offset = testbed.root / f"{name}.clock"
    offset.write_text("+0\n")

    def set_clock(seconds: str) -> Callable[[Run], None]:
        def inject(run: Run) -> None:
            offset.write_text(f"{seconds}\n")

        return inject

    first, second = _random_times(rng, 2)
    injections = [
        Injection("clock set back by 10 minutes", first, set_clock("-600")),
        Injection(
            "clock set back by a day", second, set_clock("-86400"), lambda: set_clock("+0")(None)
        ),
    ]
    # Ray's timers use this clock and read it again after 5 minutes at most: until then a worker may
    # not notice that its driver has exited.
    return run_until_complete(
        DisturbedSweep(testbed, name, rng, environment=fake_clock_environment(offset)),
        injections,
        exit_timeout_s=400,
    )


def poison_trial(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """Add a trial that always fails, and its descendants, to the sweep."""
    sweep = DisturbedSweep(testbed, name, rng, poison=True)
    sweep.injected["a poison trial"] += 1
    return run_until_complete(sweep)


def trial_hangs(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """A worker reads its start weights for ever; the stall timeout ends it."""
    testbed.proxy.arm([ArmedFault(Fault.TRICKLE, path_contains=f"{name}/weights/")])
    return run_until_complete(
        DisturbedSweep(testbed, name, rng, placement={"stall_timeout_s": STALL_S})
    )


def all_faults(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """Inject several kinds of faults into one sweep, one after another."""
    sweep = DisturbedSweep(testbed, name, rng)
    testbed.proxy.arm(_random_s3_faults(rng, S3_FAULTS))
    worker_at, driver_at, s3_at, disk_at = rng.sample(range(2, NUM_TRIALS - 2), 4)
    injections = [
        Injection("kill -9 of a worker", worker_at, _worker_killer(sweep)),
        Injection("kill -9 of the driver", driver_at, kill_driver),
        Injection("kill -9 of S3", s3_at, lambda run: testbed.kill_s3(), testbed.start_s3),
        Injection("disk full", disk_at, lambda run: testbed.fill_disk(), testbed.free_disk),
    ]
    return run_until_complete(sweep, injections)


def two_drivers(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    return run_concurrently(DisturbedSweep(testbed, name, rng, placement={"slots": 1}), 2)


def four_drivers(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    return run_concurrently(DisturbedSweep(testbed, name, rng, placement={"slots": 1}), 4)


def without_leases(testbed: S3Testbed, name: str, rng: random.Random) -> Outcome:
    """Run two drivers whose leases are lost, so that neither sees which items the other runs."""
    testbed.proxy.storm = ArmedFault(Fault.FORGOTTEN, path_contains=f"{name}/leases/")
    return run_concurrently(DisturbedSweep(testbed, name, rng, placement={"slots": 1}), 2)


KINDS: dict[Kind, tuple[str, int]] = {
    s3_requests: ("S3 requests fail", 6),
    s3_outage: ("S3 fails for minutes", 1),
    s3_killed: ("S3 killed", 2),
    disk_full: ("disk full", 2),
    driver_killed: ("driver killed", 3),
    worker_killed: ("worker killed", 4),
    sigterm: ("run stopped", 1),
    node_lost: ("node lost", 2),
    mlflow_killed: ("MLflow killed", 2),
    clock_set_back: ("clock set back", 2),
    poison_trial: ("poison trial", 2),
    trial_hangs: ("trial hangs", 1),
    all_faults: ("all of it", 1),
    two_drivers: ("two drivers at once", 2),
    four_drivers: ("four drivers at once", 1),
    without_leases: ("two drivers, leases lost", 1),
}
"""The title of each kind, and its number of sweeps in the full schedule."""


def kill_driver(run: Run) -> None:
    run.kill()
    run.wait()


def fake_clock_environment(offset: Path) -> dict[str, str]:
    """Return environment variables that make Python's and Ray's processes read the offset of their
    clock from a file, ten times a second."""
    return {
        "LD_PRELOAD": str(FAKETIME_LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "1",  # without it, timed waits in Ray's processes never end
    }


def _worker_killer(sweep: DisturbedSweep) -> Callable[[Run], None]:
    def inject(run: Run) -> None:
        sweep.wait_until(lambda: bool(worker_processes(run)), run)
        with suppress(IndexError, psutil.NoSuchProcess):  # the run has ended
            sweep.rng.choice(worker_processes(run)).kill()

    return inject


def _random_s3_faults(rng: random.Random, count: int) -> Iterator[ArmedFault]:
    """Yield S3 faults of random kinds, some requests apart."""
    for _ in range(count):
        yield ArmedFault(rng.choice(RECOVERABLE), after=rng.randint(1, 10))


def _random_time(rng: random.Random) -> int:
    return rng.randint(2, NUM_TRIALS - 4)


def _random_times(rng: random.Random, count: int) -> list[int]:
    return sorted(rng.sample(range(2, NUM_TRIALS - 3), count))
