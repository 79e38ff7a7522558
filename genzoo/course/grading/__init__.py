"""Grading of untrusted work: the sandboxed worker computes, the parent decides.

The parent imports neither torch nor the submission. It draws random challenges, sends inputs
through a private pipe and judges the answers with its own formulas.
"""
