"""The built-in cases: real work, small enough for two cores. Each module has `workload` and a factory `train_step`."""
