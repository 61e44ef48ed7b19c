"""How data changes hands between workers, through folders, S3 or Redis, on any `concurrent.futures.Executor`.

    inputs ──► split ── partition ──► block ─┐  a slice for each    ┌─► merge ──► part ─┐
    inputs ──► split ── partition ──► block ─┼──────────────────────┼─► merge ──► part ─┼─► proof ──► manifest
    inputs ──► split ── partition ──► block ─┘                      └─► merge ──► part ─┘

`pywren_shuffle.sort.sort` is the sort; the executor's own method `sort` calls it.
"""
