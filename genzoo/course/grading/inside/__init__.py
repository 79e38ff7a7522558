"""How the worker calls a student's functions: a module an assignment, no expected values."""
