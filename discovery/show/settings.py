"""What can be asked of a picture of a circuit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from discovery.choices.fields import Count, Fields

Style = Literal["grid", "layered", "spans", "table"]
Format = Literal["svg", "pdf", "png", "tex"]


class DrawSettings(Fields):
    """One picture."""

    run: Annotated[str, Field(min_length=1)]  # a run folder, or a circuit file
    style: Style = "grid"
    format: Format = "svg"
    edges: Count | None = None  # only so many, those with the strongest effects or scores
    title: str | None = None  # above it; None: task and model
    caption: str | None = None  # below the title; None: method, size and how good it is
    out: str | None = None  # the file; None: circuit_STYLE.FORMAT in the run folder

    @model_validator(mode="after")
    def _possible(self) -> DrawSettings:
        if self.format == "tex" and self.style != "table":
            raise ValueError(f"format=tex: only a table is written so; style={self.style} is not")
        if self.out is not None and Path(self.out).suffix != f".{self.format}":
            raise ValueError(f"out={self.out!r}: it must end in .{self.format}, as format says")
        return self

    @property
    def path(self) -> Path:
        """Where the picture goes."""
        if self.out is not None:
            return Path(self.out)
        run = Path(self.run)
        return (run if run.is_dir() else run.parent) / f"circuit_{self.style}.{self.format}"
