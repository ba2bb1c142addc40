"""The optimizers of this library beside their peers: test functions, runners, digits, cost and the report."""
