"""What the command line and the library do: `orchestrator/__init__` exports its functions.

It prints nothing, except by a display that the caller passes in. It may import every package but
`cli`; only `api` and `cli` import `cluster`.
"""
