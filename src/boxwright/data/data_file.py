"""The YAML file that describes a data set (docs/data.md)."""

from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field

from boxwright import config
from boxwright.config import ClassName
from boxwright.data import text

SUFFIXES = (".yaml", ".yml")


def _as_text(value: Any) -> Any:
    """Class names that YAML reads as whole numbers become text, as in `names`."""
    if not isinstance(value, dict):
        return value
    return {str(key) if type(key) is int else key: str(new) if type(new) is int else new for key, new in value.items()}


# Class of the set -> new name, `drop` or `ignore`
ClassMap = Annotated[dict[str, Annotated[ClassName, Field(min_length=1)]], pydantic.BeforeValidator(_as_text)]


class DataFile(config.Config):
    """The content of the file."""

    root: str = Field("", validation_alias=pydantic.AliasChoices("root", "path"))
    kind: str = "auto"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    images: str | None = None
    names: Annotated[tuple[str, ...], pydantic.BeforeValidator(text.parse_class_names)] | None = None
    nc: int | None = None  # number of names, in YOLO's files
    class_map: ClassMap = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _counts_agree(self) -> "DataFile":
        if self.nc is not None and self.names is not None and self.nc != len(self.names):
            raise ValueError(f"nc is {self.nc}, names holds {len(self.names)} names")
        return self


def read(file: Path) -> DataFile:
    """Read the file. Raises InputError if it cannot be read or has an invalid value."""
    return config.validate(DataFile, config.read_yaml(file), str(file))
