"""Training. Raises InputError on import where the extra `train` is not installed."""

from boxwright.extras import import_extra

for _package in ("accelerate", "tensorboard"):
    import_extra(_package, "train")
