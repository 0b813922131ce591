"""Training. Raises InputError on import where the extra `train` is not installed."""

from boxwright.predict.backend import extra

for _package in ("accelerate", "tensorboard"):
    extra(_package, "train")
