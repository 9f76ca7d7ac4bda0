"""A month's rows on their way: frozen from the event log, learned by versions, and gone from the log when nothing needs them there.

Knows which rows there are and who has learned them; not whether they are fit to be learned (`gates/`), nor how a snapshot is
stored (`registry/snapshots.py`) or a month exported (`monitoring/archive.py`).
"""
