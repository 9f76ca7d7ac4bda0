"""What stands between a month's rows and users: checks of the rows, the examination of the challenger, a rehearsal in the real
server, a person's override of either; and, past the last of them, the opening of the trial (docs/gates.md).

Knows what each says to a reviewer; not how anything was trained, nor how a trial goes on once it is open (`registry/`).
"""
