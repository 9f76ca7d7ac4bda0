"""What the event log says of a rollout to whoever looks: what its rewards prove by now and what follows (`outlook`), what is to be
seen beside them (`watching`), how the evidence narrowed (`looks`), what another policy would have been worth (`offline`).

Changes nothing, so a look may be taken at any time, by anyone, as often as one likes. Knows rollouts, the rules and rows of the
log; not the ledger, MLflow, nor how a decision is carried out (`actions/`).
"""
