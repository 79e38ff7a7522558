"""What the grader asks, a module an assignment: random inputs, and answers it works out itself.

NumPy alone. A test takes a `genzoo.course.grading.judge.Session` and returns a share of its points.
"""
