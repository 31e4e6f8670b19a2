"""Small changes of the code that make results wrong or lose a safety, each to be found by a test.

`python -m tests.mutations` applies them one at a time to a copy and runs the quick tests named.
"""
