"""The kinds of faults, each with how it is brought upon a sweep."""

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

from tests.faults.scene import Blow, Outcome, Scene, drive, lanes, together
from tests.support.lab import Lab, server
from tests.support.nodes import several
from tests.support.s3_proxy import PASSING, Armed, Fault

Kind: TypeAlias = Callable[[Lab, str, random.Random], Outcome]
Run: TypeAlias = "subprocess.Popen[str]"

TRIALS = 22
S3_FAULTS = 24
"""In one sweep, which makes about ten times as many requests."""
STALL_S = 5.0
LIBRARY = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"


def s3(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """Single requests fail in every way."""
    lab.proxy.arm(_mixed(dice, S3_FAULTS))
    return drive(Scene(lab, name, dice))


def s3_refuses(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """Every request is refused, for longer than patience lasts."""
    fault = dice.choice([Fault.SLOW_DOWN, Fault.ERROR, Fault.RESET])

    def strike(run: Run) -> None:
        lab.proxy.storm = Armed(fault)

    return drive(
        Scene(lab, name, dice), [Blow("S3 fails for minutes", _when(dice), strike, lab.proxy.calm)]
    )


def s3_killed(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """Once with somebody who starts it again at once, and once without."""

    def restarted(run: Run) -> None:
        lab.kill_s3()
        lab.start_s3()

    first, second = _whens(dice, 2)
    blows = [
        Blow("kill -9 of S3, back at once", first, restarted),
        Blow("kill -9 of S3", second, lambda run: lab.kill_s3(), lab.start_s3),
    ]
    return drive(Scene(lab, name, dice), blows)


def disk_full(lab: Lab, name: str, dice: random.Random) -> Outcome:
    def strike(run: Run) -> None:
        lab.fill_disk()

    return drive(Scene(lab, name, dice), [Blow("disk full", _when(dice), strike, lab.free_disk)])


def driver(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """Killed in each of its first three runs."""
    blows = [Blow("kill -9 of the driver", at, kill_driver) for at in _whens(dice, 3)]
    return drive(Scene(lab, name, dice), blows)


def worker(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """Two, since three strikes would be a poison trial's."""
    scene = Scene(lab, name, dice)
    blows = [Blow("kill -9 of a worker", at, _worker_killer(scene)) for at in _whens(dice, 2)]
    return drive(scene, blows)


def stopped(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """By the signal with which a job is stopped, once, and again while it is stopping."""

    def twice(run: Run) -> None:
        run.send_signal(signal.SIGTERM)
        time.sleep(dice.uniform(0.1, 1.0))
        run.send_signal(signal.SIGTERM)

    first, second = _whens(dice, 2)
    blows = [
        Blow("SIGTERM", first, lambda run: run.send_signal(signal.SIGTERM)),
        Blow("SIGTERM twice", second, twice),
    ]
    return drive(Scene(lab, name, dice), blows)


def node(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """Two of a cluster's nodes, one after another; each is replaced by a new one."""
    (lab.root / name).mkdir()
    with several(lab.root / name, 2) as nodes:

        def strike(run: Run) -> None:
            nodes.lose()
            nodes.add()

        scene = Scene(lab, name, dice, environment=nodes.environment)
        return drive(scene, [Blow("kill -9 of a raylet", at, strike) for at in _whens(dice, 2)])


def mlflow(lab: Lab, name: str, dice: random.Random) -> Outcome:
    scene = Scene(lab, name, dice, placement={"tracking": "local"})

    def strike(run: Run) -> None:
        for process in server(scene.home.path, "mlflow"):
            process.kill()

    return drive(scene, [Blow("kill -9 of MLflow", _when(dice), strike)])


def clock(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """Set back in the middle of a run for the driver and its workers: by ten minutes, which S3
    bears, and by a day, which it does not."""
    offset = lab.root / f"{name}.clock"
    offset.write_text("+0\n")

    def back(by: str) -> Callable[[Run], None]:
        def strike(run: Run) -> None:
            offset.write_text(f"{by}\n")

        return strike

    first, second = _whens(dice, 2)
    blows = [
        Blow("clock set back by 10 minutes", first, back("-600")),
        Blow("clock set back by a day", second, back("-86400"), lambda: back("+0")(None)),
    ]
    # Ray's timers go by this clock, and look at it again after 5 minutes at the latest: till then a
    # worker whose driver has ended may not notice.
    return drive(Scene(lab, name, dice, environment=false_clock(offset)), blows, linger_s=400)


def poison(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """Beside the sweep, a trial that can only fail, and its descendants."""
    scene = Scene(lab, name, dice, poison=True)
    scene.struck["a poison trial"] += 1
    return drive(scene)


def hang(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """A worker that reads its start weights for ever; a stall limit ends it."""
    lab.proxy.arm([Armed(Fault.TRICKLE, within=f"{name}/weights/")])
    return drive(Scene(lab, name, dice, placement={"stall_s": STALL_S}))


def everything(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """In one sweep, one thing after another."""
    scene = Scene(lab, name, dice)
    lab.proxy.arm(_mixed(dice, S3_FAULTS))
    worker_at, driver_at, s3_at, disk_at = dice.sample(range(2, TRIALS - 2), 4)
    blows = [
        Blow("kill -9 of a worker", worker_at, _worker_killer(scene)),
        Blow("kill -9 of the driver", driver_at, kill_driver),
        Blow("kill -9 of S3", s3_at, lambda run: lab.kill_s3(), lab.start_s3),
        Blow("disk full", disk_at, lambda run: lab.fill_disk(), lab.free_disk),
    ]
    return drive(scene, blows)


def two_drivers(lab: Lab, name: str, dice: random.Random) -> Outcome:
    return together(Scene(lab, name, dice, placement={"slots": 1}), 2)


def four_drivers(lab: Lab, name: str, dice: random.Random) -> Outcome:
    return together(Scene(lab, name, dice, placement={"slots": 1}), 4)


def without_claims(lab: Lab, name: str, dice: random.Random) -> Outcome:
    """Two drivers neither of which learns what the other is at."""
    lab.proxy.storm = Armed(Fault.FORGOTTEN, within=f"{name}/claims/")
    return together(Scene(lab, name, dice, placement={"slots": 1}), 2)


KINDS: dict[Kind, tuple[str, int]] = {
    s3: ("S3 requests fail", 6),
    s3_refuses: ("S3 fails for minutes", 1),
    s3_killed: ("S3 killed", 2),
    disk_full: ("disk full", 2),
    driver: ("driver killed", 3),
    worker: ("worker killed", 4),
    stopped: ("run stopped", 1),
    node: ("node lost", 2),
    mlflow: ("MLflow killed", 2),
    clock: ("clock set back", 2),
    poison: ("poison trial", 2),
    hang: ("trial hangs", 1),
    everything: ("all of it", 1),
    two_drivers: ("two drivers at once", 2),
    four_drivers: ("four drivers at once", 1),
    without_claims: ("two drivers, no claim kept", 1),
}
"""Each kind's title, and the sweeps that the whole schedule gives it."""


def kill_driver(run: Run) -> None:
    run.kill()
    run.wait()


def false_clock(offset: Path) -> dict[str, str]:
    """The environment in which Python's and Ray's processes read the offset of their clock from a
    file, ten times a second."""
    return {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "1",  # else timed waits of Ray's own processes never end
    }


def _worker_killer(scene: Scene) -> Callable[[Run], None]:
    def strike(run: Run) -> None:
        scene.until(lambda: bool(lanes(run)), run)
        with suppress(IndexError, psutil.NoSuchProcess):  # the run came to its end
            scene.dice.choice(lanes(run)).kill()

    return strike


def _mixed(dice: random.Random, count: int) -> Iterator[Armed]:
    """S3 faults of every kind, some requests apart."""
    for _ in range(count):
        yield Armed(dice.choice(PASSING), after=dice.randint(1, 10))


def _when(dice: random.Random) -> int:
    return dice.randint(2, TRIALS - 4)


def _whens(dice: random.Random, count: int) -> list[int]:
    return sorted(dice.sample(range(2, TRIALS - 3), count))
