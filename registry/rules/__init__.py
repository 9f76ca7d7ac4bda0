"""The rules by which a rollout is judged: what the rewards of all arms prove (`best_arm`), what stops a version whatever they prove
(`guardrails`), what puts the comparison itself in doubt and so pauses it (`signals`). Where each fails: docs/rollouts.md.

Pure: what was seen in; a `Standing`, `Guarded` or `Signal` out. Knows arms and units, and nothing of rollouts: what follows from
a judgement is `deciding.decide`'s to say.
"""
