"""Advice shared by several error messages."""

REPAIR = "restore it, or run `sweepstakes tickets verify --repair` and then the sweep again"
FREE_SPACE = (
    "free disk space on the server, restart it if it is your own SeaweedFS, and run the same"
    " command again: nothing committed is lost"
)
