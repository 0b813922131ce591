"""`python -m boxwright`, which is what torchrun starts."""

from boxwright.cli import main

main()
