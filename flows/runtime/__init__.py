"""What a run of any flow works with: the opened parts of the platform, a task as ours are, progress told to whoever waits, and a
training's curve and checkpoints. Knows no month, no version and no gate.
"""
