"""A version's model card: what a reviewer reads of what it is, what changed since its parent and which data made it
(docs/reviewing.md).

Knows what was measured and what the gates said; measures no accuracy, judges nothing and registers nothing.
"""
