"""What other frameworks are given: one file each, which alone imports its framework, when it is used.

Nothing is imported here: `from pytorch_bfo_optimizer.adapters.tensorboard import TensorBoardSink`.
"""
