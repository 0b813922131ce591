"""The YAML file that describes a data set (docs/data.md)."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from boxwright import config
from boxwright.data import text

SUFFIXES = (".yaml", ".yml")


class DataFile(config.Config):
    """The content of the file."""

    root: str = Field("", validation_alias=pydantic.AliasChoices("root", "path"))
    kind: str = "auto"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    images: str | None = None
    crowd: Literal["", "objects", "regions"] = ""
    names: Annotated[tuple[str, ...], pydantic.BeforeValidator(text.parse_class_names)] | None = None
    nc: int | None = None  # number of names, in YOLO's files

    @pydantic.model_validator(mode="after")
    def _counts_agree(self) -> "DataFile":
        if self.nc is not None and self.names is not None and self.nc != len(self.names):
            raise ValueError(f"nc is {self.nc}, names holds {len(self.names)} names")
        return self


def read(file: Path) -> DataFile:
    """Read the file. Raises InputError if it cannot be read or has an invalid value."""
    return config.validate(DataFile, config.read_yaml(file), str(file))
