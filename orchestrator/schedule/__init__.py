"""Pure scheduling: which trials may start, in which batches and order, and what follows a failure.

`Scheduler.handle` takes events and the time, and returns commands. The package may import `plan`
and `sweep`.
"""
