"""The book of rollouts, which is the truth of them: their present state (`ledger`), the hash-chained audit of all that changed it
(`audit`), and who may change it now (`lease`).

Knows how to keep rollouts whole in a database, whatever dies or is paused in between; not why one changes, nor MLflow, whose runs
and aliases follow from this book.
"""
