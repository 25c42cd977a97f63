"""What images of ours say of themselves."""

from __future__ import annotations

import hashlib
from pathlib import Path

IMAGE = "aem.image"
"""On every image of ours; the value says of what kind: `root`, `base`, `package`, `derived`."""
NAME = "aem.image.name"
"""The name it was made under: what is built on an image of ours inherits its labels, and is not."""
RECIPE = "aem.image.recipe"
"""A hash of how such images are made: one that bears another is made anew."""
PARENT = "aem.image.parent"
"""Id of the image that it was made from."""
WAY = "aem.image.way"
"""Where its Python came from, in words."""

_LAYOUT = "2"
"""Counts up when images have to be laid out differently from before."""


def setup_files() -> dict[str, bytes]:
    """What makes a base, by name: `setup.sh` and what it reads."""
    folder = Path(__file__).parent
    return {name: (folder / name).read_bytes() for name in ("setup.sh", "requirements.txt")}


def recipe() -> str:
    """The value of `RECIPE` of what is made now."""
    content = b"\0".join([_LAYOUT.encode(), *setup_files().values()])
    return hashlib.sha256(content).hexdigest()[:12]
