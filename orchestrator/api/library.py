"""The functions of the library: plan, run, status and report of a sweep.

A sweep is a `Sweep`, the content of a sweep file as a dict, or the path of a file. `home` is the
folder for reports, caches and the data of the local servers, as `--home` of the command line; by
default it is `$SWEEPSTAKES_HOME`, or else `.sweepstakes` in the working directory.

Nothing is printed unless `progress` is set. All errors are `SweepstakesError`s of one line (an
`InputError` if the input is at fault, a `StoreError` if the store is), those of the models and the
data are `trainables.errors.TrainableError`s, and those of the local servers
`cluster.errors.ServiceError`s.

A local store is a server. Each call starts it unless it runs, which takes 1.5 s, and stops it at
the end; while a `TicketStore` is open, it keeps running.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from orchestrator.api import session
from orchestrator.api.results import IncompleteRun, RunResult, SweepPlan, SweepReport, SweepStatus
from orchestrator.api.workspace import AnySweep, connect, home_folder, plan_sweep, report_folder
from orchestrator.monitor.observers import Observer
from orchestrator.monitor.terminal import no_display, terminal_display


def plan(sweep: AnySweep, *, home: str | Path | None = None, offline: bool = False) -> SweepPlan:
    """Return the trials that a sweep consists of, what exists of them, and the cost of the rest.

    Neither Ray nor torch is imported, and nothing is started but a local store that exists. With
    `offline` neither the store nor the data are read: the counts are right, but keys are not.

    Example::

        preview = plan("quickstart.yaml")
        preview.totals.new_runs     # training runs that are missing
        preview.trials()            # a pandas frame, one row per trial

    Raises:
        InputError: the sweep is invalid, or its data or weights do not exist.
        StoreError: its store cannot be used.
    """
    planned = plan_sweep(sweep, home_folder(home), offline=offline)
    return session.preview_sweep(planned, offline=offline)


def run(
    sweep: AnySweep,
    *,
    home: str | Path | None = None,
    folder: str | Path | None = None,
    budget: float | None = None,
    progress: bool = False,
    observer: Observer | None = None,
    check: bool = True,
) -> RunResult:
    """Run the missing trials of a sweep, and write its report.

    The trials run on this machine, on the Ray cluster that this process is connected to, or on the
    one that `RAY_ADDRESS` names. What is committed is never lost: run the sweep again to resume it.

    In the main thread, the first Ctrl-C (or interrupt of a notebook's kernel) lets the running
    trials save their state, and a second one ends the run at once. In another thread, the run
    cannot be interrupted.

    Args:
        sweep: a `Sweep`, the content of a sweep file, or the path of one.
        home: folder for reports, caches and the local servers' data.
        folder: folder for the report. Default: `reports/NAME` in `home`.
        budget: amount of money, in the currency of the cluster profile in `placement.cluster`.
            Trials that would exceed it are not started.
        progress: whether to show the progress on the terminal or in the notebook.
        observer: an object whose `on_event(event)` receives the events of the run (the classes in
            `orchestrator.schedule.run_events`), in the thread of the run, which waits for it. If it
            raises, the error is logged and it receives no more events.
        check: whether an incomplete run is an error. If not, see `RunResult.complete`.

    Raises:
        InputError: the sweep is invalid, or cannot run on this machine or cluster.
        StoreError: the store cannot be used.
        IncompleteRun: a `RunError` whose `result` says which trials failed or are blocked, or that
            the budget is spent or the store stopped answering.
        KeyboardInterrupt: the run was interrupted, and the state of its trials is saved.
    """
    planned = plan_sweep(sweep, home_folder(home))
    session.check_budget(planned, budget)
    with connect(planned.config.placement, planned.home, tracking=True) as connections:
        result = session.run_sweep(
            planned,
            connections,
            Path(folder) if folder else report_folder(planned),
            budget=budget,
            display=partial(terminal_display, Console()) if progress else no_display,
            observers=[observer] if observer else [],
        )
    if result.interrupted:
        raise KeyboardInterrupt
    if check and not result.complete:
        raise IncompleteRun(result)
    return result


def status(sweep: AnySweep, *, home: str | Path | None = None) -> SweepStatus:
    """Return the progress of a sweep, as its store shows it: from any process, and from any machine
    if the store is in S3.

    Example::

        status("quickstart.yaml").counts()     # {'done': 12, 'running': 2, 'missing': 36}

    Raises:
        InputError: the sweep is invalid, or its data or weights do not exist.
        StoreError: its store cannot be used.
    """
    return session.sweep_status(plan_sweep(sweep, home_folder(home)))


def report(
    sweep: AnySweep, folder: str | Path | None = None, *, home: str | Path | None = None
) -> SweepReport:
    """Return the results of a sweep, complete or not: `scores()`, `verdicts()` and `trials()` are
    pandas frames.

    With a `folder`, the report is written into it: one HTML page, figures and tables. Without one,
    the only file written is `fingerprints.json` in `home`, so that later calls need not read the
    data again.

    Raises:
        InputError: the sweep is invalid, its data or weights do not exist, or `folder` cannot be
            written.
        StoreError: its store cannot be used.
    """
    planned = plan_sweep(sweep, home_folder(home))
    return session.read_report(planned, Path(folder) if folder else None)
