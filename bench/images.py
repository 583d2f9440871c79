"""The images that the contenders move."""

from __future__ import annotations

import re

import click
from attrs import frozen

SMALLEST_MIB = 8
"""The guest's ring of blocks needs the first five of them."""

_GIVEN = re.compile(r"(?P<name>[^=]+)=(?P<size>\d+):(?P<data>\d+)")


@frozen
class Image:
    """A guest's disk: its size, and how much of it is data. Snapshots and their memory come on top."""

    name: str
    size_mib: int
    data_mib: int

    def __str__(self) -> str:
        return self.name


def _pair(name: str, size_mib: int) -> tuple[Image, Image]:
    """With an eighth of data, and with all but an eighth."""
    eighth_mib = size_mib // 8
    full_mib = size_mib - eighth_mib
    return Image(f"{name} sparse", size_mib, eighth_mib), Image(f"{name} full", size_mib, full_mib)


IMAGES = (*_pair("256 MiB", 256), *_pair("1 GiB", 1024), *_pair("4 GiB", 4096))


class ImageType(click.ParamType[Image]):
    """``NAME=SIZE_MIB:DATA_MIB``, or the name alone of one of the usual ones."""

    name = "image"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Image:
        """Fails with the usual ones' names."""
        if isinstance(value, Image):
            return value
        for image in IMAGES:
            if image.name == value:
                return image
        if not (given := _GIVEN.fullmatch(str(value))):
            usual = ", ".join(image.name for image in IMAGES)
            self.fail(f"{value!r} is neither NAME=SIZE_MIB:DATA_MIB nor one of: {usual}", param, ctx)
        image = Image(given["name"], int(given["size"]), int(given["data"]))
        if image.size_mib < SMALLEST_MIB or image.data_mib > image.size_mib:
            self.fail(f"{value!r}: at least {SMALLEST_MIB} MiB, and no more data than that", param, ctx)
        return image
