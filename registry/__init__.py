"""What is deployed, and what is on trial: versions, rollouts and what is proved of them. What a rollout is made of stands in files,
what is done with one in folders; each line imports only those below it.

    actions/, analysis/      what is done to rollouts; what the log says of them, which changes nothing
    tracker/                 what MLflow keeps: versions, runs, a version's pages
    book/                    what the database keeps of rollouts: the ledger, its audit, the lease
    rollout.py               the state machine: what a rollout is, what may happen to it, what should happen next
    rules/                   how it is judged: what proves, what stops, what pauses
    evidence.py              whether a challenger is better: a verdict on rewards
    assignment.py, betting.py, snapshots.py
                             which arm answers a unit; the bets of always-valid tests; a month's rows, kept with DVC
"""
