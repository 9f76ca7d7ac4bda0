"""What decided a version's bytes: recorded as it is registered, and made again from the record (docs/lineage.md).

Knows no schedule and no task: whoever has a model, its snapshots and its parameters can register it, and whoever has the record
can rebuild it. Does not judge: of gates it writes down what was said.
"""
