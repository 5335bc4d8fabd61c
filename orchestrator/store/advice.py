"""The advice that several messages end with."""

REPAIR = "restore it, or run `sweepstakes tickets verify --repair` and then the sweep again"
FREE_SPACE = (
    "free some space there, restart the server if it is a SeaweedFS of your own, and run the same"
    " command again: nothing committed is lost"
)
